"""Masks of large pictures as tiled TIFF pyramids, by libvips, without ever being whole in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cdal_sdk.atomic import atomic
from cdal_sdk.errors import MissingExtraError, OutputError
from cdal_sdk.study import Label

__all__ = ["write_mask_tiff"]

_TILE = 512
_WHITE, _BLACK = np.uint8(255), np.uint8(0)
_BAND_PIXELS = 2**22


def write_mask_tiff(raw: Path, size: tuple[int, int], path: Path, labels: Sequence[Label]) -> None:
    """Turn a raw mask into a BigTIFF pyramid of compressed tiles, and read it back.

    Args:
        raw: uint8 label numbers, row by row.
        size: rows and columns.
        path: ends in .tif.
        labels: the model's labels. One label is written as 255, as in a PNG mask.

    Raises:
        MissingExtraError: libvips is not installed.
        OutputError: the file cannot be written or does not read back as intended.
    """
    try:
        import pyvips
    except ModuleNotFoundError:
        raise MissingExtraError("pyvips", "slides") from None
    height, width = size
    stored = pyvips.Image.rawload(str(raw), width, height, 1)
    pixels = (stored > 0) if len(labels) == 1 else stored  # of libvips, true is 255
    try:
        with atomic(path) as temporary:
            pixels.tiffsave(
                str(temporary),
                compression="deflate",
                tile=True,
                tile_width=_TILE,
                tile_height=_TILE,
                pyramid=True,
                subifd=True,
                region_shrink="nearest",
                bigtiff=True,
            )
            _check(temporary, raw, size, path, white=len(labels) == 1)
    except pyvips.Error as error:
        raise OutputError("the TIFF file could not be written", where=path, remedy="check the free space") from error


def _check(written: Path, raw: Path, size: tuple[int, int], path: Path, *, white: bool) -> None:
    """Compare band by band."""
    import pyvips

    height, width = size
    again = pyvips.Image.new_from_file(str(written), access="sequential")
    same = (again.height, again.width, again.bands) == (height, width, 1)
    region = pyvips.Region.new(again)
    step = max(1, _BAND_PIXELS // width)
    with raw.open("rb") as stream:
        for start in range(0, height if same else 0, step):
            rows = min(step, height - start)
            intended = np.frombuffer(stream.read(rows * width), np.uint8)
            found = np.frombuffer(region.fetch(0, start, width, rows), np.uint8)
            same = same and np.array_equal(found, np.where(intended > 0, _WHITE, _BLACK) if white else intended)
    if not same:
        raise OutputError("the TIFF file does not read back as it was written", where=path, remedy="check the disk")
