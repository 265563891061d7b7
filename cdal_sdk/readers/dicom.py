"""DICOM images to studies: classic series, single X-rays and enhanced multi-frame files.

Patient-identifying elements are never touched, so that they can reach neither a message nor a log.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from cdal_sdk.errors import ReadError
from cdal_sdk.readers.dicom_geometry import stack_slices
from cdal_sdk.study import Source, Study

__all__ = ["read_dicom"]

_GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_dicom(case: str, paths: Sequence[Path]) -> Study:
    """Read one DICOM series, X-ray or enhanced multi-frame file.

    Stored values are decoded and put through the modality LUT or rescale. A planar image also gets its VOI window,
    since an X-ray without it is not what a reader sees. MONOCHROME1 is inverted, so that high is bright.

    Args:
        case: its name in outputs.
        paths: the files of one stack in any order, or one multi-frame or planar file.

    Returns:
        [channel, column, row, slice] with an affine for a volume, slices in the order of their position along the
        slice normal, as in `source.paths`; [channel, row, column, 1] for an image without a place in the patient.

    Raises:
        ReadError: the files are damaged, cannot be decoded, or do not form one regular grid.
    """
    headers = [dcmread(path, force=True, stop_before_pixels=True) for path in paths]
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
    stack = stack_slices(
        np.array([header.ImagePositionPatient for header in headers], dtype=np.float64),
        first.ImageOrientationPatient,
        first.PixelSpacing,
        thickness=float(first.get("SpacingBetweenSlices") or first.get("SliceThickness") or 1.0),
        where=paths[0],
    )
    ordered = tuple(paths[index] for index in stack.order)
    image: NDArray[np.float32] | None = None
    inverted = False
    for index, path in enumerate(ordered):
        dataset = dcmread(path, force=True)
        pixels = apply_modality_lut(_decode(dataset, path), dataset)
        channels = _channels_first(pixels).swapaxes(1, 2)
        if image is None:
            image = np.empty((*channels.shape, len(ordered)), dtype=np.float32)
            inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
        image[..., index] = channels
    if image is None:
        raise ReadError("the series has no slice", where=paths[0])
    if inverted:
        image = _inverted(image)
    return Study(case, image, stack.affine, Source("dicom", ordered), modality=first.get("Modality"))


def _read_planar(case: str, path: Path) -> Study:
    dataset = dcmread(path, force=True)
    pixels = _decode(dataset, path)
    if int(dataset.get("SamplesPerPixel", 1)) == 1 and pixels.ndim == 2:
        pixels = _windowed(apply_modality_lut(pixels, dataset), dataset)
    image = _channels_first(pixels)[..., np.newaxis].astype(np.float32)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        image = _inverted(image)
    source = Source("dicom", (path,))
    return Study(case, image, None, source, pixel_spacing=_spacing(dataset), modality=dataset.get("Modality"))


def _spacing(dataset: Dataset) -> tuple[float, float] | None:
    """Millimetres in the patient between rows and between columns, where they are known."""
    spacing, magnification = dataset.get("PixelSpacing"), 1.0
    if not spacing:  # that of the detector, on which the patient appears magnified
        spacing = dataset.get("ImagerPixelSpacing")
        magnification = float(dataset.get("EstimatedRadiographicMagnificationFactor") or 0)
    return (spacing[0] / magnification, spacing[1] / magnification) if spacing and magnification > 0 else None


def _read_enhanced(case: str, path: Path, header: Dataset) -> Study:
    import highdicom  # half a second, and only enhanced files need it

    _require_decoder(header, path)
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


def _decode(dataset: Dataset, path: Path) -> NDArray[np.generic]:
    """Stored values [row, column] or [row, column, 3], palettes expanded, YBR turned into RGB."""
    if not any(keyword in dataset for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise ReadError("the DICOM file holds no pixels", where=path, remedy="export the series again")
    _require_decoder(dataset, path)
    try:
        pixels = dataset.pixel_array
        return apply_color_lut(pixels, dataset) if dataset.PhotometricInterpretation == "PALETTE COLOR" else pixels
    except MemoryError:
        raise
    except Exception as error:  # each plug-in raises its own
        compressed = dataset.file_meta.TransferSyntaxUID.is_compressed
        raise ReadError(
            f"the pixels cannot be decoded ({type(error).__name__})",
            where=path,
            remedy='install more decoders with: pip install "pydicom[pixeldata]", or export the series uncompressed'
            if compressed
            else "the file is damaged or truncated, so copy or export it again",
        ) from error


def _require_decoder(dataset: Dataset, path: Path) -> None:
    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if syntax is None:
        # Without it, pydicom has found out the encoding by looking; such data sets are uncompressed.
        dataset.ensure_file_meta()
        dataset.file_meta.TransferSyntaxUID = _guessed_syntax(dataset)
        return
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise ReadError(
            f"no decoder for {syntax.name} is installed",
            where=path,
            remedy='install the decoders with: pip install "pydicom[pixeldata]"',
        )


def _guessed_syntax(dataset: Dataset) -> UID:
    implicit, little = dataset.original_encoding
    if not little:
        return ExplicitVRBigEndian
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian


def _windowed(values: NDArray[np.generic], dataset: Dataset) -> NDArray[np.generic]:
    """The values as displayed, through the first VOI LUT or window."""
    if dataset.get("VOILUTSequence"):
        values = values.astype(np.int32)  # a rescale makes floats of them, which cannot index a table
    try:
        return apply_voi_lut(values, dataset)
    except (TypeError, ValueError):
        return values  # an impossible window, such as one of width 0; viewers show the full range then


def _channels_first(pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    """[row, column] or [row, column, channel] to [channel, row, column]."""
    return pixels[np.newaxis] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def _inverted(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """High for low, over the same range."""
    inverted: NDArray[np.float32] = image.max() + image.min() - image
    return inverted
