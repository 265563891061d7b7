"""Masks that a run wrote, read again by code that did not write them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["WrittenMask", "read_mask"]


@dataclass(frozen=True)
class WrittenMask:
    """A mask on disk.

    Attributes:
        mask: uint8 [i, j, k] of label numbers; of a picture [row, column].
        affine: float64 [4, 4], voxel index to RAS millimetres; None where the file has none.
        references: SOPInstanceUIDs of the images that a DICOM segmentation says it was made from.
    """

    mask: NDArray[np.uint8]
    affine: NDArray[np.float64] | None = None
    references: frozenset[str] = frozenset()


def read_mask(path: Path, values: Sequence[int], *, planar: bool) -> WrittenMask:
    """Read a mask as NIfTI, PNG or DICOM segmentation.

    Args:
        path: the file, its kind known by its suffix.
        values: number of each label, in the order of the segments.
        planar: whether it belongs to a picture without a place in the patient.

    Raises:
        Exception: whatever a library raises for a damaged file.
    """
    if path.suffix == ".dcm":
        from cdal_sdk.readers.dicom_mask import read_segmentation

        return read_segmentation(path, values, planar=planar)
    if path.suffix == ".tif":
        from cdal_sdk.readers.large_picture import read_gray

        pixels = read_gray(path)
        return WrittenMask(np.where(pixels > 0, values[0], 0).astype(np.uint8) if len(values) == 1 else pixels)
    if path.suffix == ".png":
        with Image.open(path, formats=("PNG",)) as picture:
            pixels = np.asarray(picture)
        return WrittenMask(np.where(pixels > 0, values[0], 0).astype(np.uint8) if len(values) == 1 else pixels)
    from cdal_sdk.readers.nifti import read_labels

    voxels, affine = read_labels(path)
    if planar:  # written as [column, row, 1]
        return WrittenMask(voxels[..., 0].T)
    return WrittenMask(voxels, affine)
