"""DICOM images to studies: classic series, single X-rays and enhanced multi-frame files.

Patient-identifying elements are never touched, so that they can reach neither a message nor a log.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from cdal_sdk.errors import ReadError
from cdal_sdk.readers.dicom_file import number, open_dicom
from cdal_sdk.readers.dicom_frames import check_whole, frame_doubts_of, irregularity, with_frames
from cdal_sdk.readers.dicom_geometry import stack_slices
from cdal_sdk.readers.dicom_pixels import (
    as_displayed,
    check_announced,
    is_padding,
    planar_pixels,
    require_decoder,
    slice_pixels,
)
from cdal_sdk.readers.limits import check_slices, check_voxels
from cdal_sdk.study import Source, Study, View

__all__ = ["read_dicom"]

_GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_MODALITIES = (
    "BMD", "CR", "CT", "DG", "DX", "ECG", "EPS", "ES", "GM", "HC", "HD", "IO", "IVOCT", "IVUS", "KER", "LEN", "LS",
    "MG", "MR", "NM", "OAM", "OCT", "OP", "OPM", "OPT", "OPTBSV", "OPTENF", "OPV", "OSS", "OT", "PA", "PT", "PX", "RF",
    "RG", "SM", "SRF", "ST", "TG", "US", "VA", "XA", "XC",
)  # fmt: skip
_SAME_SPACING = 1e-3  # by which, as a share, one may differ that was written with other digits
_LATERAL = ("LL", "RL", "LLO", "RLO")  # of the terms for ViewPosition
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_dicom(case: str, paths: Sequence[Path], frames: tuple[int, ...] = ()) -> Study:
    """Read one DICOM series, X-ray or enhanced multi-frame file.

    Stored values are decoded and put through the modality LUT or rescale. A planar image also gets its VOI window,
    since an X-ray without it is not what a reader sees. MONOCHROME1 is inverted, so that high is bright; padding
    becomes as dark as the darkest pixel.

    Args:
        case: its name in outputs.
        paths: the files of one stack in any order, or one multi-frame or planar file.
        frames: those to read of a multi-frame file, from 0; empty for all.

    Returns:
        [channel, column, row, slice] with an affine for a volume, slices in the order of their position along the
        slice normal, as in `source.paths`; [channel, row, column, 1] for an image without a place in the patient.

    Raises:
        ReadError: the files are damaged, too large, cannot be decoded, or do not form one regular grid.
    """
    check_slices(len(paths), paths[0])
    headers = [open_dicom(path) for path in paths]
    first = headers[0]
    if len(paths) == 1 and "SharedFunctionalGroupsSequence" in first:
        return _read_enhanced(case, paths[0], first, frames)
    if any(int(header.get("NumberOfFrames") or 1) > 1 for header in headers):
        raise ReadError(
            "this multi-frame image has no place in the patient for its frames",
            where=paths[0],
            remedy="export it as single images",
        )
    if all(header.get(keyword) is not None for header in headers for keyword in _GEOMETRY):
        return _read_stack(case, paths, headers)
    if len(paths) > 1:
        raise ReadError(
            "the position, orientation or pixel spacing of a slice is missing",
            where=paths[0],
            remedy="export the series again, or give its images one at a time",
        )
    return _read_planar(case, paths[0])


def _read_stack(case: str, paths: Sequence[Path], headers: Sequence[Dataset]) -> Study:
    first = headers[0]
    for keyword in ("Rows", "Columns", "ImageOrientationPatient", "PixelSpacing"):
        values = np.array([header[keyword].value for header in headers], dtype=np.float64)
        if not np.allclose(values, values[0], atol=1e-3):
            raise ReadError(f"the slices differ in {keyword}", where=paths[0], remedy="keep one acquisition per folder")
    _check_one_patient(headers, paths[0])
    if len({header.get("PhotometricInterpretation") for header in headers}) > 1:
        raise ReadError("some slices are inverted, some are not", where=paths[0], remedy="export the series again")
    stack = stack_slices(
        np.array([header.ImagePositionPatient for header in headers], dtype=np.float64),
        first.ImageOrientationPatient,
        first.PixelSpacing,
        thickness=_thickness(first) if len(headers) == 1 else 0.0,
        where=paths[0],
    )
    ordered = tuple(paths[index] for index in stack.order)
    channels = int(first.get("SamplesPerPixel") or 1)
    check_voxels((int(first.Columns), int(first.Rows), len(ordered)), channels, paths[0])
    image: NDArray[np.float32] | None = None
    for index, path in enumerate(ordered):
        pixels = slice_pixels(open_dicom(path, pixels=True), path).swapaxes(1, 2)
        if image is None:
            image = np.empty((*pixels.shape, len(ordered)), dtype=np.float32)
        image[..., index] = pixels
    if image is None:
        raise ReadError("the series has no slice", where=paths[0])
    image = as_displayed(image, first.PhotometricInterpretation)
    return _study(case, image, stack.affine, ordered, headers)


def _read_planar(case: str, path: Path) -> Study:
    dataset = open_dicom(path, pixels=True)
    image = as_displayed(planar_pixels(dataset, path), dataset.PhotometricInterpretation)[..., np.newaxis]
    study = _study(case, image, None, (path,), [dataset])
    return replace(study, pixel_spacing=_spacing(dataset), view=_view(dataset))


def _study(
    case: str,
    image: NDArray[np.float32],
    affine: NDArray[np.float64] | None,
    paths: tuple[Path, ...],
    headers: Sequence[Dataset],
) -> Study:
    """The study, with what its headers say besides."""
    burnt_in = any(str(header.get("BurnedInAnnotation")).strip().upper() == "YES" for header in headers)
    doubts = ("text may be burnt into the pixels, which the preview does not show",) if burnt_in else ()
    source, modality = Source("dicom", paths), _modality(headers[0])
    return Study(case, image, affine, source, modality=modality, doubts=doubts, burnt_in=burnt_in)


def _check_one_patient(headers: Sequence[Dataset], where: Path) -> None:
    """Refuse slices of several patients, in one series by mistake: the segmentation would be filed under the first."""
    for keyword in ("PatientID", "PatientBirthDate"):
        elements = [header.get_item(keyword) for header in headers]  # as they are, however wrong
        values = [b"" if element is None else element.value for element in elements]
        if len({value.strip(b" \0") if isinstance(value, bytes) else value for value in values if value}) > 1:
            raise ReadError(f"the slices differ in {keyword}", where=where, remedy="keep one patient per series")


def _thickness(header: Dataset) -> float:
    """The extent in millimetres of a slice that has no neighbour."""
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        with suppress(ValueError):
            if (found := number(header, keyword) or 0) > 0:
                return found
    return 1.0


def _modality(dataset: Dataset) -> str | None:
    """The modality, "OT" for one that the standard does not know: errors quote it, so that it must not be free text."""
    modality = str(dataset.get("Modality") or "")
    return (modality if modality in _MODALITIES else "OT") if modality else None


def _spacing(dataset: Dataset) -> tuple[float, float] | None:
    """Millimetres in the patient between rows and between columns, where they are known.

    A PixelSpacing that repeats the detector's is not calibrated (PS3.3, 10.7.1.3): the patient appears magnified on it.
    """
    spacing, detector = (_pair(dataset, keyword) for keyword in ("PixelSpacing", "ImagerPixelSpacing"))
    if spacing is not None and (detector is None or not np.allclose(spacing, detector, rtol=_SAME_SPACING, atol=0)):
        return spacing
    with suppress(ValueError):
        magnification = number(dataset, "EstimatedRadiographicMagnificationFactor") or 0
        if detector is not None and magnification > 0:
            return detector[0] / magnification, detector[1] / magnification
    return None


def _pair(dataset: Dataset, keyword: str) -> tuple[float, float] | None:
    """Two lengths, or None where the header has no such."""
    try:
        rows, columns = (float(value) for value in dataset.get(keyword) or ())
    except (TypeError, ValueError):
        return None
    return (rows, columns) if 0 < rows < math.inf and 0 < columns < math.inf else None


def _view(dataset: Dataset) -> View | None:
    """How a projection shows the patient, as far as the header says."""
    position = str(dataset.get("ViewPosition") or "").strip().upper()
    directions = dataset.get("PatientOrientation")
    two = isinstance(directions, MultiValue) and len(directions) == 2
    row, column = (str(value)[:1] for value in directions) if two else ("", "")
    frontal, sideways = position in ("AP", "PA"), row in ("A", "P")
    if position in _LATERAL or "LAT" in position or (sideways and not frontal):
        return "lateral"
    if sideways:  # the two contradict each other
        return None
    if row and (row not in ("L", "R") or column != "F"):
        return "turned"
    return "frontal" if row or frontal else None


def _read_enhanced(case: str, path: Path, header: Dataset, frames: tuple[int, ...]) -> Study:
    import highdicom  # half a second, and only enhanced files need it

    check_whole(header, path)
    require_decoder(header, path)
    check_announced(header, path)
    try:
        dataset = with_frames(open_dicom(path, pixels=True), frames) if frames else None
        file = highdicom.imread(path) if dataset is None else highdicom.Image.from_dataset(dataset, copy=False)
        get = partial(file.get_volume, dtype=np.float32, apply_real_world_transform=False, apply_presentation_lut=False)
        volume = get()
        if "PixelPaddingValue" in header and volume.array.ndim == 3:
            volume.array[is_padding(get(apply_modality_transform=False).array, header)] = np.nan
    except RuntimeError as error:
        raise irregularity(with_frames(header, frames) if frames else header, path) from error
    volume = volume.flip_spatial(0)  # highdicom counts slices against the normal, we along it
    array = volume.array if volume.array.ndim == 4 else volume.array[..., np.newaxis]
    slice_row_column = _LPS_TO_RAS @ volume.affine
    affine = slice_row_column[:, [2, 1, 0, 3]]
    image = np.ascontiguousarray(array.transpose(3, 2, 1, 0), dtype=np.float32)
    image = as_displayed(image, header.PhotometricInterpretation)
    study = _study(case, image, affine, (path,), [header])
    doubts = frame_doubts_of(header, frames)
    return replace(study, source=replace(study.source, frames=frames), doubts=(*study.doubts, *doubts))
