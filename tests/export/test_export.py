"""Export: what is written runs like the checkpoint, and what disagrees is refused."""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cdal_export.exporter import ExportOptions, export_model
from cdal_export.images import choose_images
from cdal_sdk import Segmenter
from cdal_sdk.bundle import GATE_FILE, checkpoint_content, load_model, read_manifest, save_checkpoint
from cdal_sdk.cli.app import app
from cdal_sdk.confidence import Confidence
from cdal_sdk.digest import sha256
from cdal_sdk.engines import BuiltEngine, Engine, FoldedSampler, VoteMaps, torchscript
from cdal_sdk.engines.eager import TorchEngine
from cdal_sdk.errors import (
    DomainError,
    EngineError,
    GateError,
    MissingExtraError,
    ModelError,
    OutputError,
    UsageError,
)
from cdal_sdk.example import example_study
from cdal_sdk.gate import Agreement, Gate, Limits
from cdal_sdk.gate_images import gate_images, judged_by
from cdal_sdk.study import Study
from tests.segmenter.conftest import write_volume
from tests.tiny_model import PLANAR, VOLUME, save_tiny, tiny_generator

SCRIPT = ExportOptions(engines=("torchscript",))


@pytest.fixture(autouse=True)
def small_gate(monkeypatch: pytest.MonkeyPatch) -> Study:
    """A corner of the synthetic example: the gate's image, small enough for many exports."""
    whole = example_study()
    study = replace(whole, image=whole.image[:, 10:22, 20:34, 12:16])
    monkeypatch.setattr("cdal_sdk.gate_images.example_study", lambda: study)
    return study


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save_checkpoint(checkpoint_content(VOLUME, tiny_generator(VOLUME).state_dict()), tmp_path / "best.pt")
    return tmp_path / "best.pt"


def test_an_exported_model_gives_the_checkpoints_masks(checkpoint: Path, tmp_path: Path) -> None:
    exported = export_model(checkpoint, tmp_path / "best.cdal", replace(SCRIPT, seed=3, votes=4))

    assert (exported.manifest.seed, exported.manifest.votes) == (3, 4)
    assert exported.engines[0].agreement.flips == 0
    path = write_volume(tmp_path / "a.nii.gz")
    ours = Segmenter(tmp_path / "best.cdal", engine="torchscript")(path)
    theirs = Segmenter(checkpoint, seed=3, votes=4, engine="torch")(path)
    np.testing.assert_allclose(ours.probability, theirs.probability, atol=1e-5)


def test_other_votes_leave_no_calibration_behind(tmp_path: Path) -> None:
    """In the report of a run neither: it says what intervals are worth."""
    confidence = Confidence(interval_scale=2.0, coverage=0.9, cases=20)
    calibrated = replace(VOLUME, confidence=confidence, provenance=replace(VOLUME.provenance, metrics={"dice": 0.9}))
    save_checkpoint(checkpoint_content(calibrated, tiny_generator(VOLUME).state_dict()), tmp_path / "best.pt")
    told: list[str] = []
    same = export_model(tmp_path / "best.pt", tmp_path / "same", SCRIPT, told.append).manifest
    assert (same.confidence, same.provenance.metrics) == (confidence, {"dice": 0.9})
    assert not [line for line in told if "calibrate" in line]
    other = export_model(tmp_path / "best.pt", tmp_path / "other", replace(SCRIPT, votes=3), told.append).manifest
    assert (other.votes, other.confidence.coverage, other.confidence.cases) == (3, None, 0)
    assert (other.confidence.interval_scale, other.provenance.metrics) == (2.0, {})
    assert [line for line in told if "calibrate" in line]


def test_a_network_as_deep_as_its_canvas_exports(tmp_path: Path) -> None:
    """The divisor leaves room for a single tile, also for the example that is traced."""
    deep = replace(
        VOLUME,
        network=replace(VOLUME.network, multipliers=(1, 1, 1, 1, 1)),
        plan=replace(VOLUME.plan, divisor=16),
    )
    assert export_model(save_tiny(deep, tmp_path / "deep"), tmp_path / "out", SCRIPT).engines[0].agreement.flips == 0


def test_there_must_be_images_to_keep(checkpoint: Path, tmp_path: Path) -> None:
    """A synthetic one says nothing that is not known without it."""
    with pytest.raises(UsageError, match="no images to keep; give some by --data"):
        export_model(checkpoint, tmp_path / "out", replace(SCRIPT, keep_images=True))
    write_volume(tmp_path / "data/x.nii.gz")
    first = export_model(checkpoint, tmp_path / "out", replace(SCRIPT, keep_images=True, data=tmp_path / "data"))
    again = export_model(first.folder, tmp_path / "again", replace(SCRIPT, keep_images=True))
    assert again.gate_images == "images that travel with the model"


def test_what_auto_chose_is_not_written_twice(checkpoint: Path, tmp_path: Path) -> None:
    chosen = export_model(checkpoint, tmp_path / "out", ExportOptions()).engines[0].name
    exported = export_model(checkpoint, tmp_path / "both", ExportOptions(engines=("auto", chosen)))
    assert [engine.name for engine in exported.engines] == [chosen]


def test_an_export_does_not_replace_its_source(tmp_path: Path) -> None:
    folder = save_tiny(VOLUME, tmp_path / "tiny")
    with pytest.raises(UsageError, match="replace its own source"):
        export_model(folder, folder)


def test_half_precision_halves_the_weights_and_the_engine_computes_with_them(checkpoint: Path, tmp_path: Path) -> None:
    full, half = (
        export_model(checkpoint, tmp_path / name, replace(SCRIPT, precision=precision))
        for name, precision in (("full", "fp32"), ("half", "fp16"))
    )

    size = {e.folder.name: (e.folder / "weights.safetensors").stat().st_size for e in (full, half)}
    assert size["half"] < 0.75 * size["full"]
    images = np.random.default_rng(0).random((2, 3, 8, 12)).astype(np.float32)
    scripted = Segmenter(half.folder, engine="torchscript").engine.run(images)
    eager = Segmenter(half.folder, engine="torch").engine.run(images)
    np.testing.assert_allclose(scripted.mean, eager.mean, atol=1e-5)


def test_a_model_folder_exports_again(checkpoint: Path, tmp_path: Path) -> None:
    first = export_model(checkpoint, tmp_path / "first", SCRIPT)
    second = export_model(first.folder, tmp_path / "second", SCRIPT)
    assert load_model(first.folder).weights_sha256 == load_model(second.folder).weights_sha256


def test_planar_models_and_real_images(tmp_path: Path) -> None:
    planar = save_tiny(PLANAR, tmp_path / "planar")
    assert export_model(planar, tmp_path / "a", SCRIPT).gate_images == "a synthetic image"
    volume = save_tiny(VOLUME, tmp_path / "volume")
    write_volume(tmp_path / "data/x.nii.gz")
    assert "1 case(s)" in export_model(volume, tmp_path / "b", replace(SCRIPT, data=tmp_path / "data")).gate_images


def write_pictures(folder: Path, count: int, side: int) -> Path:
    """Gray pictures, each of one value, 6 times its number."""
    for number in range(count):
        Image.fromarray(np.full((side, side), 6 * number, np.uint8)).save(folder / f"{number:02d}.png")
    return folder


def numbers(cases: Sequence[np.ndarray]) -> list[int]:
    """Of the pictures behind images."""
    return [round((float(images.mean()) + 1) / 2 * 255 / 6) for images in cases]


def test_pictures_are_chosen_evenly_and_int8_is_judged_by_others_than_it_was_calibrated_on(tmp_path: Path) -> None:
    write_pictures(tmp_path, 31, 16)
    plain = choose_images(PLANAR, tmp_path, [], int8=False)
    assert plain.described == f"16 case(s) of {tmp_path}"
    assert (numbers(plain.gate), plain.calibration) == ([*range(0, 31, 2)], ())
    quantised = choose_images(PLANAR, tmp_path, [], int8=True)
    assert numbers(quantised.gate) == [*range(1, 31, 2)]
    assert numbers(quantised.calibration) == [*range(0, 31, 2)]


def test_of_a_folder_for_training_the_masks_are_no_images(tmp_path: Path) -> None:
    for number, name in enumerate(("images", "masks")):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((16, 16), 100 * number + 50, np.uint8)).save(tmp_path / name / "a.png")
    (images,) = choose_images(PLANAR, tmp_path, [], int8=False).gate
    assert images.max() < 0


def test_large_tiles_come_from_fewer_cases_and_their_pixels_are_limited(tmp_path: Path) -> None:
    tiled = replace(PLANAR, plan=replace(PLANAR.plan, fit="tile", canvas=(288, 288)))
    write_pictures(tmp_path, 7, 600)
    chosen = choose_images(tiled, tmp_path, [], int8=True)
    assert (numbers(chosen.gate), numbers(chosen.calibration)) == ([1, 5], [0, 2, 3, 4, 6])
    assert {images.shape for images in (*chosen.gate, *chosen.calibration)} == {(1, 1, 288, 288)}


def test_a_single_case_gives_as_many_images_as_have_the_pixels(small_gate: Study) -> None:
    height, width = 12, 14
    assert [len(gate_images(small_gate, VOLUME.plan, n * height * width)) for n in (0, 1, 3, 100)] == [1, 1, 3, 4]


def test_the_reference_runs_once_for_the_end_and_the_steps(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    run = TorchEngine._run
    monkeypatch.setattr(TorchEngine, "_run", lambda self, x, noise: ran.append(len(x)) or run(self, x, noise))
    exported = export_model(checkpoint, tmp_path / "out", SCRIPT)
    assert ran == [4]
    assert len(exported.engines[0].steps) == 2


def test_auto_tries_an_engine_in_float32_before_the_next_one(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    openvino_cpu = pytest.importorskip("cdal_sdk.engines.openvino_cpu")
    monkeypatch.setattr(type(openvino_cpu.BUILDER), "precisions", lambda *_: ("bf16", "fp32"))
    check = Gate.check

    def strict(self: Gate, engine: BuiltEngine) -> Agreement:
        if engine.precision == "bf16":
            raise GateError("it disagrees", where="engine")
        return check(self, engine)

    monkeypatch.setattr(Gate, "check", strict)
    said: list[str] = []
    exported = export_model(checkpoint, tmp_path / "out", ExportOptions(precision="fp16"), said.append)
    assert [(engine.name, engine.precision) for engine in exported.engines] == [("openvino", "fp32")]
    assert any("openvino in bf16 is passed over" in line for line in said)


def test_a_place_that_cannot_be_written_is_told_before_anything_is_built(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchscript.BUILDER, "build", lambda *_: pytest.fail("it was built"), raising=False)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        export_model(checkpoint, tmp_path / "file/out", SCRIPT)


def test_a_full_disk_is_told(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torchscript.BUILDER, "build", full, raising=False)
    with pytest.raises(OutputError, match="check the free space"):
        export_model(checkpoint, tmp_path / "out", SCRIPT)


@pytest.mark.parametrize("engine", ["torchscript", "onnx", "openvino"])
def test_a_broken_engine_is_refused_and_nothing_written(
    engine: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One weight of the folded graph differs from the reference's; every engine is made of that graph."""
    if engine != "torchscript":
        pytest.importorskip("onnx")
        pytest.importorskip({"onnx": "onnxruntime"}.get(engine, engine))
    build = FoldedSampler.__init__

    def broken(self: FoldedSampler, *arguments: object, **further: object) -> None:
        build(self, *arguments, **further)  # type: ignore[arg-type]
        self.generator.out.weight.neg_()

    monkeypatch.setattr(FoldedSampler, "__init__", broken)
    with pytest.raises(GateError, match=rf"{engine}.*disagrees with the float32 reference"):
        export_model(checkpoint, tmp_path / "best.cdal", ExportOptions(engines=(engine,)))
    assert not (tmp_path / "best.cdal").exists()


def test_free_noise_is_exported_gated_twice_and_used_for_any_seed(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[np.ndarray] = []
    compare = Gate.compare

    def watched(self: Gate, engine: Engine) -> Agreement:
        compared.extend(side.run(self.images[0]).mean for side in (engine, self._reference))
        return compare(self, engine)

    monkeypatch.setattr(Gate, "compare", watched)
    exported = export_model(checkpoint, tmp_path / "best.cdal", replace(SCRIPT, free_noise=True))
    first, reference_s, second, second_reference_s = compared
    np.testing.assert_allclose(first, reference_s, atol=1e-5)
    np.testing.assert_allclose(second, second_reference_s, atol=1e-5)
    assert np.abs(first - second).max() > 1e-3, "the second is run with other noise"
    description = json.loads((exported.folder / "engines/torchscript-cpu-fp32-free-noise.json").read_text())
    assert (description["fingerprint"]["free_noise"], description["fingerprint"]["seed"]) == (True, None)
    assert [step[:7] for step in description["steps"]] == ["step 1:", "step 0:"]

    monkeypatch.setattr(torchscript.BUILDER, "build", lambda *_: pytest.fail("it is stored"), raising=False)
    path = write_volume(tmp_path / "a.nii.gz")
    ours = Segmenter(exported.folder, engine="torchscript", seed=11)(path)
    theirs = Segmenter(checkpoint, engine="torch", seed=11)(path)
    np.testing.assert_allclose(ours.probability, theirs.probability, atol=1e-5)


def test_an_engine_without_free_noise_says_so(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="the extra [tensorrt-rtx] is not installed")
    with pytest.raises(EngineError, match="takes its noise as constants only"):
        export_model(checkpoint, tmp_path / "out", ExportOptions(engines=("tensorrt-rtx",), free_noise=True))


class Altered:
    """An engine whose answers are changed on the way out."""

    name = "altered"
    device = "cpu"
    precision = "fp32"

    def __init__(self, engine: Engine, change: float, spread_factor: float = 1.0) -> None:
        self.engine, self.change, self.spread_factor = engine, change, spread_factor

    def run(self, images: np.ndarray) -> VoteMaps:
        mean, spread = self.engine.run(images)
        with np.errstate(invalid="ignore"):  # 0 * inf
            mean = mean + np.float32(self.change) * np.arange(3, dtype=np.float32)[:, None, None]
        return VoteMaps(mean, spread * np.float32(self.spread_factor))


def reference() -> TorchEngine:
    return TorchEngine(tiny_generator(VOLUME), VOLUME.sampling(), "cpu")


@pytest.mark.parametrize(
    ("change", "passes"), [(0.0, True), (1.0, False), (float("nan"), False), (float("inf"), False)]
)
def test_the_gate(change: float, passes: bool, small_gate: Study) -> None:
    images = [gate_images(small_gate, VOLUME.plan, 10_000)]
    agreement = Gate(VOLUME, reference(), images).compare(Altered(reference(), change))
    assert agreement.passes(Limits()) is passes
    assert agreement.finite is bool(np.isfinite(change))


def test_an_engine_that_fails_as_it_runs_is_an_error_that_auto_can_take(small_gate: Study) -> None:
    """Libraries compile at the first run, or lack the memory then, and raise what they like."""
    broken = Altered(reference(), 0.0)
    broken.engine = None  # type: ignore[assignment]
    images = [gate_images(small_gate, VOLUME.plan, 10_000)]
    with pytest.raises(EngineError, match=r"engine 'altered': it does not run here \('NoneType'"):
        Gate(VOLUME, reference(), images).check(broken)
    with pytest.raises(AttributeError):  # a reference that fails is nobody else's fault
        Gate(VOLUME, broken, images).check(reference())


def test_a_gate_judges_by_its_images_and_the_way_to_a_mask() -> None:
    found = [
        judged_by(PLANAR),
        judged_by(replace(PLANAR, polarity=-PLANAR.polarity)),
        judged_by(replace(PLANAR, plan=replace(PLANAR.plan, canvas=(32, 32)))),
        judged_by(PLANAR.with_files({GATE_FILE: "one"})),
        judged_by(PLANAR.with_files({GATE_FILE: "another"})),
    ]
    assert len(set(found)) == len(found)
    assert judged_by(PLANAR.with_files({GATE_FILE: "one", "engines/x": "more"})) == found[3]


@pytest.mark.parametrize(("factor", "passes"), [(0.98, True), (0.0, False), (1.1, False)])
def test_a_spread_that_is_not_the_reference_s_is_refused(factor: float, passes: bool, small_gate: Study) -> None:
    """Though the masks are the same: intervals and reviews follow from it."""
    images = [gate_images(small_gate, VOLUME.plan, 10_000)]
    agreement = Gate(VOLUME, reference(), images).compare(Altered(reference(), 0.0, factor))
    assert (agreement.flips, agreement.shifts) == (0.0, 0.0)
    assert agreement.spread_change == pytest.approx(abs(1 - factor), rel=1e-3)
    assert agreement.passes(Limits()) is passes


class Answering:
    """An engine that gives one map whatever it sees."""

    name, device, precision = "answering", "cpu", "fp32"

    def __init__(self, mean: np.ndarray, spread: np.ndarray | float = 0.0) -> None:
        self.mean, self.spread = mean.astype(np.float32), np.broadcast_to(np.float32(spread), mean.shape)
        self.seen: list[np.ndarray] = []

    def run(self, images: np.ndarray) -> VoteMaps:
        return VoteMaps(self.mean, self.spread)

    def probe(self, images: np.ndarray) -> dict[str, np.ndarray]:
        self.seen.append(images)
        return {"mean": self.mean, "spread": self.spread, "step0": self.mean, "step1": self.mean}


def test_a_spread_counts_outside_the_mask_too() -> None:
    """Where it decides the upper end of the interval."""
    column = np.linspace(-1, 1, 64, dtype=np.float32) * -PLANAR.polarity
    mean = np.broadcast_to(column, (1, 1, 64, 64))
    spread = 0.5 - np.abs(mean) / 2
    inside = PLANAR.polarity * mean > 0
    gate = Gate(PLANAR, Answering(mean, spread), [np.zeros((1, 1, 64, 64), np.float32)])
    assert gate.compare(Answering(mean, spread)).passes(Limits())
    for other in (np.where(inside, spread, 0), np.where(inside, spread, 1), np.where(inside, spread, 0.45 * spread)):
        agreement = gate.compare(Answering(mean, other))
        assert agreement.spread_change == 0.0
        assert agreement.spread_shifts > 0.1
        assert agreement.interval_change > 0.03
    even = gate.compare(Answering(mean, np.full_like(spread, spread[inside].mean())))
    assert even.spread_change == pytest.approx(0.0, abs=1e-5)
    assert not even.passes(Limits())


def test_images_on_which_the_model_labels_nothing_judge_no_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CDAL_CACHE", str(tmp_path / "cache"))
    generator = tiny_generator(VOLUME)
    with torch.no_grad():
        generator.out.bias.copy_(torch.tensor([9.0, -9.0, -9.0]))
    save_checkpoint(checkpoint_content(VOLUME, generator.state_dict()), tmp_path / "best.pt")
    silent = tmp_path / "best.pt"
    for precision in ("fp32", "fp16"):
        with pytest.raises(GateError, match=r"labels nothing on these images.*give images that show"):
            export_model(silent, tmp_path / "out", replace(SCRIPT, engines=("auto",), precision=precision))
    assert not (tmp_path / "out").exists()
    caplog.clear()
    assert Segmenter(silent).engine.name != "torch", "where there are no others, probabilities judge"
    assert [r.getMessage()[:50] for r in caplog.records].count(
        "a new engine is judged by probabilities alone, sin"
    ) == 1


def test_steps_are_compared_on_images_of_all_cases() -> None:
    engine = Answering(np.full((1, 1, 8, 8), PLANAR.polarity))
    images = [np.full((count, 1, 8, 8), first, np.float32) for first, count in ((0, 1), (1, 2), (2, 3), (3, 1), (4, 2))]
    steps = Gate(PLANAR, engine, images).check_steps(engine, engine)
    assert [step.step for step in steps] == [1, 0]
    assert [int(image[0, 0, 0, 0]) for image in engine.seen[::2]] == [1, 2, 2, 3]


@pytest.mark.parametrize(("where", "passes"), [((0, 0, 0, 0), True), ((0, 0, 0), False)])
def test_probabilities_count_where_both_masks_are_empty_and_by_their_share(
    where: tuple[int, ...], passes: bool
) -> None:
    nothing = np.full((1, 1, 32, 32), -PLANAR.polarity)
    nothing[0, 0, 31, 31] *= -1
    other = nothing.astype(np.float64)
    other[where] *= 0.8  # a tenth of the scale, on one side of the threshold: in one pixel, or in a row of them
    gate = Gate(PLANAR, Answering(nothing), [np.zeros((1, 1, 32, 32), np.float32)])
    agreement = gate.compare(Answering(other))
    assert (agreement.flips, min(agreement.dice.values())) == (0.0, 1.0)
    assert agreement.probability == pytest.approx(0.1, abs=1e-6)
    assert agreement.shifts == other[where].size / other.size
    assert agreement.passes(Limits()) is passes


def test_each_limit_counts() -> None:
    fine = Agreement({"a": 0.999}, 0.0, 0.0, 0.3, 0.0, 0.0, 0.0, 0.0, finite=True, images=1)
    assert fine.passes(Limits())
    for worse in (
        {"dice": {"a": 0.999, "b": 0.99}},
        {"flips": 0.0021},
        {"shifts": 0.0021},
        {"volume_change": 0.011},
        {"spread_shifts": 0.0021},
        {"spread_change": 0.051},
        {"interval_change": 0.031},
        {"finite": False},
    ):
        assert not replace(fine, **worse).passes(Limits())


def test_errors(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model"):
        export_model(tmp_path / "nothing.pt", tmp_path / "out")
    (tmp_path / "busy").mkdir()
    (tmp_path / "busy/thesis.doc").write_text("precious")
    with pytest.raises(OutputError, match="no model folder"):
        export_model(checkpoint, tmp_path / "busy")
    assert (tmp_path / "busy/thesis.doc").read_text() == "precious"


def test_an_engine_that_cannot_be_had_is_told_before_a_model_is_loaded(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("cdal_export.exporter.load_model", lambda _: pytest.fail("it loads the model"))
    if not torch.cuda.is_available():
        with pytest.raises(EngineError, match="'cuda-graph' can only be built on a cuda device; use --engine auto"):
            export_model("hippocampus", tmp_path / "out", ExportOptions(engines=("cuda-graph",)))
    monkeypatch.setattr("cdal_sdk.engines.registry.importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"cdal-sdk\[tensorrt\]"):
        export_model("hippocampus", tmp_path / "out", ExportOptions(engines=("auto", "tensorrt")))


def test_an_image_that_the_model_refuses_is_to_be_left_out(checkpoint: Path, tmp_path: Path) -> None:
    """An export has no --force, which segmenting would offer."""
    path = tmp_path / "data/blank.nii.gz"
    path.parent.mkdir()
    nibabel.save(nibabel.Nifti1Image(np.full((11, 13, 7), 5, np.int16), np.eye(4)), path)
    with pytest.raises(DomainError, match=r"values are all the same.*; leave it out of --data") as refused:
        export_model(checkpoint, tmp_path / "out", replace(SCRIPT, data=path.parent))
    assert "--force" not in str(refused.value)


@pytest.mark.parametrize(
    "flags", [["--precision", "bf16", "--fp16"], ["--bf16", "--fp16"], ["--precision=fp16", "--fp32"]]
)
def test_precisions_exclude_each_other(flags: list[str], tmp_path: Path) -> None:
    order = ["export", "--checkpoint", "hippocampus", "--out", str(tmp_path / "out"), *flags]
    assert "exclude each other" in str(CliRunner().invoke(app, order).exception)


def test_the_manifest_lists_every_file(checkpoint: Path, tmp_path: Path) -> None:
    folder = export_model(checkpoint, tmp_path / "best.cdal", SCRIPT).folder
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {"manifest.json"}
    assert set(read_manifest(folder).files) == files
    fingerprint = json.loads((folder / "engines/torchscript-cpu-fp32.json").read_text())
    assert fingerprint["sha256"] == sha256(folder / "engines/torchscript-cpu-fp32.torchscript.pt")
    assert fingerprint["fingerprint"]["weights"] == load_model(folder).weights_sha256
