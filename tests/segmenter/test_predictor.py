"""`Segmenter`: one case at a time, and streams."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdal_sdk import Segmenter as AnySegmenter
from cdal_sdk.errors import DomainError, EngineError, ModelError, ReadError, UsageError
from cdal_sdk.study import Source, Study
from tests.conftest import WriteSeries
from tests.segmenter.conftest import write_volume

Segmenter = partial(AnySegmenter, engine="torch")  # eager: tracing takes longer than all else here


def test_a_result_lies_on_the_grid_of_its_source(volume_model: Path, tmp_path: Path) -> None:
    result = Segmenter(volume_model)(write_volume(tmp_path / "a.nii.gz"))

    assert result.mask.shape == (11, 13, 7)
    assert result.mask.dtype == np.uint8
    assert set(np.unique(result.mask)) == {0, 1, 2}
    assert result.probability.shape == result.spread.shape == (2, 11, 13, 7)
    assert 0 <= result.probability.min() <= result.probability.max() <= 1
    voxel_ml = 1.2 / 1000
    assert result.volumes["Anterior"].volume_ml == pytest.approx((result.mask == 1).sum() * voxel_ml, rel=1e-5)


def test_the_volume_lies_within_its_interval(volume_model: Path, tmp_path: Path) -> None:
    for size in Segmenter(volume_model)(write_volume(tmp_path / "a.nii.gz")).volumes.values():
        assert size.volume_ml is not None
        assert size.volume_ml_interval is not None
        low, high = size.volume_ml_interval
        assert low < size.volume_ml < high


def test_results_depend_on_neither_engine_nor_batch_nor_order(volume_model: Path, tmp_path: Path) -> None:
    paths = [write_volume(tmp_path / f"{seed}.nii.gz", seed) for seed in range(3)]
    reference = [Segmenter(volume_model, engine="torch", batch_size=100)(path) for path in paths]

    streamed = list(Segmenter(volume_model, engine="torchscript", batch_size=3).stream(reversed(paths)))

    for expected, found in zip(reference, reversed(streamed), strict=True):
        assert found.case == expected.case
        np.testing.assert_allclose(found.probability, expected.probability, atol=1e-5)
        assert (found.mask != expected.mask).mean() < 0.001


def test_seed_and_votes_change_the_result_and_repeat_it(volume_model: Path, tmp_path: Path) -> None:
    path = write_volume(tmp_path / "a.nii.gz")
    first, again = (Segmenter(volume_model, seed=5)(path).probability for _ in range(2))

    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, Segmenter(volume_model, seed=6)(path).probability, atol=1e-3)
    assert not np.allclose(first, Segmenter(volume_model, seed=5, votes=3)(path).probability, atol=1e-3)


def test_building_an_engine_is_told_at_its_first_use(volume_model: Path) -> None:
    told: list[str] = []
    for _ in range(2):
        Segmenter(volume_model, engine="torchscript", seed=1234, progress=told.append)
    assert told == [
        "building the engine torchscript in fp32, once on this machine",
        "holding the engine torchscript in fp32 against the reference, once on this machine",
    ]


def test_one_vote_has_no_spread(volume_model: Path, tmp_path: Path) -> None:
    assert not Segmenter(volume_model, votes=1)(write_volume(tmp_path / "a.nii.gz")).spread.any()


def test_a_mirrored_source_gives_the_mirrored_mask(volume_model: Path) -> None:
    values = np.random.default_rng(0).random((1, 12, 10, 6)).astype(np.float32)
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    mirrored = affine @ np.array([[-1, 0, 0, 11], [0, 1, 0, 0], [0, 0, -1, 5], [0, 0, 0, 1.0]])
    segmenter = Segmenter(volume_model)

    plain = segmenter(Study("plain", values, affine, Source("array")))
    flipped = segmenter(Study("flipped", values[:, ::-1, :, ::-1].copy(), mirrored, Source("array")))

    np.testing.assert_array_equal(flipped.mask[::-1, :, ::-1], plain.mask)


def test_arrays_and_pictures(volume_model: Path, planar_model: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 255, (20, 30), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "gray.png")
    Image.fromarray(values).convert("RGB").save(tmp_path / "gray_as_rgb.png")
    segmenter = Segmenter(planar_model)

    from_array = segmenter(values)
    assert from_array.mask.shape == (20, 30)
    assert 0 < from_array.mask.mean() < 1
    np.testing.assert_array_equal(segmenter(tmp_path / "gray.png").mask, from_array.mask)
    np.testing.assert_array_equal(segmenter(tmp_path / "gray_as_rgb.png").mask, from_array.mask)
    assert segmenter(values, spacing=(0.5, 2.0)).volumes["Anterior"].area_mm2 == from_array.mask.sum()

    assert Segmenter(volume_model)(values[:18, :20].reshape(8, 9, 5)).mask.shape == (8, 9, 5)
    with pytest.raises(UsageError, match="no volume"):
        Segmenter(volume_model)(np.zeros((8, 9)))
    with pytest.raises(ReadError, match="no numbers"):
        segmenter(np.full((4, 4), np.nan))


@pytest.mark.parametrize(
    "spacing",
    [(0.5,), (1.0, 1.0, 1.0), (-1.0, 1.0), (0.0, 1.0), (float("nan"), 1.0), (float("inf"), 1.0), 1.0, ("x", 1)],
)
def test_the_spacing_of_a_picture_is_two_lengths(planar_model: Path, spacing: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match=r"^spacing is .*give 2 numbers above 0"):
        Segmenter(planar_model)(np.zeros((20, 30)), spacing=spacing)


def test_the_spacing_of_a_volume_is_three_lengths(volume_model: Path) -> None:
    with pytest.raises(UsageError, match=r"^spacing is \(1\.0, 1\.0\).*give 3 numbers above 0"):
        Segmenter(volume_model)(np.zeros((8, 9, 5)), spacing=(1.0, 1.0))


def test_a_spacing_is_for_arrays(planar_model: Path, tmp_path: Path) -> None:
    Image.new("L", (30, 20)).save(tmp_path / "a.png")
    study = Study("a", np.zeros((1, 20, 30, 1), np.float32), None, Source("array"))
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), study):
        with pytest.raises(UsageError, match=r"tells its own name and spacing; leave them out, or give an array"):
            Segmenter(planar_model)(source, spacing=(1.0, 1.0))
        with pytest.raises(UsageError, match="tells its own name"):
            Segmenter(planar_model)(source, case="b")


def test_arrays_are_named_so_that_they_can_share_a_folder(planar_model: Path, tmp_path: Path) -> None:
    segmenter = Segmenter(planar_model)
    for case in ("one", "two"):
        assert segmenter(np.zeros((20, 30)), case=case).save(tmp_path)[0] == tmp_path / f"{case}.png"
    for case in ("", "a/b", ".."):
        with pytest.raises(UsageError, match="no name for files"):
            segmenter(np.zeros((20, 30)), case=case)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((20, 30), complex),
        np.array([["a"]]),
        np.zeros((0, 30)),
        np.ma.masked_less(np.arange(600.0).reshape(20, 30), 5),
    ],
    ids=["complex", "text", "empty", "masked"],
)
def test_an_array_holds_a_real_number_everywhere(planar_model: Path, array: np.ndarray) -> None:
    with pytest.raises(UsageError, match="real number everywhere"):
        Segmenter(planar_model)(array)


def test_an_empty_text_is_not_the_current_folder(planar_model: Path) -> None:
    segmenter = Segmenter(planar_model)
    for call in (
        segmenter,
        lambda source: next(segmenter.stream(source)),
        lambda source: next(segmenter.stream([source])),
    ):
        with pytest.raises(UsageError, match="empty text"):
            call("")


def test_cases_never_share_a_batch(planar_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a result is the same to the bit whatever comes beside it."""
    for seed in range(3):
        values = np.random.default_rng(seed).integers(0, 255, (20, 30), dtype=np.uint8)
        Image.fromarray(values).save(tmp_path / f"{seed}.png")
    segmenter = Segmenter(planar_model, batch_size=8)
    alone = segmenter(tmp_path / "1.png").probability
    sizes, run = [], segmenter.engine.run
    monkeypatch.setattr(segmenter.engine, "run", lambda images: sizes.append(len(images)) or run(images))

    streamed = {result.case: result.probability for result in segmenter.stream(tmp_path)}

    assert sizes == [1, 1, 1]
    np.testing.assert_array_equal(streamed["1"], alone)


def test_a_volume_larger_than_the_canvas_is_tiled(volume_model: Path) -> None:
    values = np.random.default_rng(0).random((40, 25, 3)).astype(np.float32)
    result = Segmenter(volume_model, force=True)(values)
    assert result.mask.shape == values.shape
    assert np.isfinite(result.probability).all()


def test_a_dicom_series_is_one_case(volume_model: Path, write_series: WriteSeries) -> None:
    series = write_series()
    result = Segmenter(volume_model)(series.folder)
    assert result.case == series.uid
    assert result.mask.shape == series.voxels.shape


def test_a_stream_goes_on_after_a_failed_case(volume_model: Path, tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz")
    (tmp_path / "b.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes()[:500])
    write_volume(tmp_path / "c.nii.gz")

    results = {result.case: result for result in Segmenter(volume_model).stream(tmp_path)}

    assert [result.error is None for result in results.values()] == [True, False, True]
    assert isinstance(results["b"].error, ReadError)
    with pytest.raises(ReadError):
        _ = results["b"].mask


def test_an_abandoned_stream_ends(volume_model: Path, tmp_path: Path) -> None:
    for seed in range(4):
        write_volume(tmp_path / f"{seed}.nii.gz", seed)
    stream = Segmenter(volume_model).stream(tmp_path)
    assert next(stream).case == "0"
    stream.close()


def test_outside_the_domain(volume_model: Path, planar_model: Path, tmp_path: Path) -> None:
    large = write_volume(tmp_path / "large.nii.gz", shape=(60, 60, 4))
    with pytest.raises(DomainError, match=r"field of view is 60 x 60 x 4.8 mm.*5 to 40 mm"):
        Segmenter(volume_model)(large)
    assert Segmenter(volume_model, force=True)(large).mask.shape == (60, 60, 4)

    Image.new("RGB", (10, 10), (1, 2, 3)).save(tmp_path / "colour.png")
    with pytest.raises(DomainError, match="the image is RGB, the model takes gray"):
        Segmenter(planar_model, force=True)(tmp_path / "colour.png")
    with pytest.raises(DomainError, match="a volume, the model was trained on planar images"):
        Segmenter(planar_model)(large)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": "no-such-model"}, ModelError, "no-such-model"),
        ({"engine": "warp"}, UsageError, "warp"),
        ({"votes": 0}, UsageError, "votes"),
        ({"seed": -1}, UsageError, "seed"),
        ({"batch_size": 0}, UsageError, "batch size"),
    ],
)
def test_impossible_settings(
    volume_model: Path, arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Segmenter(**{"model": volume_model, **arguments})  # type: ignore[arg-type]


def test_an_engine_that_returns_no_numbers_is_an_error(
    volume_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = Segmenter(volume_model, engine="torch")
    run = segmenter.engine.run
    monkeypatch.setattr(segmenter.engine, "run", lambda images: run(images * np.float32("nan")))
    with pytest.raises(EngineError, match="no numbers"):
        segmenter(write_volume(tmp_path / "a.nii.gz"))
