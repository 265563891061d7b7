"""PNG, JPEG and TIFF pictures to planar studies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cdal_sdk.errors import LargePictureError, ReadError
from cdal_sdk.readers.limits import check_voxels
from cdal_sdk.study import Source, Study

__all__ = ["read_image"]

_IN_PARTS = "use cdal segment with a model that takes tiles, or cut it into parts"
_SAVE_AGAIN = "save it as gray of 8 or 16 bits, or as RGB of 8 bits"
_BITS = 258  # the tag of a TIFF file that tells them for each channel
_PHOTOMETRIC = 262  # the tag that is 0 where white is; of 8 bits, Pillow inverts such pictures itself
_MOST_OF_16_BITS = np.float32(65535)
_FORMATS = ("PNG", "JPEG", "TIFF")
_GRAY = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def read_image(case: str, path: Path, whole_pixels: int | None = None) -> Study:
    """Read one picture.

    The rotation that EXIF asks for is applied, so rows and columns are those that a viewer shows. Transparency is
    dropped and the stored colours are kept: blending with a background would change the values. The resolution in
    dots per inch says how to print, not how large the subject was, so the pixel spacing stays unknown.

    Args:
        case: its name in outputs.
        path: the file.
        whole_pixels: a larger picture is not read; None for no limit of the caller's.

    Returns:
        [channel, row, column, 1] with one channel for gray and three for colour, stored values (0 to 255; gray also to
        65535, or real numbers).

    Raises:
        LargePictureError: it is to be read part by part.
        ReadError: the file is truncated or damaged, too large to be safe, holds several pictures, or colours of more
            than 8 bits.
    """
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            if whole_pixels is not None and picture.height * picture.width > whole_pixels:
                raise LargePictureError("the picture is too large to be read whole", where=path, remedy=_IN_PARTS)
            if picture.format in ("TIFF", "PNG") and getattr(picture, "n_frames", 1) > 1:
                what = f"the {picture.format} file holds more than one picture"
                raise ReadError(what, where=path, remedy="save them as single files")
            check_voxels((picture.height, picture.width), len(picture.getbands()), path)
            if _loses_bits(picture):
                what = "its pixels are 16-bit colours, or 16-bit gray with transparency"
                raise ReadError(what, where=path, remedy=_SAVE_AGAIN)
            white_is_zero = _tag(picture, _PHOTOMETRIC) == 0
            if white_is_zero and picture.mode == "F":
                raise ReadError("its pixels are real numbers, and inverted", where=path, remedy=_SAVE_AGAIN)
            pixels = _values(ImageOps.exif_transpose(picture), white_is_zero=white_is_zero)
    except Image.DecompressionBombError as error:
        kind = ReadError if whole_pixels is None else LargePictureError
        raise kind("the picture is too large to be opened whole", where=path, remedy=_IN_PARTS) from error
    except UnidentifiedImageError as error:
        what = (
            "its header is damaged, or its pixels are of a kind that is not read, such as 16-bit gray with transparency"
        )
        raise ReadError(what, where=path, remedy=_SAVE_AGAIN) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ReadError(
            f"the picture is truncated or damaged ({type(error).__name__})",
            where=path,
            remedy="copy or export it again",
        ) from error
    if not np.isfinite(pixels).all():
        raise ReadError("some pixels are not finite numbers", where=path, remedy="replace NaN and infinity first")
    return Study(case, pixels[..., np.newaxis], None, Source("image", (path,)))


def _tag(picture: Image.Image, number: int) -> Any:
    """A tag of a TIFF file, None in any other."""
    return getattr(picture, "tag_v2", {}).get(number) if picture.format == "TIFF" else None


def _loses_bits(picture: Image.Image) -> bool:
    """Whether Pillow would drop the lower 8 bits of each value, as it does of all but gray."""
    deep = ";16" in str(getattr(picture, "tile", "")) or max(_tag(picture, _BITS) or (8,)) > 8
    return deep and picture.mode not in _GRAY


def _values(picture: Image.Image, *, white_is_zero: bool) -> np.ndarray[tuple[int, int, int], np.dtype[np.float32]]:
    """[channel, row, column] of stored values."""
    if picture.mode in _GRAY:
        gray = picture.convert("L") if picture.mode in ("1", "LA", "La") else picture
        values = np.asarray(gray, dtype=np.float32)[np.newaxis]
        return _MOST_OF_16_BITS - values if white_is_zero and picture.mode.startswith("I;16") else values
    # Palettes, CMYK, YCbCr and the like become RGB; RGBA loses its last channel and nothing else.
    return np.ascontiguousarray(np.moveaxis(np.asarray(picture.convert("RGB"), dtype=np.float32), -1, 0))
