"""Masks as DICOM Segmentation objects that refer to the images they were made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import highdicom
import numpy as np
from highdicom.seg import Segmentation, SegmentDescription
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from cdal_sdk.atomic import atomic
from cdal_sdk.errors import CdalError, OutputError
from cdal_sdk.study import Code, Label, Study
from cdal_sdk.writers.dicom_source import identity, reduced_sources

__all__ = ["Algorithm", "write_dicom_probability", "write_dicom_seg"]

_MANUFACTURER = "cDAL SDK"
_SERIAL_NUMBER = "0"  # required, and software has none
_FIRST_SERIES_NUMBER = 1000  # added to the source's, so that both sort together and never collide
_TOLERANCE = 0.1  # of a voxel, for the rounding of decimal strings
_FRACTIONS = 255  # steps between the probabilities 0 and 1
_Kind = Literal["BINARY", "FRACTIONAL"]
_TITLES: dict[_Kind, str] = {"BINARY": "Segmentation", "FRACTIONAL": "Probability"}
_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


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
    source's; of its tags, those that are missing or invalid are left empty, so that no result is lost over them, and a
    warning names the invalid ones.

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
    values = np.array([0, *(label.value for label in labels)], np.uint8)
    if not np.isin(mask, values).all():
        raise OutputError("the mask holds a number that no label has", where=path, remedy="check the model's labels")
    maps = np.stack([mask == label.value for label in labels]).astype(np.uint8)
    _write(maps, "BINARY", study, labels, algorithm, path)


def write_dicom_probability(
    probability: NDArray[np.float32], study: Study, labels: Sequence[Label], algorithm: Algorithm, path: Path
) -> None:
    """Write the probability of each label as a FRACTIONAL DICOM Segmentation, in steps of 1/255, and read it back.

    Segments and frames are those of `write_dicom_seg`.

    Args:
        probability: float32 [label, i, j, k] in [0, 1] on the study's grid.
        study: a study that was read from DICOM.
        labels: the model's labels.
        algorithm: the model.
        path: ends in .dcm.

    Raises:
        OutputError: as for `write_dicom_seg`.
    """
    if not ((probability >= 0) & (probability <= 1)).all():
        raise OutputError("a probability lies outside 0 to 1", where=path)
    steps = np.round(probability * _FRACTIONS).astype(np.uint8)
    _write(steps, "FRACTIONAL", study, labels, algorithm, path)


def _write(
    maps: NDArray[np.uint8],
    kind: _Kind,
    study: Study,
    labels: Sequence[Label],
    algorithm: Algorithm,
    path: Path,
) -> None:
    """Write stored values [label, i, j, k]: 0 and 1, or 0 to 255."""
    if study.source.kind != "dicom":
        raise OutputError(
            "a DICOM segmentation needs a DICOM source", where=path, remedy="choose another format for this case"
        )
    if maps.shape != (len(labels), *study.grid):
        raise OutputError(
            f"the shape {maps.shape[1:]} of the result is not that of its source, {study.grid}", where=path
        )
    try:
        headers = [dcmread(source, force=True, stop_before_pixels=True) for source in study.source.paths]
        segmentation = _segmentation(maps, kind, study, reduced_sources(headers, study), labels, algorithm)
        segmentation.update(identity(headers[0], study.case))
        if study.source.frames:
            _number_references(segmentation, study.source.frames)
        with atomic(path) as temporary:
            segmentation.save_as(temporary, enforce_file_format=True)
            _check(temporary, maps, study, path)
    except CdalError:
        raise
    except Exception as error:  # highdicom raises anything
        raise OutputError(
            f"no DICOM segmentation can be made for this series ({type(error).__name__})",
            where=study.case,  # and no file, which may be named after the patient
            remedy="export the series again, or convert it to NIfTI and segment that",
        ) from error


def _segmentation(
    maps: NDArray[np.uint8],
    kind: _Kind,
    study: Study,
    sources: Sequence[Dataset],
    labels: Sequence[Label],
    algorithm: Algorithm,
) -> Segmentation:
    """The object for stored values [label, i, j, k]."""
    stored: NDArray[Any] = np.ascontiguousarray(maps.transpose(3, 2, 1, 0))
    if kind == "FRACTIONAL":
        stored = stored / np.float64(_FRACTIONS)
    pixels: NDArray[Any] | highdicom.Volume
    if study.affine is None:
        pixels = np.ascontiguousarray(stored.swapaxes(1, 2))  # of a planar image, the first axis is the row
    else:
        affine = (_LPS_FROM_RAS @ study.affine)[:, [2, 1, 0, 3]]
        channels: Any = {"SegmentNumber": list(range(1, len(labels) + 1))}
        pixels = highdicom.Volume(stored, affine, coordinate_system="PATIENT", channels=channels)
    return Segmentation(
        source_images=sources,
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=[_description(number, label, algorithm) for number, label in enumerate(labels, 1)],
        series_instance_uid=generate_uid(),
        series_number=sources[0].SeriesNumber + _FIRST_SERIES_NUMBER + (kind == "FRACTIONAL"),
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=_MANUFACTURER,
        manufacturer_model_name=algorithm.name[:64],
        software_versions=algorithm.version[:64],
        device_serial_number=_SERIAL_NUMBER,
        series_description=f"{_TITLES[kind]} by {algorithm.name}"[:64],
        content_label=_TITLES[kind].upper(),
        content_description=f"{algorithm.name} {algorithm.version}"[:64],
        specific_character_set="ISO_IR 192",
        fractional_type="PROBABILITY",
        max_fractional_value=_FRACTIONS,
        omit_empty_frames=False,
    )


def _number_references(segmentation: Dataset, frames: Sequence[int]) -> None:
    """Let references tell the frames of the source's file, of which highdicom saw only some and counted from 1."""
    references = (
        source
        for group in segmentation.PerFrameFunctionalGroupsSequence
        for source in group.DerivationImageSequence[0].SourceImageSequence
    )
    for source in {id(source): source for source in references}.values():  # which segments have in common
        source.ReferencedFrameNumber = frames[int(source.ReferencedFrameNumber) - 1] + 1


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


def _check(written: Path, maps: NDArray[np.uint8], study: Study, path: Path) -> None:
    """Compare what a file holds, and where, with the stored values and the place of its source."""
    again = highdicom.seg.segread(written)
    misplaced = 0.0
    if study.affine is None:
        source = again.SourceImageSequence[0].ReferencedSOPInstanceUID
        stored = again.get_pixels_by_source_instance([source], rescale_fractional=False).transpose(3, 1, 2, 0)
    else:
        volume = again.get_volume(rescale_fractional=False, allow_missing_positions=False, rtol=0.05)
        volume = volume.flip_spatial(0)  # highdicom counts slices against the normal, we along it
        stored = volume.array.transpose(3, 2, 1, 0)
        affine = _LPS_FROM_RAS @ volume.affine[:, [2, 1, 0, 3]]
        corners = np.array([(*corner, 1) for corner in product(*((0, size - 1) for size in study.grid))])
        offsets = (corners @ (affine - study.affine).T)[:, :3]
        misplaced = float(np.abs(offsets).max() / min(study.spacing or (1.0,)))
    if misplaced > _TOLERANCE or not np.array_equal(stored, maps):
        raise OutputError("the DICOM segmentation does not read back as it was written", where=path)
