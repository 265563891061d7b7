"""From raw values to the network's range."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cdal_sdk.slicing.plan import Intensity

__all__ = ["map_intensity"]


def map_intensity(image: NDArray[np.float32], how: Intensity) -> NDArray[np.float32]:
    """Map [channel, ...] as the plan says; a constant image becomes the lower end of the range."""
    if how.method == "standardise":
        shape = (-1, *[1] * (image.ndim - 1))
        mean, std = (np.asarray(v, np.float32).reshape(shape) for v in (how.mean, how.std))
        return np.asarray((image - mean) / std, np.float32)
    low, high = (how.low, how.high) if how.method == "fixed" else np.percentile(image, (how.low, how.high))
    share = np.clip((image - low) / max(float(high - low), 1e-6), 0, 1)
    bottom, top = how.target
    return np.asarray(bottom + share * (top - bottom), np.float32)
