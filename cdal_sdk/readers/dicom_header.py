"""DICOM headers parsed, as far as the grouping into series needs it."""

from __future__ import annotations

from pathlib import Path

from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID

from cdal_sdk.errors import ReadError
from cdal_sdk.readers.dicom_file import open_dicom
from cdal_sdk.readers.dicom_frames import volumes_of
from cdal_sdk.readers.dicom_split import MARKS
from cdal_sdk.readers.header import Header

__all__ = ["is_dicom_without_preamble", "read_header"]

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
_AGAIN = "copy or export it again"


def is_dicom_without_preamble(path: Path) -> bool:
    """Whether a file without the DICOM magic still is a DICOM data set with a SOP class."""
    try:
        header = open_dicom(path, tags=["SOPClassUID"])
        return bool(header.get("SOPClassUID"))
    except Exception:  # noqa: BLE001 -- any failure to parse says that it is something else
        return False


def read_header(path: Path, *, explicit: bool) -> Header | None:
    """What the header says, or None for an object without an image that the user did not name himself."""
    series = ""
    try:
        header = open_dicom(path, tags=_TAGS)
        series = str(header.get("SeriesInstanceUID") or "")
        complete = all(header.get(keyword) for keyword in _IMAGE)
        if not _may_be_image(header, complete=complete):
            problem = ("this DICOM object holds no image", "give the image series itself")
            return Header(problem=problem) if explicit else None
        if complete and series:
            size = (int(header.Rows), int(header.Columns))
            frame, frames = _frame(header), int(header.get("NumberOfFrames") or 1)
            sop_class = str(header.get("SOPClassUID") or "")
            if frame is None:
                volumes = volumes_of(path) if frames > 1 else ()
                return Header(series, size, sop_class, marks=_marks_of(header), frames=frames, volumes=volumes)
            position = tuple(float(value) for value in header.ImagePositionPatient)
            return Header(series, size, sop_class, frame, position, _marks_of(header), frames)
        what = "the SeriesInstanceUID is missing" if complete else "the DICOM file is truncated or damaged"
        return Header(series, problem=(what, _AGAIN))
    except ReadError as error:
        return Header(series, problem=(error.what, error.remedy or _AGAIN))
    except Exception as error:  # noqa: BLE001 -- a damaged header fails anywhere
        return Header(series, problem=(f"the DICOM header is damaged ({type(error).__name__})", _AGAIN))


def _marks_of(header: Dataset) -> dict[str, str]:
    """The values of a header that tell volumes apart, those that are missing or damaged left out."""
    marks = {}
    for keyword in MARKS:
        try:
            value = header.get(keyword)
        except Exception:  # noqa: BLE001, S112 - a damaged value tells nothing
            continue
        if value not in (None, ""):
            marks[keyword] = repr(float(value)) if isinstance(value, float) else str(value)  # "2.460" is 2.46
    return marks


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
