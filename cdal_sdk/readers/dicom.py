"""DICOM images to studies: classic series, single X-rays and enhanced multi-frame files.

Patient-identifying elements are never touched, so that they can reach neither a message nor a log.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from cdal_sdk.errors import ReadError
from cdal_sdk.readers.dicom_file import open_dicom
from cdal_sdk.readers.dicom_geometry import stack_slices
from cdal_sdk.readers.dicom_pixels import as_displayed, check_announced, planar_pixels, require_decoder, slice_pixels
from cdal_sdk.readers.limits import check_slices, check_voxels
from cdal_sdk.study import Source, Study

__all__ = ["read_dicom"]

_GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_MODALITIES = (
    "BMD", "CR", "CT", "DG", "DX", "ECG", "EPS", "ES", "GM", "HC", "HD", "IO", "IVOCT", "IVUS", "KER", "LEN", "LS",
    "MG", "MR", "NM", "OAM", "OCT", "OP", "OPM", "OPT", "OPTBSV", "OPTENF", "OPV", "OSS", "OT", "PA", "PT", "PX", "RF",
    "RG", "SM", "SRF", "ST", "TG", "US", "VA", "XA", "XC",
)  # fmt: skip
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_dicom(case: str, paths: Sequence[Path]) -> Study:
    """Read one DICOM series, X-ray or enhanced multi-frame file.

    Stored values are decoded and put through the modality LUT or rescale. A planar image also gets its VOI window,
    since an X-ray without it is not what a reader sees. MONOCHROME1 is inverted, so that high is bright; padding
    becomes as dark as the darkest pixel.

    Args:
        case: its name in outputs.
        paths: the files of one stack in any order, or one multi-frame or planar file.

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
        return _read_enhanced(case, paths[0], first)
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
    if len({header.get("PhotometricInterpretation") for header in headers}) > 1:
        raise ReadError("some slices are inverted, some are not", where=paths[0], remedy="export the series again")
    stack = stack_slices(
        np.array([header.ImagePositionPatient for header in headers], dtype=np.float64),
        first.ImageOrientationPatient,
        first.PixelSpacing,
        thickness=float(first.get("SpacingBetweenSlices") or first.get("SliceThickness") or 1.0),
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
    return Study(case, image, stack.affine, Source("dicom", ordered), modality=_modality(first))


def _read_planar(case: str, path: Path) -> Study:
    dataset = open_dicom(path, pixels=True)
    image = as_displayed(planar_pixels(dataset, path), dataset.PhotometricInterpretation)[..., np.newaxis]
    source = Source("dicom", (path,))
    return Study(case, image, None, source, pixel_spacing=_spacing(dataset), modality=_modality(dataset))


def _modality(dataset: Dataset) -> str | None:
    """The modality, "OT" for one that the standard does not know: errors quote it, so that it must not be free text."""
    modality = str(dataset.get("Modality") or "")
    return (modality if modality in _MODALITIES else "OT") if modality else None


def _spacing(dataset: Dataset) -> tuple[float, float] | None:
    """Millimetres in the patient between rows and between columns, where they are known."""
    spacing, magnification = dataset.get("PixelSpacing"), 1.0
    if not spacing:  # that of the detector, on which the patient appears magnified
        spacing = dataset.get("ImagerPixelSpacing")
        magnification = float(dataset.get("EstimatedRadiographicMagnificationFactor") or 0)
    return (spacing[0] / magnification, spacing[1] / magnification) if spacing and magnification > 0 else None


def _read_enhanced(case: str, path: Path, header: Dataset) -> Study:
    import highdicom  # half a second, and only enhanced files need it

    require_decoder(header, path)
    check_announced(header, path)
    try:
        volume = highdicom.imread(path).get_volume(dtype=np.float32, apply_real_world_transform=False)
    except RuntimeError as error:
        raise ReadError(
            "the frames of this multi-frame image do not form one evenly spaced volume",
            where=path,
            remedy="export one acquisition, with a single image at each position",
        ) from error
    volume = volume.flip_spatial(0)  # highdicom counts slices against the normal, we along it
    array = volume.array if volume.array.ndim == 4 else volume.array[..., np.newaxis]
    slice_row_column = _LPS_TO_RAS @ volume.affine
    affine = slice_row_column[:, [2, 1, 0, 3]]
    image = np.ascontiguousarray(array.transpose(3, 2, 1, 0), dtype=np.float32)
    return Study(case, image, affine, Source("dicom", (path,)), modality=header.get("Modality"))
