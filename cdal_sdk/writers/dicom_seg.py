"""Masks as DICOM Segmentation objects that refer to the images they were made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom.config
from highdicom.seg import Segmentation, SegmentDescription
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid
from pydicom.valuerep import DA, TM, PersonName, validate_value

from cdal_sdk.errors import CdalError, OutputError
from cdal_sdk.study import Code, Label, Study
from cdal_sdk.writers.atomic import atomic

__all__ = ["Algorithm", "write_dicom_seg"]

_MANUFACTURER = "cDAL SDK"
_SERIAL_NUMBER = "0"  # required, and software has none
_FIRST_SERIES_NUMBER = 1000  # added to the source's, so that both sort together and never collide
_TOLERANCE = 0.1  # of a voxel, for the rounding of decimal strings
_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

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


@dataclass(frozen=True)
class Algorithm:
    """What made the mask: the model's name and version."""

    name: str
    version: str


def write_dicom_seg(
    mask: NDArray[np.uint8], study: Study, labels: Sequence[Label], algorithm: Algorithm, path: Path
) -> None:
    """Write a mask as a BINARY DICOM Segmentation, and read it back.

    There is one segment per label, in the order of `labels`, and one frame per segment and source image. Empty frames
    are kept: viewers that place overlays by frame number would shift them otherwise. Patient and study are the
    source's; of its tags, those that are missing or invalid are left empty, so that no result is lost over them.

    Args:
        mask: uint8 [i, j, k] of label numbers on the study's grid, 0 for background.
        study: a study that was read from DICOM.
        labels: the model's labels, all of them, also where the mask has none of their voxels.
        algorithm: the model.
        path: ends in .dcm.

    Raises:
        OutputError: the study is not DICOM, the mask does not match it, or the file cannot be written or does not
            read back, voxel for voxel and place for place, as intended.
    """
    if study.source.kind != "dicom":
        raise OutputError(
            "a DICOM segmentation needs a DICOM source", where=path, remedy="choose another format for this case"
        )
    if mask.shape != study.grid:
        raise OutputError(f"the shape {mask.shape} of the mask is not that of its source, {study.grid}", where=path)
    values = np.array([0, *(label.value for label in labels)], np.uint8)
    if not np.isin(mask, values).all():
        raise OutputError("the mask holds a number that no label has", where=path, remedy="check the model's labels")
    segments = np.zeros(256, np.uint8)
    segments[values] = np.arange(len(values))
    try:
        headers = [dcmread(source, force=True, stop_before_pixels=True) for source in study.source.paths]
        segmentation = _segmentation(segments[mask], study, _sources(headers, study), labels, algorithm)
        segmentation.update(_identity(headers[0]))
        with atomic(path) as temporary:
            segmentation.save_as(temporary, enforce_file_format=True)
            _check(temporary, mask, values, study, path)
    except CdalError:
        raise
    except Exception as error:  # highdicom raises anything
        raise OutputError(
            f"no DICOM segmentation can be made for this series ({type(error).__name__})",
            where=study.source.paths[0],
            remedy="choose --format nifti for it",
        ) from error


def _segmentation(
    segments: NDArray[np.uint8],
    study: Study,
    sources: Sequence[Dataset],
    labels: Sequence[Label],
    algorithm: Algorithm,
) -> Segmentation:
    """The object for [i, j, k] of segment numbers."""
    pixels: NDArray[np.uint8] | highdicom.Volume
    if study.affine is None:
        pixels = np.ascontiguousarray(segments.transpose(2, 0, 1))
    else:
        pixels = highdicom.Volume(
            np.ascontiguousarray(segments.transpose(2, 1, 0)),
            (_LPS_FROM_RAS @ study.affine)[:, [2, 1, 0, 3]],
            coordinate_system="PATIENT",
        )
    return Segmentation(
        source_images=sources,
        pixel_array=pixels,
        segmentation_type="BINARY",
        segment_descriptions=[_description(number, label, algorithm) for number, label in enumerate(labels, 1)],
        series_instance_uid=generate_uid(),
        series_number=sources[0].SeriesNumber + _FIRST_SERIES_NUMBER,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=_MANUFACTURER,
        manufacturer_model_name=algorithm.name[:64],
        software_versions=algorithm.version[:64],
        device_serial_number=_SERIAL_NUMBER,
        series_description=f"Segmentation by {algorithm.name}"[:64],
        content_label="SEGMENTATION",
        content_description=f"{algorithm.name} {algorithm.version}"[:64],
        specific_character_set="ISO_IR 192",
        omit_empty_frames=False,
    )


def _description(number: int, label: Label, algorithm: Algorithm) -> SegmentDescription:
    description = SegmentDescription(
        segment_number=number,
        segment_label=label.name[:64],
        segmented_property_category=_coded(label.category),
        segmented_property_type=_coded(label.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=algorithm.name[:64], family=codes.DCM.ArtificialIntelligence, version=algorithm.version[:64]
        ),
        display_color=highdicom.color.CIELabColor.from_rgb(*label.colour),
    )
    if label.modifier is not None:
        property_type = description.SegmentedPropertyTypeCodeSequence[0]
        property_type.SegmentedPropertyTypeModifierCodeSequence = [_coded(label.modifier)]
    return description


def _coded(code: Code) -> highdicom.sr.CodedConcept:
    return highdicom.sr.CodedConcept(code.value, code.scheme, code.meaning)


def _identity(header: Dataset) -> Dataset:
    """Who and which study: what the segmentation has in common with its source, invalid values left out.

    It is put into the finished object, past highdicom, whose warnings quote names that it finds unusual.
    """
    identity = Dataset()
    for keyword in _REQUIRED:
        setattr(identity, keyword, _valid(header, keyword) or "")
    for keyword in _WELCOME:
        if (value := _valid(header, keyword)) is not None:
            setattr(identity, keyword, value)
    if identity.PatientSex not in ("M", "F", "O"):
        identity.PatientSex = ""
    if "ImagePositionPatient" not in header and "SharedFunctionalGroupsSequence" not in header:
        identity.PatientOrientation = _valid(header, "PatientOrientation") or ""
    return identity


def _sources(headers: Sequence[Dataset], study: Study) -> list[Dataset]:
    """The sources' headers, in the order of the slices, reduced to what highdicom needs and made consistent."""
    first = headers[0]
    common = Dataset()
    for keyword in _REQUIRED:
        setattr(common, keyword, "")
    common.StudyInstanceUID = first.get("StudyInstanceUID") or generate_uid()
    common.SeriesInstanceUID = first.SeriesInstanceUID
    common.Modality = study.modality or "OT"
    common.Rows, common.Columns = first.Rows, first.Columns
    number = _valid(first, "SeriesNumber")
    common.SeriesNumber = int(number) if number is not None and 0 <= int(number) < 1_000_000 else 0
    if study.affine is not None:
        common.FrameOfReferenceUID = first.get("FrameOfReferenceUID") or generate_uid()
    elif first.get("FrameOfReferenceUID"):
        common.FrameOfReferenceUID = first.FrameOfReferenceUID
    return [_source(header, common, study) for header in headers]


def _source(header: Dataset, common: Dataset, study: Study) -> Dataset:
    source = Dataset()
    source.update(common)
    source.SOPClassUID, source.SOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    if "SharedFunctionalGroupsSequence" in header:
        for keyword in _MULTI_FRAME:
            source[keyword] = header[keyword]
    elif study.affine is not None:
        *_, between = np.linalg.norm(study.affine[:3, :3], axis=0)
        source.ImagePositionPatient = header.ImagePositionPatient
        source.ImageOrientationPatient = header.ImageOrientationPatient
        source.PixelSpacing = header.PixelSpacing
        source.SliceThickness = _valid(header, "SliceThickness") or _decimal(between)
        source.SpacingBetweenSlices = _decimal(between)
    return source


def _decimal(value: float) -> str:
    return f"{value:.10g}"  # a DICOM decimal string has at most 16 characters


def _valid(header: Dataset, keyword: str) -> Any:
    """The value of a tag, or None where it is absent, empty or not what DICOM allows."""
    try:
        element = header[keyword]
        if element.is_empty or element.VR == "SQ":
            return element.value or None
        for value in element.value if element.VM > 1 else [element.value]:
            validate_value(element.VR, value, pydicom.config.RAISE)
            if element.VR in ("DA", "TM"):
                {"DA": DA, "TM": TM}[element.VR](value)
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError):
        return None
    # Without its raw bytes, a name is written in our own character set instead of the source's.
    return PersonName(str(element.value)) if element.VR == "PN" else element.value


def _check(written: Path, mask: NDArray[np.uint8], values: NDArray[np.uint8], study: Study, path: Path) -> None:
    """Compare what a file holds, and where, with the mask and the place of its source."""
    again = highdicom.seg.segread(written)
    misplaced = 0.0
    if study.affine is None:
        source = again.SourceImageSequence[0].ReferencedSOPInstanceUID
        pixels = again.get_pixels_by_source_instance([source], combine_segments=True).transpose(1, 2, 0)
    else:
        volume = again.get_volume(combine_segments=True, allow_missing_positions=False, rtol=0.05)
        volume = volume.flip_spatial(0)  # highdicom counts slices against the normal, we along it
        pixels = volume.array.transpose(2, 1, 0)
        affine = _LPS_FROM_RAS @ volume.affine[:, [2, 1, 0, 3]]
        corners = np.array([(*corner, 1) for corner in product(*((0, size - 1) for size in study.grid))])
        offsets = (corners @ (affine - study.affine).T)[:, :3]
        misplaced = float(np.abs(offsets).max() / min(study.spacing or (1.0,)))
    if misplaced > _TOLERANCE or not np.array_equal(values[pixels], mask):
        raise OutputError("the DICOM segmentation does not read back as it was written", where=path)
