"""Linear resampling between regular grids that share their outer edges."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

__all__ = ["resample", "resample_rows", "rows_behind"]

_TRUNCATE = 4.0  # standard deviations of the Gaussian, as SciPy has it


def resample(array: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Resample the last `len(shape)` axes of [lead, ...] to `shape`, linearly, each lead entry by itself.

    Voxels are boxes and both grids cover the same space. Where the target is coarser, the source is smoothed first
    (Gaussian of (factor - 1) / 2 voxels), so that nothing finer than the target aliases into it.

    Args:
        array: float32 [lead, ...].
        shape: voxels of the target.
    """
    source = array.shape[1:]
    if source == shape:
        return array
    result = np.empty((len(array), *shape), np.float32)
    for values, target in zip(array, result, strict=True):
        # Shrinking axes first, so that there is the less to do for the others; the first one last, being fastest.
        for axis in sorted(range(len(shape)), key=lambda axis: (shape[axis] / source[axis], -axis)):
            values = _along(axis, _weights(range(shape[axis]), source[axis], shape[axis]), values)
        target[...] = values
    return result


def rows_behind(rows: range, old: int, new: int) -> range:
    """The rows of a picture of height `old` that decide these rows of one resampled to height `new`."""
    if old == new:
        return rows
    used = _weights(rows, old, new).indices
    return range(int(used.min()), int(used.max()) + 1)


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
    down = _weights(rows, old[0], new[0])[:, behind.start : behind.stop]
    across = _weights(range(new[1]), old[1], new[1])
    return np.stack([_along(1, across, _along(0, down, entry)) for entry in part])


@lru_cache(maxsize=32)
def _weights(rows: range, old: int, new: int) -> sparse.csr_matrix:
    """What each of `old` boxes along a line gives to these of `new` boxes along it: smoothing and interpolation.

    Both are linear, so that they are one matrix, [len(rows), old]; beyond the ends the values there go on.
    """
    factor = old / new
    centres = (factor * np.arange(rows.start, rows.stop) + (factor - 1) / 2).clip(0, old - 1)
    lower = np.minimum(centres.astype(np.intp), max(0, old - 2))
    share = centres - lower
    sigma = max(0.0, (factor - 1) / 2)
    reach = np.arange(-int(_TRUNCATE * sigma + 0.5), int(_TRUNCATE * sigma + 0.5) + 1)
    bell = np.exp(-0.5 * (reach / sigma) ** 2) if sigma else np.ones(1)
    bell /= bell.sum()
    values = np.concatenate([(1 - share)[:, None] * bell, share[:, None] * bell], axis=1)
    columns = np.concatenate([lower[:, None] + reach, lower[:, None] + 1 + reach], axis=1).clip(0, old - 1)
    lines = np.repeat(np.arange(len(rows)), columns.shape[1])
    weights = sparse.coo_matrix((values.ravel(), (lines, columns.ravel())), (len(rows), old)).tocsr()
    weights.eliminate_zeros()
    return weights.astype(np.float32)


def _along(axis: int, weights: sparse.csr_matrix, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weighted sums along one axis."""
    turned = np.moveaxis(values, axis, 0)
    mixed = weights @ np.ascontiguousarray(turned).reshape(len(turned), -1)
    return np.moveaxis(mixed.reshape(-1, *turned.shape[1:]), 0, axis)
