"""Masks as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cdal_sdk.atomic import atomic
from cdal_sdk.errors import OutputError
from cdal_sdk.study import Label

__all__ = ["write_mask_png"]


def write_mask_png(mask: NDArray[np.uint8], path: Path, labels: Sequence[Label]) -> None:
    """Write a 2-D mask as 8-bit gray PNG, and read it back.

    Args:
        mask: uint8 [row, column] of label numbers, 0 for background.
        path: ends in .png.
        labels: the model's labels. With one label, it is written as 255 so that it can be seen in any viewer;
            with several, their numbers are written as they are.

    Raises:
        OutputError: the mask is not 2-D, the file cannot be written or does not read back as intended.
    """
    if mask.ndim != 2:
        raise OutputError(f"a mask of shape {mask.shape} is not one picture", where=path, remedy="use --format nifti")
    pixels = np.where(mask > 0, 255, 0).astype(np.uint8) if len(labels) == 1 else mask
    with atomic(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
        with Image.open(temporary) as again:
            if not np.array_equal(np.asarray(again), pixels):
                raise OutputError("the PNG does not read back as it was written", where=path, remedy="check the disk")
