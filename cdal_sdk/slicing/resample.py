"""Linear resampling between regular grids that share their outer edges."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["resample", "resample_rows", "rows_behind"]

_TRUNCATE = 4.0  # standard deviations of the Gaussian, as SciPy has it


def resample(array: NDArray[np.float32], shape: tuple[int, ...], order: int = 1) -> NDArray[np.float32]:
    """Resample the last `len(shape)` axes of [lead, ...] to `shape`, each lead entry by itself.

    Voxels are boxes and both grids cover the same space. Where the target is coarser, the source is smoothed first
    (Gaussian of (factor - 1) / 2 voxels), so that nothing finer than the target aliases into it.

    Args:
        array: float32 [lead, ...].
        shape: voxels of the target.
        order: 1 linear, 0 nearest (for labels; never smoothed).
    """
    source = array.shape[1:]
    if source == shape:
        return array
    factors = [old / new for old, new in zip(source, shape, strict=True)]
    result = np.empty((len(array), *shape), np.float32)
    for entry, target in zip(array, result, strict=True):
        if order:
            smooth = ndimage.gaussian_filter(entry, [_sigma(f) for f in factors], mode="nearest")
            # Shrinking axes first, so that there is the less to do for the others.
            for axis in sorted(range(len(shape)), key=lambda axis: shape[axis] / source[axis]):
                smooth = _sample(smooth, axis, _positions(range(shape[axis]), source[axis], shape[axis]))
            target[...] = smooth
        else:
            offsets = [(f - 1) / 2 for f in factors]
            ndimage.affine_transform(entry, factors, offsets, shape, target, order, mode="nearest")
    return result


def rows_behind(rows: range, old: int, new: int) -> range:
    """The rows of a picture of height `old` that decide these rows of one resampled to height `new`."""
    if old == new:
        return rows
    positions = _positions(rows, old, new)
    reach = int(_TRUNCATE * _sigma(old / new) + 0.5)
    return range(max(0, int(positions[0]) - reach), min(old, int(positions[-1]) + 2 + reach))


def resample_rows(
    part: NDArray[np.float32], behind: range, rows: range, old: tuple[int, int], new: tuple[int, int]
) -> NDArray[np.float32]:
    """Some rows of what `resample` makes of a picture, from the rows that decide them.

    Args:
        part: float32 [lead, len(behind), width], rows of the picture.
        behind: which ones, from `rows_behind`.
        rows: the rows wanted of the resampled picture.
        old: height and width of the whole picture.
        new: of the whole resampled picture.

    Returns:
        float32 [lead, len(rows), width of the resampled picture].
    """
    if old == new:
        return part
    sigmas = [_sigma(a / b) for a, b in zip(old, new, strict=True)]
    result = np.empty((len(part), len(rows), new[1]), np.float32)
    for entry, target in zip(part, result, strict=True):
        smooth = ndimage.gaussian_filter(entry, sigmas, mode="nearest", truncate=_TRUNCATE)
        smooth = _sample(smooth, 0, _positions(rows, old[0], new[0]) - behind.start)
        target[...] = _sample(smooth, 1, _positions(range(new[1]), old[1], new[1]))
    return result


def _sigma(factor: float) -> float:
    return max(0.0, (factor - 1) / 2)


def _positions(rows: range, old: int, new: int) -> NDArray[np.float64]:
    """Where the centres of these of `new` boxes lie, in `old` boxes along the same line; never outside."""
    factor = old / new
    centres = factor * np.arange(rows.start, rows.stop) + (factor - 1) / 2
    return np.asarray(centres.clip(0, old - 1), np.float64)


def _sample(array: NDArray[np.float32], axis: int, positions: NDArray[np.float64]) -> NDArray[np.float32]:
    """Linear interpolation at positions along one axis."""
    size = array.shape[axis]
    if len(positions) == size and np.array_equal(positions, np.arange(size)):
        return array
    lower = np.minimum(positions.astype(np.intp), max(0, size - 2))
    share = (positions - lower).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(array.ndim)])
    below: NDArray[np.float32] = array.take(lower, axis)
    above: NDArray[np.float32] = array.take(np.minimum(lower + 1, size - 1), axis)
    above -= below
    above *= share
    above += below
    return above
