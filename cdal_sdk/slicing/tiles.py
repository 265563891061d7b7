"""Cutting slices that are larger than the canvas into overlapping tiles, and blending results back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Tiling"]


def _starts(size: int, tile: int, overlap: float) -> list[int]:
    """Evenly spaced starts that cover `size` with the wanted overlap or more, to the pixel."""
    if size <= tile:
        return [0]
    count = math.ceil((size - tile) / (tile * (1 - overlap))) + 1
    return [round(i * (size - tile) / (count - 1)) for i in range(count)]


def _ramp(size: int) -> NDArray[np.float32]:
    """A triangle of weights that fades towards both edges of a tile and is zero nowhere."""
    position = np.arange(size)
    return (np.minimum(position, size - 1 - position) + 1).astype(np.float32)


@dataclass(frozen=True)
class Tiling:
    """A fixed set of windows over slices of one size.

    Attributes:
        size: height and width of the slices.
        tile: height and width of a window; no larger than `size`.
        corners: top left corner of each window.
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    corners: tuple[tuple[int, int], ...]

    @classmethod
    def over(cls, size: tuple[int, int], canvas: tuple[int, int], overlap: float) -> Tiling:
        """Windows no larger than the canvas that cover the size."""
        tile = (min(size[0], canvas[0]), min(size[1], canvas[1]))
        rows, columns = (_starts(s, t, overlap) for s, t in zip(size, tile, strict=True))
        return cls(size, tile, tuple((r, c) for r in rows for c in columns))

    def cut(self, slices: NDArray[np.float32]) -> NDArray[np.float32]:
        """[n, channel, height, width] -> [n * windows, channel, *tile], the windows of a slice side by side."""
        height, width = self.tile
        windows = [slices[:, :, r : r + height, c : c + width] for r, c in self.corners]
        return np.stack(windows, axis=1).reshape(-1, slices.shape[1], height, width)

    def blend(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """Weighted mean of overlapping results: [n * windows, label, *tile] -> [n, label, height, width]."""
        height, width = self.tile
        tiles = tiles.reshape(-1, len(self.corners), *tiles.shape[1:])
        if len(self.corners) == 1:
            return tiles[:, 0]
        weight = np.outer(_ramp(height), _ramp(width))
        total = np.zeros((len(tiles), tiles.shape[2], *self.size), np.float32)
        weights = np.zeros(self.size, np.float32)
        for i, (r, c) in enumerate(self.corners):
            total[:, :, r : r + height, c : c + width] += weight * tiles[:, i]
            weights[r : r + height, c : c + width] += weight
        return total / weights
