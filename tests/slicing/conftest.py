"""Volumes in which no two voxels are alike, in every position that a scanner may give them."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from cdal_sdk.study import Source, Study

GRID = (5, 7, 6)


def phantom(grid: tuple[int, int, int] = GRID, channels: int = 1) -> NDArray[np.float32]:
    """[channel, i, j, k], every voxel another value."""
    return np.arange(channels * np.prod(grid), dtype=np.float32).reshape(channels, *grid)


def axis_codes(affine: NDArray[np.float64]) -> str:
    """The anatomical directions of the voxel axes, such as "RAS"."""
    return "".join(nibabel.aff2axcodes(affine))


def axis_aligned_affines() -> list[NDArray[np.float64]]:
    """All 48 permutations and flips of the axes, with unequal spacings and an offset."""
    affines = []
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        affine = np.eye(4)
        affine[:3, :3] = 0
        for axis, (world, sign, spacing) in enumerate(zip(order, signs, (0.7, 1.3, 2.0), strict=True)):
            affine[world, axis] = sign * spacing
        affine[:3, 3] = (-12, 30.5, 7)
        affines.append(affine)
    return affines


def turned(affine: NDArray[np.float64], degrees: float) -> NDArray[np.float64]:
    """The affine turned about the axis (1, 2, 3)."""
    axis, angle = np.array([1, 2, 3]) / np.sqrt(14), np.radians(degrees)
    cross = np.cross(np.eye(3), axis)
    rotation = np.eye(4)
    rotation[:3, :3] = np.eye(3) - np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return rotation @ affine


def volume(
    image: NDArray[np.float32] | None = None, affine: NDArray[np.float64] | None = None, modality: str | None = "MR"
) -> Study:
    """A volume as a reader returns it."""
    return Study(
        "case",
        phantom() if image is None else image,
        np.diag([1.0, 1.0, 1.0, 1.0]) if affine is None else affine,
        Source("nifti", (Path("case.nii"),)),
        modality=modality,
    )


def picture(
    image: NDArray[np.float32], pixel_spacing: tuple[float, float] | None = None, modality: str | None = None
) -> Study:
    """A planar image as a reader returns it, from [channel, row, column]."""
    return Study("case", image[..., None], None, Source("image"), pixel_spacing, modality)
