"""DICOM headers grouped into series: what belongs together in one volume, what stands alone, what is no image."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID

from cdal_sdk.errors import ReadError
from cdal_sdk.readers.case_files import CaseFiles
from cdal_sdk.readers.dicom_file import open_dicom
from cdal_sdk.readers.dicom_split import MARKS, Placed, divide, marks_of

__all__ = ["group_series", "is_dicom_without_preamble"]

_TAGS = [
    "SOPClassUID",
    "SeriesInstanceUID",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "BitsAllocated",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    *MARKS,
]
# They carry pixels, but no picture of a patient that could be segmented.
_NOT_IMAGES = ("Segmentation", "RT Dose", "Parametric Map", "Real World Value", "Presentation State", "Waveform")
# Every image has them, and in a file they come after what places it: where one is missing, more is.
_IMAGE = ("Rows", "Columns", "BitsAllocated")
# Cosines and spacings that differ by less than the rounding of a decimal string belong to one stack.
_SAME = 1e-3


@dataclass(frozen=True)
class _Slice:
    """What a header says about where its image belongs."""

    path: Path
    series: str = ""
    size: tuple[int, int] = (0, 0)
    sop_class: str = ""
    frame: tuple[float, ...] | None = None  # orientation cosines and pixel spacing; None where the image stands alone
    placed: Placed | None = None  # its position, where it has a frame
    frames: int = 1
    error: ReadError | None = None  # why the rest is not known


def is_dicom_without_preamble(path: Path) -> bool:
    """Whether a file without the DICOM magic still is a DICOM data set with a SOP class."""
    try:
        header = open_dicom(path, tags=["SOPClassUID"])
        return bool(header.get("SOPClassUID"))
    except Exception:  # noqa: BLE001 -- any failure to parse says that it is something else
        return False


def group_series(paths: Sequence[Path], explicit: Collection[Path] = ()) -> list[CaseFiles]:
    """Group DICOM files into cases.

    Args:
        paths: DICOM files.
        explicit: those that the user named himself, which therefore must not be passed over.

    Returns:
        One case for each volume of one series (echoes, acquisitions and repetitions are volumes of their own), for
        each multi-frame file and for each image without a place in the patient. A damaged file of a stack makes its
        whole series fail, since a volume without it would pass for a complete one; of any other kind, it is a case
        with an error.
    """
    series: dict[str, list[_Slice]] = {}
    for path in paths:
        piece = _header(path, explicit=path in explicit)
        if piece is not None:
            series.setdefault(piece.series, []).append(piece)
    return [case for pieces in series.values() for case in _cases(pieces)]


def _cases(pieces: Sequence[_Slice]) -> list[CaseFiles]:
    """The cases of one series."""
    stacks: list[list[_Slice]] = []
    for piece in pieces:
        if piece.frame is not None:
            stack = next((stack for stack in stacks if _same_stack(stack[0], piece)), None)
            if stack is None:
                stacks.append([piece])
            else:
                stack.append(piece)
    placed_classes = {piece.sop_class for stack in stacks for piece in stack}
    pieces = [_with_place(piece, placed_classes) for piece in pieces]
    damaged = [piece for piece in pieces if piece.error]
    single = [piece for piece in pieces if not piece.error and piece.frame is None]
    cases = [CaseFiles(piece.series, "dicom", (piece.path,)) for piece in single]
    if not stacks:
        return cases + [CaseFiles(piece.path.stem, "dicom", (piece.path,), piece.error) for piece in damaged]
    error = damaged[0].error if damaged else None
    volumes = [volume for stack in stacks for volume in divide([piece.placed for piece in stack if piece.placed])]
    paths = [tuple(piece.path for piece in volume) for volume in volumes]
    paths[0] += tuple(piece.path for piece in damaged)  # in one case only, as every file is
    return cases + [CaseFiles(pieces[0].series, "dicom", members, error) for members in paths]


def _with_place(piece: _Slice, placed_classes: Collection[str]) -> _Slice:
    """The slice, with an error where it has no place although its like in the series have one."""
    if piece.error or piece.frame is not None or piece.frames > 1 or piece.sop_class not in placed_classes:
        return piece
    what = "the position, orientation or pixel spacing of a slice is missing"
    return replace(piece, error=ReadError(what, where=piece.path, remedy="export the series again"))


def _header(path: Path, *, explicit: bool) -> _Slice | None:
    """What the header says, or None for an object without an image that the user did not name himself."""
    series = ""
    try:
        header = open_dicom(path, tags=_TAGS)
        series = str(header.get("SeriesInstanceUID") or "")
        complete = all(header.get(keyword) for keyword in _IMAGE)
        if not _may_be_image(header, complete=complete):
            error = ReadError("this DICOM object holds no image", where=path, remedy="give the image series itself")
            return _Slice(path, error=error) if explicit else None
        if complete and series:
            size = (int(header.Rows), int(header.Columns))
            frame, frames = _frame(header), int(header.get("NumberOfFrames") or 1)
            position = tuple(float(value) for value in header.ImagePositionPatient) if frame is not None else ()
            placed = None if frame is None else Placed(path, position, marks_of(header))
            return _Slice(path, series, size, str(header.get("SOPClassUID") or ""), frame, placed, frames)
        what = "the SeriesInstanceUID is missing" if complete else "the DICOM file is truncated or damaged"
        return _Slice(path, series, error=ReadError(what, where=path, remedy="copy or export it again"))
    except ReadError as error:
        return _Slice(path, series, error=error)
    except Exception as error:  # noqa: BLE001 -- a damaged header fails anywhere
        what = f"the DICOM header is damaged ({type(error).__name__})"
        return _Slice(path, series, error=ReadError(what, where=path, remedy="copy or export it again"))


def _may_be_image(header: FileDataset, *, complete: bool) -> bool:
    # A DICOMDIR, and a file that is cut off early, have their class in the file meta information only.
    uid = UID(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or "")
    if any(part in uid.name for part in _NOT_IMAGES):
        return False
    if uid.name == uid:  # a private class, whose objects need no image, or a class that is cut off with all behind it
        return complete or not header.get("SeriesInstanceUID")
    return complete or "Image Storage" in uid.name


def _frame(header: Dataset) -> tuple[float, ...] | None:
    if "NumberOfFrames" in header and int(header.NumberOfFrames or 1) > 1:
        return None
    values = [header.get(keyword) for keyword in ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing")]
    if any(value is None for value in values):
        return None
    return tuple(float(number) for number in [*header.ImageOrientationPatient, *header.PixelSpacing])


def _same_stack(one: _Slice, other: _Slice) -> bool:
    """Whether two slices of one series belong to one volume."""
    if one.frame is None or other.frame is None or (one.size, len(one.frame)) != (other.size, len(other.frame)):
        return False
    return all(math.isclose(a, b, abs_tol=_SAME) for a, b in zip(one.frame, other.frame, strict=True))
