"""PNG, JPEG and TIFF pictures to planar studies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cdal_sdk.errors import ReadError
from cdal_sdk.readers.limits import check_voxels
from cdal_sdk.study import Source, Study

__all__ = ["read_image"]

_FORMATS = ("PNG", "JPEG", "TIFF")
_GRAY = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def read_image(case: str, path: Path) -> Study:
    """Read one picture.

    The rotation that EXIF asks for is applied, so rows and columns are those that a viewer shows. Transparency is
    dropped and the stored colours are kept: blending with a background would change the values. The resolution in
    dots per inch says how to print, not how large the subject was, so the pixel spacing stays unknown.

    Args:
        case: its name in outputs.
        path: the file.

    Returns:
        [channel, row, column, 1] with one channel for gray and three for colour, stored values (0 to 255 or 65535).

    Raises:
        ReadError: the file is truncated or damaged, too large to be safe, or holds several pictures.
    """
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            if picture.format == "TIFF" and getattr(picture, "n_frames", 1) > 1:
                raise ReadError(
                    "the TIFF file holds more than one picture", where=path, remedy="save its pages as single files"
                )
            check_voxels((picture.height, picture.width), len(picture.getbands()), path)
            upright = ImageOps.exif_transpose(picture)
            pixels = _values(upright)
    except Image.DecompressionBombError as error:
        raise ReadError(
            "the picture is too large to be opened safely", where=path, remedy="cut it into tiles"
        ) from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError) as error:
        raise ReadError(
            f"the picture is truncated or damaged ({type(error).__name__})",
            where=path,
            remedy="copy or export it again",
        ) from error
    if not np.isfinite(pixels).all():
        raise ReadError("some pixels are not finite numbers", where=path, remedy="replace NaN and infinity first")
    return Study(case, pixels[..., np.newaxis], None, Source("image", (path,)))


def _values(picture: Image.Image) -> np.ndarray[tuple[int, int, int], np.dtype[np.float32]]:
    """[channel, row, column] of stored values."""
    if picture.mode in _GRAY:
        gray = picture.convert("L") if picture.mode in ("1", "LA", "La") else picture
        return np.asarray(gray, dtype=np.float32)[np.newaxis]
    # Palettes, CMYK, YCbCr and the like become RGB; RGBA loses its last channel and nothing else.
    return np.ascontiguousarray(np.moveaxis(np.asarray(picture.convert("RGB"), dtype=np.float32), -1, 0))
