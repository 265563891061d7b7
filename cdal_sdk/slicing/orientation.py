"""Axis permutation and flips between a source's voxel axes and anatomical directions: exact, without resampling."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cdal_sdk.errors import ModelError

__all__ = ["Reorientation"]

_T = TypeVar("_T", bound=np.generic)

_AXES = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


def _closest(affine: NDArray[np.float64]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """For each voxel axis the world axis that it follows best, and its sign there; a one-to-one assignment."""
    directions = affine[:3, :3] / np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    world = max(permutations(range(3)), key=lambda p: sum(abs(directions[p[axis], axis]) for axis in range(3)))
    return world, tuple(1 if directions[world[axis], axis] >= 0 else -1 for axis in range(3))


@dataclass(frozen=True)
class Reorientation:
    """Takes arrays [..., i, j, k] to the wanted orientation and back.

    Attributes:
        order: for each target axis, the source axis that becomes it.
        flips: for each target axis, whether it is reversed.
    """

    order: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    @classmethod
    def to(cls, orientation: str, affine: NDArray[np.float64]) -> Reorientation:
        """The reorientation of an array with this affine [4, 4] (voxel to RAS) to an orientation such as "RAS"."""
        if sorted(_AXES[code][0] for code in orientation if code in _AXES) != [0, 1, 2] or len(orientation) != 3:
            raise ModelError(f"'{orientation}' is no orientation", where="plan", remedy="use three letters such as RAS")
        world, signs = _closest(affine)
        wanted = [_AXES[code] for code in orientation]
        order = tuple(world.index(axis) for axis, _ in wanted)
        flips = tuple(signs[source] != sign for source, (_, sign) in zip(order, wanted, strict=True))
        return cls(order, flips)  # type: ignore[arg-type]

    def apply(self, array: NDArray[_T]) -> NDArray[_T]:
        """Source axes to target axes."""
        lead = array.ndim - 3
        array = array.transpose(*range(lead), *(lead + axis for axis in self.order))
        return np.flip(array, self._flipped(lead))

    def undo(self, array: NDArray[_T]) -> NDArray[_T]:
        """Target axes back to source axes."""
        lead = array.ndim - 3
        array = np.flip(array, self._flipped(lead))
        return array.transpose(*range(lead), *(lead + int(axis) for axis in np.argsort(self.order)))

    def _flipped(self, lead: int) -> tuple[int, ...]:
        return tuple(lead + axis for axis, flip in enumerate(self.flips) if flip)
