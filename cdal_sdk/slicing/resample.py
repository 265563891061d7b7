"""Linear resampling between regular grids that share their outer edges."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["resample"]


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
        smooth = entry
        if order:
            smooth = ndimage.gaussian_filter(entry, [max(0.0, (f - 1) / 2) for f in factors], mode="nearest")
        offsets = [(f - 1) / 2 for f in factors]
        ndimage.affine_transform(smooth, factors, offsets, shape, target, order, mode="nearest")
    return result
