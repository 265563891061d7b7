"""Resampling between grids of boxes that cover the same space."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cdal_sdk.slicing.resample import resample, resample_rows, rows_behind
from slicing.conftest import phantom


def centres(count: int) -> np.ndarray:
    """Centres of so many equal boxes over [0, 1]."""
    return ((np.arange(count) + 0.5) / count).astype(np.float32)


def test_the_same_grid_is_left_as_it_is():
    np.testing.assert_array_equal(resample(phantom(), phantom().shape[1:]), phantom())


@pytest.mark.parametrize(("old", "new"), [(10, 25), (12, 12), (30, 10), (17, 11)])
def test_a_linear_ramp_keeps_its_place(old, new):
    """Both grids share their outer edges: away from those, a ramp has the value of its position."""
    ramp = resample(np.tile(centres(old), (1, 3, 1)), (3, new))[0]
    inside = (centres(new) > 2.5 / min(old, new)) & (centres(new) < 1 - 2.5 / min(old, new))
    assert inside.any()
    np.testing.assert_allclose(ramp[:, inside], np.tile(centres(new)[inside], (3, 1)), atol=2e-3)


@pytest.mark.parametrize("new", [(4, 4, 4), (9, 20, 3), (5, 7, 1)], ids=str)
def test_a_constant_stays_constant(new):
    np.testing.assert_allclose(resample(np.full((2, 5, 7, 6), 3.5, np.float32), new), 3.5, rtol=1e-6)


def test_a_symmetric_image_stays_symmetric():
    """So no half voxel is lost to either side."""
    image = np.zeros((1, 8, 8), np.float32)
    image[0, 2:6, 2:6] = 1
    for shape in ((13, 13), (5, 5), (16, 4)):
        result = resample(image, shape)
        np.testing.assert_allclose(result, result[:, ::-1, ::-1], atol=1e-6)


def test_what_is_finer_than_the_target_does_not_alias():
    """A chequerboard that is sampled at every third voxel must turn gray."""
    board = (np.indices((30, 30)).sum(axis=0) % 2).astype(np.float32)[None]
    result = resample(board, (10, 10))[0, 2:-2, 2:-2]
    assert np.abs(result - 0.5).max() < 0.1


def test_channels_do_not_mix():
    image = np.stack([np.zeros((6, 6)), np.ones((6, 6))]).astype(np.float32)
    result = resample(image, (9, 4))
    np.testing.assert_allclose(result[0], 0)
    np.testing.assert_allclose(result[1], 1)


@pytest.mark.parametrize("new", [(9, 20, 3), (5, 7, 1), (40, 2, 6)], ids=str)
def test_it_is_scipy_s_interpolation_after_smoothing(new):
    image = np.random.default_rng(0).normal(size=(1, 8, 13, 6)).astype(np.float32)
    factors = np.array(image.shape[1:]) / new
    smooth = ndimage.gaussian_filter(image[0], np.maximum(0, (factors - 1) / 2), mode="nearest")
    expected = ndimage.affine_transform(smooth, factors, (factors - 1) / 2, new, order=1, mode="nearest")
    np.testing.assert_allclose(resample(image, new)[0], expected, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9), st.integers(1, 9), st.data())
def test_rows_alone_are_those_of_the_whole(old, new, width, wanted, data):
    image = np.random.default_rng(1).normal(size=(2, old, width)).astype(np.float32)
    start = data.draw(st.integers(0, new - 1))
    rows = range(start, data.draw(st.integers(start + 1, new)))
    behind = rows_behind(rows, old, new)
    part = resample_rows(image[:, behind.start : behind.stop], behind, rows, (old, width), (new, wanted))
    np.testing.assert_allclose(part, resample(image, (new, wanted))[:, start : rows.stop], atol=1e-5)
