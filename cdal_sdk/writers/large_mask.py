"""Masks of large pictures as tiled TIFF pyramids, by libvips, without ever being whole in memory."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cdal_sdk.atomic import atomic
from cdal_sdk.errors import MissingExtraError, OutputError
from cdal_sdk.study import Label

__all__ = ["MaskRows", "write_mask_tiff"]

_TILE = 512


class MaskRows:
    """A mask that comes in from above to below, stored as a gray PNG picture of label numbers.

    libvips maps a raw file into memory, all of it, but reads a PNG picture row by row; no library here writes one so.
    """

    def __init__(self, stream: BinaryIO, size: tuple[int, int]) -> None:
        """Begin a picture of rows and columns."""
        height, width = size
        self._stream, self._deflate = stream, zlib.compressobj(1)
        stream.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))

    def add(self, rows: NDArray[np.uint8]) -> None:
        """Rows [row, column] below those before."""
        unfiltered = np.pad(rows, ((0, 0), (1, 0)))  # each row begins with the number of its filter
        self._chunk(b"IDAT", self._deflate.compress(unfiltered.tobytes()))

    def finish(self) -> None:
        """Nothing comes below."""
        self._chunk(b"IDAT", self._deflate.flush())
        self._chunk(b"IEND", b"")

    def _chunk(self, kind: bytes, content: bytes) -> None:
        check = struct.pack(">I", zlib.crc32(kind + content))
        self._stream.write(struct.pack(">I", len(content)) + kind + content + check)


def write_mask_tiff(rows: Path, path: Path, labels: Sequence[Label]) -> None:
    """Turn a mask of `MaskRows` into a BigTIFF pyramid of compressed tiles, and read it back.

    Args:
        rows: the mask.
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
    try:
        with atomic(path) as temporary:
            _pixels(rows, labels).tiffsave(
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
            intended, again = _pixels(rows, labels), _open(temporary)
            same = (again.height, again.width, again.bands) == (intended.height, intended.width, 1)
            if not same or (again != intended).max():
                what = "the TIFF file does not read back as it was written"
                raise OutputError(what, where=path, remedy="check the disk")
    except pyvips.Error as error:
        raise OutputError("the TIFF file could not be written", where=path, remedy="check the free space") from error


def _pixels(rows: Path, labels: Sequence[Label]) -> Any:
    stored = _open(rows)
    return (stored > 0) if len(labels) == 1 else stored  # of libvips, true is 255


def _open(path: Path) -> Any:
    import pyvips

    return pyvips.Image.new_from_file(str(path), access="sequential", fail_on="error")
