"""The geometry of a stack of DICOM slices: their order, the check that they are one regular grid, and the affine.

Positions and cosines come in as DICOM has them, LPS; the affine leaves as RAS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdal_sdk.errors import ReadError

__all__ = ["Stack", "stack_slices"]

# A tolerance is needed because positions are rounded decimal strings.
_SPACING_TOLERANCE = 0.02  # of the distance between slices, and never below _POSITION_TOLERANCE
_POSITION_TOLERANCE = 0.02  # mm
_COINCIDENT = 0.1  # of the usual distance
_SIDEWAYS_TOLERANCE = 0.2  # of a pixel, over the whole stack
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Stack:
    """Slices in order.

    Attributes:
        order: the index of the slice that comes first along the slice normal, second, and so on.
        affine: float64 [4, 4], (column, row, slice) to RAS millimetres.
    """

    order: tuple[int, ...]
    affine: NDArray[np.float64]


def stack_slices(
    positions: NDArray[np.float64],
    orientation: Sequence[float],
    pixel_spacing: Sequence[float],
    thickness: float,
    where: Path,
) -> Stack:
    """Order slices along their normal and check that they form a regular grid.

    Args:
        positions: [slice, 3], the centre of the first pixel of each slice in LPS millimetres.
        orientation: the direction cosines along a row, then along a column (ImageOrientationPatient).
        pixel_spacing: millimetres between rows, then between columns (PixelSpacing).
        thickness: distance to assume in millimetres where there is only one slice.
        where: the file or folder that errors name.

    Returns:
        The order of the slices and the affine of the stack.

    Raises:
        ReadError: the orientation or spacing is impossible, two slices coincide, one is missing, the distances vary,
            or the slices are not stacked along their normal.
    """
    along_row, along_column, normal = _axes(orientation, where)
    spacing = np.asarray(pixel_spacing, dtype=np.float64)
    if spacing.shape != (2,) or not np.isfinite(spacing).all() or (spacing <= 0).any():
        raise ReadError("the pixel spacing is impossible", where=where, remedy="export the series again")
    if not np.isfinite(positions).all():
        raise ReadError("a slice position is not a number", where=where, remedy="export the series again")
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    heights, positions = heights[order], positions[order]
    _check_distances(heights, where)
    _check_straight(positions, heights, normal, float(spacing.min()), where)
    count = len(heights)
    distance = float(heights[-1] - heights[0]) / (count - 1) if count > 1 else thickness
    affine = np.eye(4)
    affine[:3, 0] = along_row * spacing[1]
    affine[:3, 1] = along_column * spacing[0]
    affine[:3, 2] = normal * distance
    affine[:3, 3] = positions[0]
    return Stack(tuple(int(index) for index in order), _LPS_TO_RAS @ affine)


def _axes(orientation: Sequence[float], where: Path) -> NDArray[np.float64]:
    """Unit vectors along a row, along a column and along the slice normal, [3, 3]."""
    cosines = np.asarray(orientation, dtype=np.float64)
    usable = cosines.shape == (6,) and bool(np.isfinite(cosines).all())
    if usable:
        along_row, along_column = cosines.reshape(2, 3)
        lengths = np.linalg.norm(cosines.reshape(2, 3), axis=1)
        usable = bool(np.abs(lengths - 1).max() < 0.01 and abs(along_row @ along_column) < 0.01)
    if not usable:
        raise ReadError(
            "the image orientation is not a pair of perpendicular directions",
            where=where,
            remedy="export the series again",
        )
    normal = np.cross(along_row, along_column)
    return np.stack([along_row / lengths[0], along_column / lengths[1], normal / np.linalg.norm(normal)])


def _check_distances(heights: NDArray[np.float64], where: Path) -> None:
    steps = np.diff(heights)
    if not len(steps):
        return
    # The smallest distance is the true one when slices are missing; the median is not when many are.
    step = float(steps.min())
    if step < _COINCIDENT * np.median(steps) or step <= 0:
        raise ReadError(
            f"two slices lie at the same position, {heights[int(steps.argmin())]:.2f} mm along the slice normal",
            where=where,
            remedy="keep one acquisition per folder and remove copies",
        )
    tolerance = max(_SPACING_TOLERANCE * step, _POSITION_TOLERANCE)
    if (np.abs(steps - step) <= tolerance).all():
        return
    multiples = np.round(steps / step)
    missing = int((multiples - 1).sum())
    if (np.abs(steps - multiples * step) <= multiples * tolerance).all():
        gap = int(np.flatnonzero(multiples > 1)[0])
        raise ReadError(
            f"{'a slice is' if missing == 1 else f'{missing} slices are'} missing, {_between(heights, gap)}, "
            f"where the others are {step:.2f} mm apart",
            where=where,
            remedy="add the missing files or export the series again",
        )
    raise ReadError(
        f"the slices are unevenly spaced, {step:.2f} to {steps.max():.2f} mm apart, "
        f"the widest gap {_between(heights, int(steps.argmax()))}",
        where=where,
        remedy="give a series with even spacing, or resample it to one",
    )


def _between(heights: NDArray[np.float64], gap: int) -> str:
    return f"between the positions {heights[gap]:.2f} and {heights[gap + 1]:.2f} mm along the slice normal"


def _check_straight(
    positions: NDArray[np.float64], heights: NDArray[np.float64], normal: NDArray[np.float64], pixel: float, where: Path
) -> None:
    offsets = positions - positions[0]
    sideways = np.linalg.norm(offsets - np.outer(heights - heights[0], normal), axis=1)
    worst = int(sideways.argmax())
    if sideways[worst] <= _SIDEWAYS_TOLERANCE * pixel:
        return
    angle = np.degrees(np.arctan2(sideways[worst], heights[worst] - heights[0]))
    raise ReadError(
        f"the slices are shifted sideways by up to {sideways[worst]:.2f} mm, "
        f"as with a gantry tilt of {angle:.1f} degrees",
        where=where,
        remedy="resample the series to a straight stack first",
    )
