"""Tiles cover everything and blend back to what was cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdal_sdk.slicing.tiles import Tiling

CASES = [((16, 16), (16, 16), 0.5), ((40, 24), (16, 16), 0.5), ((33, 70), (16, 32), 0.25), ((50, 9), (16, 16), 0.0)]


@pytest.mark.parametrize(("size", "canvas", "overlap"), CASES, ids=str)
def test_blending_what_was_cut_gives_it_back(size, canvas, overlap):
    slices = np.random.default_rng(0).normal(size=(3, 2, *size)).astype(np.float32)
    tiling = Tiling.over(size, canvas, overlap)
    tiles = tiling.cut(slices)
    assert tiles.shape == (3 * len(tiling.corners), 2, min(size[0], canvas[0]), min(size[1], canvas[1]))
    np.testing.assert_allclose(tiling.blend(tiles), slices, atol=1e-5)


def test_windows_of_a_slice_lie_side_by_side():
    slices = np.arange(2 * 4 * 8, dtype=np.float32).reshape(2, 1, 4, 8)
    tiles = Tiling.over((4, 8), (4, 4), 0).cut(slices)
    np.testing.assert_array_equal(tiles[0, 0], slices[0, 0, :, :4])
    np.testing.assert_array_equal(tiles[1, 0], slices[0, 0, :, 4:])
    np.testing.assert_array_equal(tiles[2, 0], slices[1, 0, :, :4])


@settings(max_examples=100, deadline=None)
@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.floats(0, 0.9),
)
def test_windows_stay_inside_cover_all_and_overlap(size, canvas, overlap):
    tiling = Tiling.over(size, canvas, overlap)
    covered = np.zeros(size, int)
    for row, column in tiling.corners:
        assert 0 <= row <= size[0] - tiling.tile[0]
        assert 0 <= column <= size[1] - tiling.tile[1]
        covered[row : row + tiling.tile[0], column : column + tiling.tile[1]] += 1
    assert covered.min() >= 1
    for axis in (0, 1):
        starts = sorted({corner[axis] for corner in tiling.corners})
        steps = np.diff(starts)
        assert (steps < tiling.tile[axis] * (1 - overlap) + 1).all()


def test_a_seam_is_a_gradual_change():
    """Two tiles that disagree meet in a ramp, not in a step."""
    tiling = Tiling.over((4, 24), (4, 16), 0.5)
    assert tiling.corners == ((0, 0), (0, 8))
    tiles = np.zeros((2, 1, 4, 16), np.float32)
    tiles[1] = 1
    row = tiling.blend(tiles)[0, 0, 0]
    assert (row[:8] == 0).all()
    assert (row[16:] == 1).all()
    assert (np.diff(row) >= 0).all()
    assert np.diff(row).max() < 0.2
