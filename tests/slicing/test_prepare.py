"""From a study to the network's inputs and back onto the source's voxels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cdal_sdk.errors import ModelError
from cdal_sdk.slicing import Domain, Intensity, Plan, prepare, stack_context
from cdal_sdk.study import Source, Study
from slicing.conftest import axis_aligned_affines, axis_codes, phantom, picture, turned, volume

PLAN = Plan(
    kind="volume",
    channels=1,
    intensity=Intensity("fixed", 0, 209, target=(0, 1)),  # the phantom's range
    fit="pad",
    canvas=(16, 16),
    divisor=4,
    domain=Domain(),
)


def blob(grid: tuple[int, int, int]) -> np.ndarray:
    """A smooth, lopsided bump, [1, i, j, k]."""
    i, j, k = (np.arange(n).reshape([-1 if a == axis else 1 for a in range(3)]) / n for axis, n in enumerate(grid))
    values = np.exp(-8 * ((i - 0.35) ** 2 + (j - 0.6) ** 2 + 2 * (k - 0.45) ** 2)) * (1 + i)
    return values.astype(np.float32)[None]


def there_and_back(study, plan) -> tuple[np.ndarray, np.ndarray]:
    """The prepared intensities restored, and what they should be."""
    prepared = prepare(study, plan)
    middle = plan.context * plan.channels
    return prepared.restore(prepared.images[:, middle : middle + plan.channels]), study.image / 209


def test_what_is_padded_is_as_dark_as_the_darkest():
    """Training pads alike: another value would show a network something that it has never seen."""
    study = volume(affine=np.eye(4))
    height, width = study.image.shape[1:3]
    padded = prepare(study, replace(PLAN, intensity=replace(PLAN.intensity, target=(-1, 1)))).images
    assert padded.shape[2] > height
    assert (padded[:, :, height:] == -1).all() and (padded[..., width:] == -1).all()


@pytest.mark.parametrize("affine", axis_aligned_affines(), ids=axis_codes)
def test_without_resampling_the_way_back_is_exact(affine):
    restored, expected = there_and_back(volume(affine=affine), replace(PLAN, orientation="SRP"))
    np.testing.assert_allclose(restored, expected, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"context": 1},
        {"canvas": (4, 4), "overlap": 0.25},
        {"canvas": (4, 8), "fit": "tile", "overlap": 0.0},
        {"fit": "tile"},
        {"divisor": 8},
    ],
    ids=str,
)
def test_padding_tiling_and_context_leave_no_trace(changes: dict[str, Any]):
    study = volume(affine=turned(axis_aligned_affines()[17], 10))
    restored, expected = there_and_back(study, replace(PLAN, **changes))
    np.testing.assert_allclose(restored, expected, atol=1e-6)


def test_slices_are_what_the_plan_says():
    """From PSL voxels to RAS: rows run to the right, columns to the front, slices upwards."""
    affine = np.array([[0, 0, -1.0, 0], [-1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1]])
    assert axis_codes(affine) == "PSL"
    study = volume(affine=affine)
    images = prepare(study, PLAN).images
    assert images.shape == (7, 1, 8, 8)  # S has 7 voxels, R 6 and A 5, both padded to 8
    expected = study.image[0].transpose(2, 0, 1)[::-1, ::-1] / 209
    np.testing.assert_allclose(images[:, 0, :6, :5], expected.transpose(2, 0, 1), atol=1e-6)
    assert (images[:, :, 6:] == 0).all()
    assert (images[:, :, :, 5:] == 0).all()


@pytest.mark.parametrize("spacing", [(0.5, 1.0, 2.0), (2.2, 0.8, 1.1)], ids=str)
def test_resampled_to_the_plan_s_spacing_and_back(spacing):
    grid = tuple(round(40 / step) for step in spacing)
    study = volume(blob(grid), affine=turned(np.diag([-spacing[0], spacing[1], spacing[2], 1.0]), 5))
    plan = replace(PLAN, spacing_mm=(1.0, 1.0, 1.0), intensity=Intensity("fixed", 0, 1, (0, 1)), canvas=(48, 48))
    prepared = prepare(study, plan)
    for size, extent in zip(prepared.working_grid, np.multiply(grid, spacing), strict=True):
        assert abs(size - extent) <= 0.5
    restored = prepared.restore(prepared.images)
    assert restored.shape == study.image.shape
    assert np.abs(restored - study.image.clip(0, 1)).mean() < 0.01
    np.testing.assert_allclose(centroid(restored), centroid(study.image), atol=0.15)  # voxels: nothing has moved


def centroid(image: np.ndarray) -> list[float]:
    """Centre of mass of [1, i, j, k] in voxels."""
    weight = image[0] / image[0].sum()
    return [float((weight * np.indices(weight.shape)[axis]).sum()) for axis in range(3)]


def test_a_spacing_within_a_percent_keeps_the_source_s_grid():
    plan = replace(PLAN, spacing_mm=(1.0, 1.0, 1.0))
    assert prepare(volume(affine=np.diag([1.005, 0.995, 1.0, 1.0])), plan).working_grid == (5, 7, 6)
    assert prepare(volume(affine=np.diag([1.5, 1.0, 1.0, 1.0])), plan).working_grid == (8, 7, 6)


def test_spacing_follows_its_axis_through_the_reorientation():
    affine = np.array([[0, 0, 3.0, 0], [1.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 0, 1]])  # ASR with 1, 2 and 3 mm
    prepared = prepare(volume(affine=affine), replace(PLAN, spacing_mm=(1.0, 1.0, 1.0), canvas=(32, 32)))
    assert prepared.working_grid == (18, 5, 14)


@pytest.mark.parametrize("size", [(20, 30), (11, 9)], ids=str)
def test_a_picture_is_resized_and_back(size):
    rows, columns = np.indices(size) / np.array(size).reshape(2, 1, 1)
    pixels = (100 * rows + 50 * columns).astype(np.float32)[None]
    plan = replace(PLAN, kind="planar", fit="resize", intensity=Intensity("fixed", 0, 200, (0, 1)))
    prepared = prepare(picture(pixels), plan)
    assert prepared.images.shape == (1, 1, 16, 16)
    restored = prepared.restore(prepared.images)
    assert restored.shape == (1, *size, 1)
    np.testing.assert_allclose(restored[0, 3:-3, 3:-3, 0], pixels[0, 3:-3, 3:-3] / 200, atol=0.02)


def test_a_volume_s_slices_are_resized_and_back():
    study = volume(blob((20, 30, 4)))
    plan = replace(PLAN, fit="resize", intensity=Intensity("fixed", 0, 2, (0, 1)))
    prepared = prepare(study, plan)
    assert prepared.images.shape == (4, 1, 16, 16)
    assert np.abs(prepared.restore(prepared.images) - study.image / 2).max() < 0.03


def test_a_picture_in_colour_is_scaled_and_tiled():
    pixels = np.random.default_rng(0).uniform(0, 200, (3, 16, 16)).astype(np.float32)
    plan = replace(PLAN, kind="planar", channels=3, fit="tile", canvas=(8, 8), resize_to=(24, 16), overlap=0.0)
    prepared = prepare(picture(pixels), plan)
    assert prepared.images.shape == (3 * 2, 3, 8, 8)
    assert prepared.restore(prepared.images).shape == (3, 16, 16, 1)


def test_a_scale_keeps_the_magnification_whatever_the_size():
    plan = replace(PLAN, kind="planar", channels=1, fit="tile", canvas=(8, 8), scale=0.5, context=0)
    for size, working in (((40, 31), (20, 16)), ((1, 3), (1, 2))):
        study = Study("x", np.zeros((1, *size, 1), np.float32), None, Source("image"))
        prepared = prepare(study, plan)
        assert prepared.working_grid == (*working, 1)
        assert prepared.images.shape[2:] == (8, 8)
        assert prepared.restore(prepared.images).shape == (1, *size, 1)


def test_an_image_smaller_than_its_tile_is_padded_to_one():
    plan = replace(PLAN, kind="planar", fit="tile")
    prepared = prepare(picture(np.full((1, 6, 5), 209, np.float32)), plan)
    assert prepared.images.shape == (1, 1, 16, 16)
    assert prepared.images.sum() == 30


def test_context_stacks_neighbours_and_repeats_the_outermost():
    slices = np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1)
    stacked = stack_context(slices, 1)[:, :, 0, 0]
    np.testing.assert_array_equal(stacked, [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]])
    np.testing.assert_array_equal(stack_context(slices, 0), slices)


def test_context_of_several_channels_keeps_a_slice_s_channels_together():
    slices = np.array([[0, 10], [1, 11], [2, 12]], np.float32).reshape(3, 2, 1, 1)
    stacked = stack_context(slices, 1)[1, :, 0, 0]
    np.testing.assert_array_equal(stacked, [0, 10, 1, 11, 2, 12])
    assert replace(PLAN, channels=2, context=1).image_channels == 6


def test_a_single_slice_is_its_own_neighbour():
    prepared = prepare(volume(phantom((5, 7, 1))), replace(PLAN, context=2))
    assert prepared.images.shape == (1, 5, 8, 8)
    for channel in prepared.images[0]:
        np.testing.assert_array_equal(channel, prepared.images[0, 0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"canvas": (16, 18)}, "no multiple of 4"),
        ({"canvas": (0, 16)}, "canvas is 0"),
        ({"divisor": 0}, "divisor is 0"),
        ({"channels": 0}, "channels is 0"),
        ({"context": -1}, "context is -1"),
        ({"overlap": 1.0}, "overlap is 1.0"),
        ({"overlap": -0.1}, "overlap is -0.1"),
        ({"scale": 0.0}, "scale of 0.0 is impossible"),
        ({"scale": 0.5, "resize_to": (8, 8)}, "another size is asked for"),
        ({"intensity": Intensity("standardise", mean=(1, 2), std=(1,))}, r"2 mean\(s\) and 1 std\(s\) for 1 channel"),
    ],
    ids=str,
)
def test_an_impossible_plan_is_refused(changes, message):
    with pytest.raises(ModelError, match=message):
        replace(PLAN, **changes)
