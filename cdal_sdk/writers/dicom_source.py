"""What a segmentation takes over from its source: identity, study and references, reduced to what is valid."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pydicom.config
from pydicom.datadict import dictionary_VM
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pydicom.valuerep import DA, TM, PersonName, validate_value

from cdal_sdk.errors import OutputError
from cdal_sdk.study import Study

__all__ = ["identity", "reduced_sources"]

_REPLACED = "\N{REPLACEMENT CHARACTER}"
_log = logging.getLogger(__name__)

# Type 2: must be present, may be empty.
_REQUIRED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
_WELCOME = (
    "IssuerOfPatientID", "PatientAge", "PatientSize", "PatientWeight", "PatientIdentityRemoved",
    "DeidentificationMethod", "DeidentificationMethodCodeSequence", "StudyDescription",
    "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod", "PositionReferenceIndicator",
)  # fmt: skip
_MULTI_FRAME = ("NumberOfFrames", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


def identity(header: Dataset, case: str) -> Dataset:
    """Who and which study: what the segmentation has in common with its source, invalid values left out.

    It is put into the finished object, past highdicom, whose warnings quote names that it finds unusual. An archive
    assigns it by these tags, so that a warning names those that are left empty, without what the source has there.
    """
    identity = Dataset()
    for keyword in _REQUIRED:
        setattr(identity, keyword, _valid(header, keyword) or "")
    for keyword in _WELCOME:
        if (value := _valid(header, keyword)) is not None:
            setattr(identity, keyword, value)
    if identity.PatientSex not in ("M", "F", "O"):
        identity.PatientSex = ""
    lost = [keyword for keyword in _REQUIRED if identity[keyword].is_empty and _is_given(header, keyword)]
    if lost:
        _log.warning("%s: left empty, since DICOM does not allow what its source has: %s", case, ", ".join(lost))
    if "ImagePositionPatient" not in header and "SharedFunctionalGroupsSequence" not in header:
        identity.PatientOrientation = _valid(header, "PatientOrientation") or ""
    return identity


def reduced_sources(headers: Sequence[Dataset], study: Study) -> list[Dataset]:
    """The sources' headers, in the order of the slices, reduced to what highdicom needs and made consistent."""
    first = headers[0]
    common = Dataset()
    for keyword in _REQUIRED:
        setattr(common, keyword, "")
    common.StudyInstanceUID = first.get("StudyInstanceUID") or generate_uid()
    if not first.get("StudyInstanceUID"):
        _log.warning("%s: in a study of its own, since its source has no StudyInstanceUID", study.case)
    common.SeriesInstanceUID = first.SeriesInstanceUID
    common.Modality = study.modality or "OT"
    common.Rows, common.Columns = first.Rows, first.Columns
    number = _valid(first, "SeriesNumber")
    common.SeriesNumber = int(number) if number is not None and 0 <= int(number) < 1_000_000 else 0
    if study.affine is not None:
        common.FrameOfReferenceUID = first.get("FrameOfReferenceUID") or generate_uid()
    elif first.get("FrameOfReferenceUID"):
        common.FrameOfReferenceUID = first.FrameOfReferenceUID
    sources = [_source(header, common, study) for header in headers]
    if len({source.SOPInstanceUID for source in sources}) < len(sources):
        raise _unreferable("slices share a SOPInstanceUID", study)
    return sources


def _source(header: Dataset, common: Dataset, study: Study) -> Dataset:
    source = Dataset()
    source.update(common)
    source.SOPClassUID, source.SOPInstanceUID = (
        _uid(header, keyword, study) for keyword in ("SOPClassUID", "SOPInstanceUID")
    )
    if "SharedFunctionalGroupsSequence" in header:
        for keyword in _MULTI_FRAME:
            source[keyword] = header[keyword]
        if study.source.frames:
            groups = header.PerFrameFunctionalGroupsSequence
            source.PerFrameFunctionalGroupsSequence = [groups[number] for number in study.source.frames]
            source.NumberOfFrames = len(study.source.frames)
    elif study.affine is not None:
        *_, between = np.linalg.norm(study.affine[:3, :3], axis=0)
        source.ImagePositionPatient = header.ImagePositionPatient
        source.ImageOrientationPatient = header.ImageOrientationPatient
        source.PixelSpacing = header.PixelSpacing
        source.SliceThickness = _valid(header, "SliceThickness") or _decimal(between)
        source.SpacingBetweenSlices = _decimal(between)
    return source


def _uid(header: Dataset, keyword: str, study: Study) -> str:
    """A UID that frames refer to, from the file's meta information where the data set lost it."""
    meta = header.file_meta if hasattr(header, "file_meta") else Dataset()
    uid = header.get(keyword) or meta.get(f"MediaStorage{keyword}")
    if not uid:
        raise _unreferable(f"an image has no {keyword}", study)
    return str(uid)


def _unreferable(what: str, study: Study) -> OutputError:
    return OutputError(
        f"{what}, so that a DICOM segmentation cannot refer to its source",
        where=study.case,
        remedy="export the series again, or convert it to NIfTI and segment that",
    )


def _decimal(value: float) -> str:
    return f"{value:.10g}"  # a DICOM decimal string has at most 16 characters


def _is_given(header: Dataset, keyword: str) -> bool:
    element = header.get_item(keyword)  # as it is, however wrong
    value = None if element is None else element.value
    return bool(value.strip(b" \0") if isinstance(value, bytes) else value)


def _valid(header: Dataset, keyword: str) -> Any:
    """The value of a tag, or None where it is absent, empty or not what DICOM allows, such as two instead of one."""
    try:
        raw = getattr(header.get_item(keyword), "value", None)
        element = header[keyword]
        if element.is_empty or element.VR == "SQ":
            return element.value or None
        if element.VM > 1 and dictionary_VM(element.tag) == "1":
            return None
        for value in element.value if element.VM > 1 else [element.value]:
            validate_value(element.VR, value, pydicom.config.RAISE)
            if element.VR in ("DA", "TM"):
                {"DA": DA, "TM": TM}[element.VR](value)
            if _REPLACED in str(value) and not (isinstance(raw, bytes) and _REPLACED.encode() in raw):
                return None  # what cannot be decoded, unless the source has the character itself
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError):
        return None
    # Without its raw bytes, a name is written in our own character set instead of the source's.
    return PersonName(str(element.value)) if element.VR == "PN" else element.value
