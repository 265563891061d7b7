"""Pictures that are too large to be read whole, by libvips: a band of rows after the other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdal_sdk.errors import MissingExtraError, ReadError
from cdal_sdk.readers.limits import LIMITS

__all__ = ["LargePicture", "Shape", "open_large", "read_gray"]

_UPRIGHT = (0, 1)  # of the TIFF and EXIF orientations, those in which rows are rows
_DEPTHS = {"uchar": "uint8", "ushort": "uint16"}
_KINDS = ("srgb", "rgb", "rgb16", "b-w", "grey16")
_LOADERS = ("pngload", "jpegload", "tiffload")
_SAVE_AGAIN = "save it as gray or RGB TIFF of 8 or 16 bits"


@dataclass(frozen=True)
class Shape:
    """What is known of a picture before it is read: rows, columns, channels, and NumPy's name of its numbers."""

    height: int
    width: int
    channels: int
    dtype: str


class LargePicture:
    """An open picture, of which rows are taken from above to below."""

    def __init__(self, image: Any, shape: Shape) -> None:
        import pyvips

        self.shape = shape
        self._region = pyvips.Region.new(image)

    def rows(self, start: int, stop: int) -> bytes:
        """Rows as raw numbers, [row, column, channel]; they must not lie above those of an earlier call."""
        content: bytes = bytes(self._region.fetch(0, start, self.shape.width, stop - start))
        return content


def open_large(path: Path) -> LargePicture:
    """Open a PNG, JPEG or TIFF picture of any size.

    Of a TIFF file with several pictures the first is taken, if the others are smaller: so pyramids are stored.
    Transparency is dropped. The rotation that EXIF asks for is applied; libvips then unpacks a picture that is not in
    tiles to a temporary file first, since the columns of one are the rows of the other.

    Raises:
        MissingExtraError: libvips is not installed.
        ReadError: it is damaged, larger than is sane, or neither gray nor RGB of 8 or 16 bits.
    """
    try:
        import pyvips
    except ModuleNotFoundError:
        raise MissingExtraError("pyvips", "slides") from None
    try:
        image = pyvips.Image.new_from_file(str(path), access="sequential", fail_on="error")
        _check(image, path)
        if _turned(image):
            image = pyvips.Image.new_from_file(str(path), access="random", fail_on="error").autorot()
    except pyvips.Error as error:  # its text may quote the file
        raise ReadError("the picture is truncated or damaged", where=path, remedy="export it again") from error
    channels = 1 if image.bands < 3 else 3
    shape = Shape(image.height, image.width, channels, _DEPTHS[image.format])
    return LargePicture(image.extract_band(0, n=channels), shape)


def _check(image: Any, path: Path) -> None:
    if not str(image.get("vips-loader")).startswith(_LOADERS):
        raise ReadError("this is no PNG, JPEG or TIFF picture", where=path, remedy=_SAVE_AGAIN)
    if image.width * image.height > LIMITS.parts_pixels:
        what = f"it claims {image.height} x {image.width} pixels, the limit is {LIMITS.parts_pixels}"
        raise ReadError(what, where=path, remedy="cut it into parts")
    if image.format not in _DEPTHS or image.interpretation not in _KINDS:
        raise ReadError("its pixels are of an unusual kind", where=path, remedy=_SAVE_AGAIN)
    if _turned(image) and image.width * image.height > LIMITS.pixels:
        what = f"it is to be turned, and has more than {LIMITS.pixels} pixels"
        raise ReadError(what, where=path, remedy="save it upright")
    pages = image.get("n-pages") if image.get_typeof("n-pages") else 1
    for page in range(1, pages):
        other = type(image).new_from_file(str(path), access="sequential", page=page)
        if other.width >= image.width or other.height >= image.height:
            raise ReadError("the file holds more than one picture", where=path, remedy="save them as single files")


def _turned(image: Any) -> bool:
    return bool(image.get_typeof("orientation")) and image.get("orientation") not in _UPRIGHT


def read_gray(path: Path) -> NDArray[np.uint8]:
    """A gray picture of 8 bits that we wrote, whole, [row, column].

    Raises:
        MissingExtraError: libvips is not installed.
        Exception: whatever libvips raises for a damaged file.
    """
    try:
        import pyvips
    except ModuleNotFoundError:
        raise MissingExtraError("pyvips", "slides") from None
    image = pyvips.Image.new_from_file(str(path))
    return np.frombuffer(image.write_to_memory(), np.uint8).reshape(image.height, image.width)
