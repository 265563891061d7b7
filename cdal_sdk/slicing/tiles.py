"""Cutting slices that are larger than the canvas into overlapping tiles, and blending results back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

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

    @property
    def rows(self) -> dict[int, list[int]]:
        """Left edges of the windows by their upper edge."""
        found: dict[int, list[int]] = {}
        for row, column in self.corners:
            found.setdefault(row, []).append(column)
        return found

    def blend(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """Weighted mean of overlapping results: [n * windows, label, *tile] -> [n, label, height, width]."""
        tiles = tiles.reshape(-1, len(self.corners), *tiles.shape[1:])
        if len(self.corners) == 1:
            return tiles[:, 0]
        result = np.empty((len(tiles), tiles.shape[2], *self.size), np.float32)
        counts = np.cumsum([0, *(len(columns) for columns in self.rows.values())])
        for slice_, out in zip(tiles, result, strict=True):
            of_rows = (slice_[a:b] for a, b in pairwise(counts))
            for start, band in self.blend_rows(of_rows):
                out[:, start : start + band.shape[1]] = band
        return result

    def blend_rows(self, tiles: Iterable[NDArray[np.float32]]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Weighted mean of the overlapping windows of one slice, of which only a band is in memory.

        Args:
            tiles: for each row of windows, from above, their results [windows, label, *tile].

        Yields:
            The upper edge and the values [label, rows, width] of each band that is finished.
        """
        height, width = self.tile
        ramp = _ramp(width)
        down = _ramp(height)[:, np.newaxis]
        total: NDArray[np.float32] | None = None
        weights = np.zeros((height, self.size[1]), np.float32)
        starts = list(self.rows)
        for start, following, windows in zip(starts, [*starts[1:], self.size[0]], tiles, strict=True):
            if total is None:
                total = np.zeros((windows.shape[1], height, self.size[1]), np.float32)
            for left, window in zip(self.rows[start], windows, strict=True):
                total[..., left : left + width] += down * ramp * window
                weights[:, left : left + width] += down * ramp
            done = following - start
            yield start, total[:, :done] / weights[:done]
            for sums in (total, weights):
                sums[..., : height - done, :] = sums[..., done:, :].copy()
                sums[..., height - done :, :] = 0
