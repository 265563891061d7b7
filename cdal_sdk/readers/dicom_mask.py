"""DICOM Segmentations read frame by frame, from their tags alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from cdal_sdk.readers.dicom_file import open_dicom
from cdal_sdk.readers.dicom_frames import functional_group
from cdal_sdk.readers.dicom_geometry import stack_slices
from cdal_sdk.readers.mask import WrittenMask

__all__ = ["instance_uid", "read_segmentation"]

_SAME_POSITION_DIGITS = 3


def instance_uid(path: Path) -> str:
    """The SOPInstanceUID of a file, from its meta information where the data set lost it."""
    dataset = open_dicom(path, tags=["SOPInstanceUID"])
    return str(dataset.get("SOPInstanceUID") or dataset.file_meta.MediaStorageSOPInstanceUID)


def read_segmentation(path: Path, values: Sequence[int], *, planar: bool) -> WrittenMask:
    """Read a BINARY segmentation whose segments do not overlap; see `read_mask`."""
    dataset = open_dicom(path, pixels=True)
    frames: NDArray[np.uint8] = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    groups = dataset.PerFrameFunctionalGroupsSequence
    segments = [
        functional_group(group, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber for group in groups
    ]
    numbers = [values[segment - 1] for segment in segments]
    if planar:
        mask = np.zeros(frames.shape[1:], np.uint8)
        for frame, number in zip(frames, numbers, strict=True):
            mask[frame > 0] = number
        return WrittenMask(mask, None, _references(dataset))
    placed = [functional_group(group, shared, "PlanePositionSequence").ImagePositionPatient for group in groups]
    positions = [tuple(round(float(value), _SAME_POSITION_DIGITS) for value in position) for position in placed]
    places = sorted(set(positions))
    measures = shared.PixelMeasuresSequence[0]
    stack = stack_slices(
        np.array(places, np.float64),
        shared.PlaneOrientationSequence[0].ImageOrientationPatient,
        measures.PixelSpacing,
        thickness=float(measures.get("SpacingBetweenSlices") or measures.SliceThickness),
        where=path,
    )
    slot = {places[index]: number for number, index in enumerate(stack.order)}
    mask = np.zeros((*frames.shape[:0:-1], len(places)), np.uint8)
    for frame, number, position in zip(frames, numbers, positions, strict=True):
        mask[..., slot[position]][frame.T > 0] = number
    return WrittenMask(mask, stack.affine, _references(dataset))


def _references(dataset: Dataset) -> frozenset[str]:
    return frozenset(
        str(instance.ReferencedSOPInstanceUID)
        for series in dataset.get("ReferencedSeriesSequence", [])
        for instance in series.ReferencedInstanceSequence
    )
