"""What a file is, seen from its first bytes; its name only tells what it was meant to be."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from cdal_sdk.errors import ReadError
from cdal_sdk.readers.header import Header
from cdal_sdk.study import SourceKind

__all__ = ["FORMATS", "HeaderReader", "Recognised", "promised_kind", "recognise"]

FORMATS = "DICOM, NIfTI, PNG, JPEG or TIFF"
_IMAGE_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NIFTI1_MAGIC, _NIFTI2_MAGIC = b"n+1\0", b"n+2\0"
_PAIR_MAGIC = (b"ni1\0", b"ni2\0")
_ANALYZE_SIZES = (b"\x5c\1\0\0", b"\0\0\1\x5c")  # 348, the size of the header, in either byte order
_GZIP_MAGIC = b"\x1f\x8b"
_HEAD_BYTES = 4096
_NIFTI_HEADER_BYTES = 540  # of NIfTI-2, the longer one
# The intent codes for estimates (1001) and labels (1002), in either byte order.
_RESULT_INTENTS = (b"\xe9\x03", b"\x03\xe9", b"\xea\x03", b"\x03\xea")
# A DICOM data set without preamble begins with an element of group 0002 or 0008.
_FIRST_DICOM_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")
# What a failed copy leaves under the name of a slice: zeros, a preamble cut short, a page or message of a server.
_REMNANTS = (b"\0", *_FIRST_DICOM_GROUPS, b"{", b"<html", b"<!doctype html")

# What a suffix promises; only used to tell a damaged input from a file that was never meant for us.
_PROMISED: dict[str, SourceKind] = {
    ".dcm": "dicom", ".dicom": "dicom", ".ima": "dicom",
    ".nii": "nifti", ".nii.gz": "nifti",
    ".png": "image", ".jpg": "image", ".jpeg": "image", ".tif": "image", ".tiff": "image",
}  # fmt: skip
_FAMILY: dict[SourceKind, str] = {"dicom": "DICOM", "nifti": "NIfTI", "image": "PNG, JPEG or TIFF"}
_Sniffed = SourceKind | Literal["result", "pair"] | None


class HeaderReader(Protocol):
    """Reads DICOM headers, here or in a process of its own."""

    @property
    def timeout(self) -> float | None:
        """Seconds that a file may take; None waits for ever."""
        ...

    def header(self, path: Path, *, explicit: bool) -> Header | None:
        """See `dicom_header.read_header`."""
        ...

    def is_dicom_without_preamble(self, path: Path) -> bool:
        """See `dicom_header.is_dicom_without_preamble`."""
        ...


@dataclass(frozen=True)
class Recognised:
    """What a file is.

    Attributes:
        kind: the family of its format, or of the one that its name promises; None for what was never meant for us.
        error: why it cannot be read, though it was meant to be.
        remnant: whether it may be what is left of a DICOM slice.
        header: of a DICOM file that is an image, once it was read.
    """

    kind: SourceKind | None = None
    error: ReadError | None = None
    remnant: bool = False
    header: Header | None = None


def promised_kind(path: Path) -> SourceKind | None:
    """The kind that the name of a file promises."""
    return next((kind for suffix, kind in _PROMISED.items() if path.name.lower().endswith(suffix)), None)


def recognise(path: Path, reader: HeaderReader, *, explicit: bool) -> Recognised:
    """Recognise a file by its content.

    Args:
        path: the file.
        reader: tells whether a file without the DICOM magic still is one.
        explicit: whether the user named this very file, which is then never passed over.
    """
    promised = promised_kind(path)
    sliceable = promised == "dicom" or re.fullmatch(r"(\.\d+)?", path.suffix) is not None
    try:
        if path.is_symlink() and not path.exists():  # of a data set that was not fetched, or copied without its files
            if not (explicit or promised or sliceable):
                return Recognised()
            remedy = "fetch the file that it stands for, or remove the link"
            return _refused(promised, "the link leads nowhere", path, remedy, remnant=sliceable)
        if not path.is_file():  # a pipe or a device would block the run
            return _refused(None, "this is not a regular file", path, "give a file") if explicit else Recognised()
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
        kind = _sniff(head, path, reader)
    except OSError as error:
        problem = f"the file cannot be opened ({error.strerror or type(error).__name__})"
        kind_of_it: SourceKind | None = "dicom" if sliceable else promised
        return _refused(kind_of_it, problem, path, "check its permissions", remnant=sliceable)
    if kind == "result":  # a mask or a map that we, or another segmenter, left in a folder of inputs
        what, remedy = "this is a segmentation, not an image", "give the image that it was made from"
        return _refused(None, what, path, remedy) if explicit else Recognised()
    if kind == "pair":
        what = "this image is stored in two files, .hdr and .img"
        return _refused("nifti", what, path, "save it as one file, .nii or .nii.gz")
    if kind is not None:
        return Recognised(kind)
    remnant = sliceable and (promised == "dicom" or not head or head.lstrip().lower().startswith(_REMNANTS))
    if not (explicit or promised or remnant):
        return Recognised()
    what = f"this is no {_FAMILY[promised]} file, whatever its name says" if promised else "its format is not read"
    remedy = f"give {FORMATS} files, or remove it from the input"
    return _refused(promised, what if head else "the file is empty", path, remedy, remnant=remnant)


def _refused(kind: SourceKind | None, what: str, path: Path, remedy: str, *, remnant: bool = False) -> Recognised:
    return Recognised(kind, ReadError(what, where=path, remedy=remedy), remnant)


def _sniff(head: bytes, path: Path, reader: HeaderReader) -> _Sniffed:
    if head[128:132] == b"DICM":
        return "dicom"
    if head.startswith(_IMAGE_MAGIC):
        return "image"
    if head.startswith(_GZIP_MAGIC):
        try:
            head = zlib.decompressobj(wbits=31).decompress(head, _NIFTI_HEADER_BYTES)
        except zlib.error:
            return None
    if head[344:348] == _NIFTI1_MAGIC:
        return "result" if head[68:70] in _RESULT_INTENTS else "nifti"
    if head[4:8] == _NIFTI2_MAGIC:
        return "result" if head[504:508].strip(b"\0") in _RESULT_INTENTS else "nifti"
    if path.name.lower().endswith((".hdr", ".hdr.gz")) and (
        head.startswith(_ANALYZE_SIZES) or head[344:348] in _PAIR_MAGIC or head[4:8] in _PAIR_MAGIC
    ):
        return "pair"
    if head.startswith(_FIRST_DICOM_GROUPS):
        return "dicom" if reader.is_dicom_without_preamble(path) else None
    return None
