"""The pixels of one DICOM image: decoded, in real values, as a reader would see them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGExtended12Bit

from cdal_sdk.errors import ReadError
from cdal_sdk.readers.dicom_file import number
from cdal_sdk.readers.limits import check_slices, check_voxels

__all__ = ["as_displayed", "check_announced", "is_padding", "planar_pixels", "require_decoder", "slice_pixels"]

_INSTALL = 'install the decoders with: pip install "cdal-sdk[dicom]"'
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_RESCALE = ("RescaleSlope", "RescaleIntercept")
_JPEG_START, _J2K_START = b"\xff\xd8", b"\xff\x4f\xff\x51"
# Markers of JPEG and JPEG-LS that begin a frame and hold its size: SOF0 to SOF15 without DHT, JPG and DAC, and SOF55.
_FRAME_MARKERS = (*(code for code in range(0xC0, 0xD0) if code not in (0xC4, 0xC8, 0xCC)), 0xF7)


def slice_pixels(dataset: Dataset, path: Path) -> NDArray[np.float32]:
    """Real values [channel, row, column] of a slice of a volume, padding as NaN.

    Raises:
        ReadError: the pixels are missing, too many or cannot be decoded.
    """
    stored = _decode(dataset, path)
    values = _real_values(stored, dataset, path)
    return _channels_first(_without_padding(values, stored, dataset))


def planar_pixels(dataset: Dataset, path: Path) -> NDArray[np.float32]:
    """Values [channel, row, column] of an image as displayed, through its VOI table or window, padding as NaN.

    Raises:
        ReadError: the pixels are missing, too many or cannot be decoded.
    """
    stored = values = _decode(dataset, path)
    if int(dataset.get("SamplesPerPixel", 1)) == 1 and stored.ndim == 2:
        values = _windowed(_real_values(stored, dataset, path), dataset)
    return _channels_first(_without_padding(values, stored, dataset))


def as_displayed(image: NDArray[np.float32], photometric: str) -> NDArray[np.float32]:
    """The image with high values bright, and padding as dark as the darkest pixel."""
    padding = np.isnan(image)
    if padding.all():
        return np.zeros_like(image)
    low, high = np.nanmin(image), np.nanmax(image)
    if photometric == "MONOCHROME1":
        image = high + low - image  # high for low, over the same range
    image[padding] = low
    return image


def is_padding(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.bool_]:
    """Where stored gray values are the scanner's filler for what it did not image; nowhere without a sane value."""
    try:
        told = dataset.PixelPaddingValue, dataset.get("PixelPaddingRangeLimit", dataset.PixelPaddingValue)
        first, last = (_as_stored(value, dataset) for value in told)
        if (first <= last) != (int(told[0]) <= int(told[1])):  # a range across the wrap would be nearly everything
            first, last = map(int, told)
    except (AttributeError, TypeError, ValueError, OverflowError):
        return np.zeros(stored.shape, np.bool_)
    found: NDArray[np.bool_] = (stored >= min(first, last)) & (stored <= max(first, last))
    return found


def check_announced(dataset: Dataset, path: Path) -> None:
    """Raises ReadError where a header, or the first compressed frame, announces more pixels than is sane."""
    frames = int(dataset.get("NumberOfFrames") or 1)
    rows, columns, channels = int(dataset.Rows), int(dataset.Columns), int(dataset.get("SamplesPerPixel") or 1)
    check_slices(frames, path)
    check_voxels((rows, columns, frames), channels, path)
    if "PixelData" not in dataset or not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return
    for frame in generate_frames(dataset.PixelData, number_of_frames=frames):
        size = _encoded_size(frame)
        if size is not None and size != (rows, columns):
            raise ReadError(
                f"the compressed pixels are {size[0]} x {size[1]}, the header says {rows} x {columns}",
                where=path,
                remedy="export it again",
            )


def require_decoder(dataset: Dataset, path: Path) -> None:
    """Raises ReadError, naming what to install, where nothing here can decode the transfer syntax."""
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
        raise ReadError(f"no decoder for {syntax.name} is installed", where=path, remedy=_INSTALL)


def _decode(dataset: Dataset, path: Path) -> NDArray[np.generic]:
    """Stored values [row, column] or [row, column, 3], palettes expanded to 8 bits, YBR turned into RGB."""
    if not any(keyword in dataset for keyword in _PIXELS):
        raise ReadError("the DICOM file holds no pixels", where=path, remedy="export the series again")
    require_decoder(dataset, path)
    check_announced(dataset, path)
    try:
        pixels = dataset.pixel_array
        if dataset.PhotometricInterpretation != "PALETTE COLOR":
            return pixels
        colours = apply_color_lut(pixels, dataset)
        return colours >> 8 if colours.dtype == np.uint16 else colours
    except MemoryError:
        raise
    except Exception as error:  # each plug-in raises its own
        raise ReadError(
            f"the pixels cannot be decoded ({type(error).__name__})",
            where=path,
            remedy=_decoding_remedy(dataset.file_meta.TransferSyntaxUID),
        ) from error


def _decoding_remedy(syntax: UID) -> str:
    missing = " ".join(get_decoder(syntax).missing_dependencies)
    if syntax == JPEGExtended12Bit and "pylibjpeg" in missing:
        return "install pylibjpeg-libjpeg (GPL), which decodes 12 bits, or export the series uncompressed"
    if "gdcm" in missing or "openjpeg" in missing:  # what the extra brings; the others are of no further use
        return f"{_INSTALL}, or export the series uncompressed"
    return "the file is damaged or truncated, so copy or export it again"


def _guessed_syntax(dataset: Dataset) -> UID:
    implicit, little = dataset.original_encoding
    if not little:
        return ExplicitVRBigEndian
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian


def _encoded_size(frame: bytes) -> tuple[int, int] | None:
    """Rows and columns that a JPEG, JPEG-LS or JPEG 2000 stream announces; None for anything else."""
    if frame.startswith(_J2K_START):
        width, height, left, top = (int.from_bytes(frame[at : at + 4], "big") for at in (8, 12, 16, 20))
        return height - top, width - left
    if not frame.startswith(_JPEG_START):
        return None
    at = 2
    while at + 9 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker in _FRAME_MARKERS:
            return int.from_bytes(frame[at + 5 : at + 7], "big"), int.from_bytes(frame[at + 7 : at + 9], "big")
        at += 1 if marker == 0xFF else 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None


def _real_values(stored: NDArray[np.generic], dataset: Dataset, path: Path) -> NDArray[np.generic]:
    """Stored values through the modality LUT or rescale, of which one that is absent or empty is 1 or 0."""
    if dataset.get("ModalityLUTSequence") or not any(keyword in dataset for keyword in _RESCALE):
        return apply_modality_lut(stored, dataset)
    try:
        slope, intercept = (number(dataset, keyword) for keyword in _RESCALE)
    except ValueError:
        raise ReadError("the rescale is no number", where=path, remedy="export the series again") from None
    return stored.astype(np.float64) * (1.0 if slope is None else slope) + (intercept or 0.0)


def _windowed(values: NDArray[np.generic], dataset: Dataset) -> NDArray[np.generic]:
    """The values as displayed, through the first VOI LUT or window."""
    if dataset.get("VOILUTSequence"):
        values = values.astype(np.int32)  # a rescale makes floats of them, which cannot index a table
    try:
        return apply_voi_lut(values, dataset)
    except (TypeError, ValueError):
        return values  # an impossible window, such as one of width 0; viewers show the full range then


def _without_padding(values: NDArray[np.generic], stored: NDArray[np.generic], dataset: Dataset) -> NDArray[np.float32]:
    """Float32 values, with NaN where the scanner put a filler for what it did not image."""
    real = values.astype(np.float32)
    if stored.ndim == 2:
        real[is_padding(stored, dataset)] = np.nan
    return real


def _as_stored(value: object, dataset: Dataset) -> int:
    """An integer of 16 bits as pixels have it: some writers code it as unsigned beside signed pixels, or reverse."""
    number, bits = int(str(value)), int(dataset.BitsAllocated)
    if "PixelRepresentation" not in dataset or not -(1 << bits - 1) <= number < 1 << bits:
        return number
    number &= (1 << bits) - 1
    return number - (1 << bits) if dataset.PixelRepresentation == 1 and number >> bits - 1 else number


def _channels_first(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """[row, column] or [row, column, channel] to [channel, row, column]."""
    return pixels[np.newaxis] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
