"""DICOM files opened: without quoting their values, and without unpacking more than is sane."""

from __future__ import annotations

import math
import threading
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from pydicom import dcmread
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileDataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian

from cdal_sdk.errors import ReadError
from cdal_sdk.readers.limits import LIMITS

__all__ = ["number", "open_dicom"]

_META_BYTES = 4096  # which hold the transfer syntax of any sane file
_META_STARTS_AT = 144  # after preamble, magic and the element with the length of what follows
_CHUNK = 1 << 20


class _Unvalidated:
    """While any thread reads, pydicom validates nothing; it keeps the setting in one place for the whole process.

    Its own context manager, in two threads at once, would restore what the other one had set, for good.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._setting = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._readers:
                self._setting.enter_context(disable_value_validation())
            self._readers += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._readers -= 1
            if not self._readers:
                self._setting.close()


_UNVALIDATED = _Unvalidated()


def open_dicom(path: Path, *, tags: Sequence[str] | None = None, pixels: bool = False) -> FileDataset:
    """Read a DICOM file, with or without preamble.

    Args:
        path: the file.
        tags: the elements to read, by keyword; None for all.
        pixels: whether to read the pixels, too.

    Returns:
        The data set.

    Raises:
        ReadError: the file is compressed as a whole and unpacks to more than is sane.
        Exception: whatever pydicom raises for a damaged file.
    """
    with path.open("rb") as stream:
        head = stream.read(_META_BYTES)
    if DeflatedExplicitVRLittleEndian.encode() in head:
        _check_unpacked(path)
    with _UNVALIDATED:  # since validation's warnings quote what they find, such as names
        return dcmread(path, force=True, stop_before_pixels=not pixels, specific_tags=list(tags) if tags else None)


def number(dataset: Dataset, keyword: str) -> float | None:
    """The number in an element, also one with a decimal comma; None where it is absent or empty.

    Raises:
        ValueError: it holds anything else.
    """
    element = dataset.get_item(keyword)
    value = None if element is None else element.value
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str("" if value is None else value)
    text = text.strip(" \0").replace(",", ".")
    if not text:
        return None
    if not math.isfinite(found := float(text)):
        raise ValueError(keyword)
    return found


def _check_unpacked(path: Path) -> None:
    """Count what a deflated data set unpacks to, without keeping it."""
    meta = read_file_meta_info(path)
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    total = 0
    with path.open("rb") as stream:
        stream.seek(_META_STARTS_AT + int(meta.FileMetaInformationGroupLength))
        while chunk := stream.read(_CHUNK):
            while chunk:
                total += len(unpacker.decompress(chunk, _CHUNK))
                chunk = unpacker.unconsumed_tail
                if total > LIMITS.unpacked_bytes:
                    raise ReadError(
                        f"the file unpacks to more than {LIMITS.unpacked_bytes} bytes",
                        where=path,
                        remedy="export it without deflating it",
                    )
