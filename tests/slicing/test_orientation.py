"""Reorientation in every position, checked in patient space."""

from __future__ import annotations

import numpy as np
import pytest

from cdal_sdk.errors import ModelError
from cdal_sdk.slicing.orientation import Reorientation
from slicing.conftest import GRID, axis_aligned_affines, axis_codes, phantom, turned

OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}
DIRECTION = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
AFFINES = {axis_codes(affine): affine for affine in axis_aligned_affines()}


def positions(affine: np.ndarray) -> np.ndarray:
    """RAS millimetres of every voxel, [3, i, j, k]."""
    indices = np.indices(GRID).reshape(3, -1)
    return (affine[:3, :3] @ indices + affine[:3, 3:]).reshape(3, *GRID)


def test_all_48_orientations_have_their_own_name():
    assert len(AFFINES) == 48


@pytest.mark.parametrize("degrees", [0, 20], ids=["aligned", "oblique"])
@pytest.mark.parametrize("target", ["RAS", "LPI", "SAR"])
@pytest.mark.parametrize("source", AFFINES)
def test_axes_of_the_result_point_where_they_should(source, target, degrees):
    """Positions themselves are reoriented; along each axis they must then move in the wanted direction most."""
    affine = turned(AFFINES[source], degrees)
    result = Reorientation.to(target, affine).apply(positions(affine))
    for axis, code in enumerate(target):
        world, sign = DIRECTION[code]
        moves = np.diff(result, axis=axis + 1).reshape(3, -1)
        assert (sign * moves[world] > 0).all()
        assert (np.abs(moves).argmax(axis=0) == world).all()


@pytest.mark.parametrize("degrees", [0, 20], ids=["aligned", "oblique"])
@pytest.mark.parametrize("source", AFFINES)
def test_undo_takes_back_apply(source, degrees):
    array = phantom(channels=2)
    for target in ("RAS", "LPI", "ARI"):
        reorientation = Reorientation.to(target, turned(AFFINES[source], degrees))
        np.testing.assert_array_equal(reorientation.undo(reorientation.apply(array)), array)
        np.testing.assert_array_equal(reorientation.undo(reorientation.apply(array[0])), array[0])


def test_two_axes_that_follow_the_same_direction_still_get_one_each():
    """At 45 degrees the assignment is arbitrary, but must remain one to one."""
    for degrees in range(0, 181, 15):
        affine = turned(AFFINES["RAS"], degrees)
        assert sorted(DIRECTION[code][0] for code in axis_codes(affine)) == [0, 1, 2]


def test_the_opposite_orientation_is_all_flips():
    opposite = "".join(OPPOSITE[code] for code in "RAS")
    assert Reorientation.to(opposite, np.eye(4)) == Reorientation((0, 1, 2), (True, True, True))


@pytest.mark.parametrize("name", ["RA", "RAR", "RLA", "XYZ", "ras", "RASS", ""])
def test_what_is_no_orientation_is_refused(name):
    with pytest.raises(ModelError, match="no orientation"):
        Reorientation.to(name, np.eye(4))
