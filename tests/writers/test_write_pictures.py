"""Mask PNGs and previews."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image

from cdal_sdk.errors import OutputError
from cdal_sdk.study import Code, Label, Source, Study
from cdal_sdk.writers import write_mask_png, write_preview

CODE = Code("39607008", "Lung")
RED, GREEN = (230, 60, 60), (60, 200, 90)
ONE = (Label("Lungs", 1, CODE, colour=RED),)
TWO = (Label("Anterior", 1, CODE, colour=RED), Label("Posterior", 2, CODE, colour=GREEN))


def volume(shape: tuple[int, int, int], affine: np.ndarray | None = None) -> Study:
    """A volume whose intensity grows along i."""
    image = np.broadcast_to(np.arange(shape[0], dtype=np.float32)[:, None, None], shape)[None].copy()
    return Study("case", image, np.eye(4) if affine is None else affine, Source("array"))


def coloured(path, colour) -> np.ndarray:
    """Where a picture's tiles, without the legend below them, are nearly of a colour."""
    pixels = np.asarray(Image.open(path), dtype=int)[:-60]
    return np.argwhere((np.abs(pixels - colour) < 40).all(axis=-1))


def test_one_label_is_white_and_several_keep_their_numbers(tmp_path):
    mask = np.array([[0, 1], [1, 0]], np.uint8)
    write_mask_png(mask, tmp_path / "one.png", ONE)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "one.png")), mask * 255)
    write_mask_png(mask * 2, tmp_path / "two.png", TWO)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "two.png")), mask * 2)
    assert Image.open(tmp_path / "two.png").mode == "L"


def test_a_volume_is_no_picture(tmp_path):
    with pytest.raises(OutputError, match="not one picture"):
        write_mask_png(np.zeros((2, 2, 2), np.uint8), tmp_path / "no.png", ONE)


@pytest.mark.parametrize(
    "shape",
    [(36, 52, 1), (36, 52, 36), (300, 200, 300), (36, 52, 3), (8, 8, 2)],
    ids=lambda shape: "x".join(map(str, shape)),
)
def test_previews_of_any_size_are_legible(tmp_path, shape):
    mask = np.zeros(shape, np.uint8)
    mask[2:-2, 2:-2, : shape[2] // 2 + 1] = 1
    write_preview(volume(shape), mask, tmp_path / "preview.png", TWO)
    width, height = Image.open(tmp_path / "preview.png").size
    assert 700 <= max(width, height) <= 1700
    assert len(coloured(tmp_path / "preview.png", RED))
    assert not len(coloured(tmp_path / "preview.png", GREEN))


@pytest.mark.parametrize(
    "affine",
    [
        np.eye(4),
        np.diag([-1.0, -1.0, 1.0, 1.0]),
        np.array([[0, -1, 0, 0], [0, 0, 1, 0], [-1, 0, 0, 0], [0, 0, 0, 1.0]]),
        np.array([[0.1, -0.99, 0, 0], [0.1, 0, 0.99, 0], [-0.99, 0.1, 0, 0], [0, 0, 0, 1.0]]),
    ],
    ids=["RAS", "LPS", "sagittal", "oblique"],
)
def test_right_is_left_and_anterior_is_up(tmp_path, affine):
    shape = (40, 40, 40)
    indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) - 19.5
    right, anterior, superior = np.moveaxis(indices @ affine[:3, :3].T, -1, 0)
    mask = np.zeros(shape, np.uint8)
    mask[(right > 10) & (abs(anterior) < 6) & (abs(superior) < 1)] = 1
    mask[(anterior > 10) & (abs(right) < 6) & (abs(superior) < 1)] = 2
    write_preview(volume(shape, affine), mask, tmp_path / "preview.png", TWO)
    (red_row, red_column), (green_row, green_column) = (
        coloured(tmp_path / "preview.png", colour).min(axis=0) for colour in (RED, GREEN)
    )
    assert red_column < green_column
    assert green_row < red_row


def test_thick_slices_are_shown_as_acquired(tmp_path):
    study = volume((64, 64, 4), np.array([[0, 0, 6.0, 0], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]]))  # sagittal
    mask = np.zeros((64, 64, 4), np.uint8)
    mask[10:50, 10:50] = 1
    write_preview(study, mask, tmp_path / "preview.png", ONE)
    width, height = Image.open(tmp_path / "preview.png").size
    assert 0.3 < width / height < 3


def test_an_empty_mask_and_a_picture_in_colour(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (3, 50, 80, 1)).astype(np.float32)
    study = Study("case", image, None, Source("array"))
    write_preview(study, np.zeros((50, 80, 1), np.uint8), tmp_path / "preview.png", ONE)
    pixels = np.asarray(Image.open(tmp_path / "preview.png"), dtype=int)
    assert pixels.shape[1] > pixels.shape[0]
    assert np.ptp(pixels[:500], axis=-1).mean() > 30  # still in colour


def test_a_flat_image_has_a_preview(tmp_path):
    study = Study("case", np.full((1, 9, 9, 9), 7, np.float32), np.eye(4), Source("array"))
    write_preview(study, np.zeros((9, 9, 9), np.uint8), tmp_path / "preview.png", ONE)
    with Image.open(tmp_path / "preview.png") as picture:
        assert min(picture.size) > 9


@pytest.mark.parametrize("planar", [True, False])
def test_pixels_with_text_burnt_in_are_not_shown(tmp_path, planar):
    def preview(image, *, burnt_in):
        study = Study("case", image, None if planar else np.eye(4), Source("array"), burnt_in=burnt_in)
        mask = np.zeros(image.shape[1:], np.uint8)
        mask[2:5, 2:5] = 1
        write_preview(study, mask, tmp_path / "preview.png", ONE)
        return (tmp_path / "preview.png").read_bytes()

    one, other = np.random.default_rng(0).random((2, 1, 9, 9, 1), np.float32)
    assert preview(one, burnt_in=True) == preview(other, burnt_in=True)
    assert preview(one, burnt_in=False) != preview(other, burnt_in=False)
    assert len(coloured(tmp_path / "preview.png", RED)) > 0


def test_the_case_name_stays_out_of_the_file(tmp_path):
    study = Study("Unmistakable^Name", np.zeros((1, 9, 9, 9), np.float32), np.eye(4), Source("array"))
    write_preview(study, np.zeros((9, 9, 9), np.uint8), tmp_path / "preview.png", ONE)
    assert b"Unmistakable" not in (tmp_path / "preview.png").read_bytes()


def test_a_large_volume_takes_no_more_than_a_moment(tmp_path):
    mask = np.zeros((256, 256, 200), np.uint8)
    mask[60:200, 60:200, 50:150] = 1
    study = volume(mask.shape)
    start = time.process_time()
    write_preview(study, mask, tmp_path / "preview.png", ONE)
    assert time.process_time() - start < 5
