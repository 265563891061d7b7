"""DICOM headers grouped into series: what belongs together in one volume, what stands alone, what is no image."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID

from cdal_sdk.errors import ReadError
from cdal_sdk.readers.case_files import CaseFiles

__all__ = ["group_series", "is_dicom_without_preamble"]

_TAGS = [
    "SOPClassUID",
    "SeriesInstanceUID",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
]
# They carry pixels, but no picture of a patient that could be segmented.
_NOT_IMAGES = ("Segmentation", "RT Dose", "Parametric Map", "Real World Value", "Presentation State", "Waveform")
# Cosines and spacings that differ by less than the rounding of a decimal string belong to one stack.
_SAME = 1e-3


@dataclass(frozen=True)
class _Slice:
    """What a header says about where its image belongs."""

    path: Path
    series: str
    size: tuple[int, int]
    frame: tuple[float, ...] | None  # orientation cosines and pixel spacing; None where the image stands alone


def is_dicom_without_preamble(path: Path) -> bool:
    """Whether a file without the DICOM magic still is a DICOM data set with a SOP class."""
    try:
        header = dcmread(path, force=True, stop_before_pixels=True, specific_tags=["SOPClassUID"])
        return bool(header.get("SOPClassUID"))
    except Exception:  # noqa: BLE001 -- any failure to parse says that it is something else
        return False


def group_series(paths: Sequence[Path], explicit: Collection[Path] = ()) -> list[CaseFiles]:
    """Group DICOM files into cases.

    Args:
        paths: DICOM files.
        explicit: those that the user named himself, which therefore must not be passed over.

    Returns:
        One case for each stack of slices of one series, for each multi-frame file and for each image without a place
        in the patient; and one with an error for each file that should have been one.
    """
    stacks: list[tuple[_Slice, list[Path]]] = []
    cases: list[CaseFiles] = []
    for path in paths:
        try:
            piece = _header(path)
        except ReadError as error:
            cases.append(CaseFiles(path.stem, "dicom", (path,), error))
            continue
        if piece is None:
            if path in explicit:
                no_image = ReadError(
                    "this DICOM object holds no image", where=path, remedy="give the image series itself"
                )
                cases.append(CaseFiles(path.stem, "dicom", (path,), no_image))
            continue
        stack = next((members for first, members in stacks if _same_stack(first, piece)), None)
        if stack is None:
            stacks.append((piece, [path]))
        else:
            stack.append(path)
    return cases + [CaseFiles(first.series, "dicom", tuple(members)) for first, members in stacks]


def _header(path: Path) -> _Slice | None:
    try:
        header = dcmread(path, force=True, stop_before_pixels=True, specific_tags=list(_TAGS))
        name = UID(header.get("SOPClassUID") or "").name
        if not header.get("Rows") or any(part in name for part in _NOT_IMAGES):
            return None
        series = str(header.get("SeriesInstanceUID") or "")
        piece = _Slice(path, series, (int(header.Rows), int(header.Columns)), _frame(header))
    except Exception as error:  # a damaged header fails anywhere
        raise ReadError("the DICOM header is damaged", where=path, remedy="export the file again") from error
    if not series:
        raise ReadError("the SeriesInstanceUID is missing", where=path, remedy="export the series again")
    return piece


def _frame(header: Dataset) -> tuple[float, ...] | None:
    if "NumberOfFrames" in header and int(header.NumberOfFrames or 1) > 1:
        return None
    values = [header.get(keyword) for keyword in ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing")]
    if any(value is None for value in values):
        return None
    return tuple(float(number) for number in [*header.ImageOrientationPatient, *header.PixelSpacing])


def _same_stack(one: _Slice, other: _Slice) -> bool:
    if one.frame is None or other.frame is None:
        return False
    return (one.series, one.size) == (other.series, other.size) and np.allclose(one.frame, other.frame, atol=_SAME)
