"""Which cases lie in the files and folders that a user names: recognised by content, never by name."""

from __future__ import annotations

import hashlib
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol

from cdal_sdk.errors import ReadError, UsageError
from cdal_sdk.readers.case_files import CaseFiles
from cdal_sdk.readers.header import Header
from cdal_sdk.readers.limits import LIMITS
from cdal_sdk.study import SourceKind

__all__ = ["discover"]

_IMAGE_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NIFTI1_MAGIC, _NIFTI2_MAGIC = b"n+1\0", b"n+2\0"
_GZIP_MAGIC = b"\x1f\x8b"
_NIFTI_HEADER_BYTES = 540  # of NIfTI-2, the longer one
# The intent codes for estimates (1001) and labels (1002), in either byte order.
_RESULT_INTENTS = (b"\xe9\x03", b"\x03\xe9", b"\xea\x03", b"\x03\xea")
# A DICOM data set without preamble begins with an element of group 0002 or 0008.
_FIRST_DICOM_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")

# What a suffix promises; only used to tell a damaged input from a file that was never meant for us.
_PROMISED: dict[str, SourceKind] = {
    ".dcm": "dicom", ".dicom": "dicom", ".ima": "dicom",
    ".nii": "nifti", ".nii.gz": "nifti",
    ".png": "image", ".jpg": "image", ".jpeg": "image", ".tif": "image", ".tiff": "image",
}  # fmt: skip
_FAMILY: dict[SourceKind, str] = {"dicom": "DICOM", "nifti": "NIfTI", "image": "PNG, JPEG or TIFF"}
_FORMATS = "DICOM, NIfTI, PNG, JPEG or TIFF"
_LONGEST_NAME = 120


class _FolderError(ReadError):
    """About a folder, whose own name may be that of a patient."""

    def brief(self, name: str | None = None) -> str:
        """The message for reports, without the path."""
        return self._text(name)


class HeaderReader(Protocol):
    """Reads DICOM headers, here or in a process of its own."""

    def header(self, path: Path, *, explicit: bool) -> Header | None:
        """See `dicom_header.read_header`."""
        ...

    def is_dicom_without_preamble(self, path: Path) -> bool:
        """See `dicom_header.is_dicom_without_preamble`."""
        ...


class _Here:
    """Reads headers in this process."""

    def header(self, path: Path, *, explicit: bool) -> Header | None:
        from cdal_sdk.readers.dicom_header import read_header

        return read_header(path, explicit=explicit)

    def is_dicom_without_preamble(self, path: Path) -> bool:
        from cdal_sdk.readers.dicom_header import is_dicom_without_preamble

        return is_dicom_without_preamble(path)


def discover(
    inputs: Sequence[Path],
    exclude: Path | None = None,
    volume: int | None = None,
    reader: HeaderReader | None = None,
) -> list[CaseFiles]:
    """Find the cases in files and folders, in an order that depends on the names alone.

    Folders are searched recursively; hidden files, segmentations, and files that were never meant to be an input, are
    passed over.
    A DICOM series is one case however its files are named and wherever they lie; it is split where size, orientation
    or pixel spacing differ. Cases that would share a name get a digest of their path appended (not the name of their
    folder, which is often the name of a patient).

    Args:
        inputs: files and folders.
        exclude: a folder that is passed over with all that lies in it, such as the one for the outputs. An input that
            is this folder, or lies in it, is used nevertheless.
        volume: the one to take of NIfTI files with several, from 0.
        reader: reads the DICOM headers, such as an `IsolatedReader`, for files that may be hostile; by default they are
            read in this process.

    Returns:
        The cases. What looks like an input but cannot be read, and what does not exist, is a case with an error.

    Raises:
        UsageError: none of the inputs holds anything to segment.
    """
    missing = [given for given in inputs if not given.exists()]
    if missing and len(missing) == len(inputs):
        raise UsageError("there is no such file or folder", where=missing[0], remedy="check the path")
    listed = {
        given: list(_files_in(given, exclude)) if given.is_dir() else [given]
        for given in inputs
        if given not in missing
    }
    # By resolved path, so that a file named twice is one input; the order of insertion is the order of the cases.
    files = {_real(path): path for paths in listed.values() for path in paths}
    if len(files) > LIMITS.files:
        raise UsageError(f"there are {len(files)} files, the limit is {LIMITS.files}", remedy="give fewer at a time")
    order = {path: number for number, path in enumerate(files.values())}
    found = _recognise_all(list(order), frozenset(listed), reader or _Here())
    if not found:
        names = ", ".join(str(given) for given in inputs) or "the given inputs"
        raise UsageError("there is nothing to segment here", where=names, remedy=f"give {_FORMATS} files")
    found.sort(key=lambda files: min(order[path] for path in files.paths))
    used = {_real(path) for case in found for path in case.paths}
    found += [_missing(given) for given in missing]
    found += [_empty(given) for given, paths in listed.items() if used.isdisjoint(map(_real, paths))]
    return _named_apart([replace(case, case=_safe(case.case), volume=volume) for case in found])


def _recognise_all(paths: Sequence[Path], explicit: frozenset[Path], reader: HeaderReader) -> list[CaseFiles]:
    found: list[CaseFiles] = []
    dicom_files: list[tuple[Path, Header]] = []
    for path in paths:
        kind, error = _recognise(path, reader, explicit=path in explicit)
        if kind == "dicom" and error is None:
            header = reader.header(path, explicit=path in explicit)
            dicom_files += [] if header is None else [(path, header)]
        elif kind is not None or error is not None:
            found.append(CaseFiles(_stem(path), kind, (path,), error))
    if dicom_files:
        from cdal_sdk.readers.dicom_series import group_series

        found += group_series(dicom_files)
    return found


def _files_in(folder: Path, exclude: Path | None) -> Iterator[Path]:
    real, passed_over = _real(folder), None
    if exclude is not None and real in _real(exclude).parents:
        passed_over = folder / _real(exclude).relative_to(real)
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and Path(root, name) != passed_over)
        yield from (Path(root, name) for name in sorted(names) if not name.startswith("."))


def _recognise(path: Path, reader: HeaderReader, *, explicit: bool) -> tuple[SourceKind | None, ReadError | None]:
    """The kind of a file by its content, and an error where it was meant to be an input but is none."""
    promised = next((kind for suffix, kind in _PROMISED.items() if path.name.lower().endswith(suffix)), None)
    if not path.is_file():  # a pipe or a device would block the run, a dangling link is nothing
        return None, ReadError("this is not a regular file", where=path, remedy="give a file") if explicit else None
    try:
        kind = _sniff(path, reader)
    except OSError as error:
        problem = f"the file cannot be opened ({error.strerror or type(error).__name__})"
        return promised, ReadError(problem, where=path, remedy="check its permissions")
    if kind == "result":  # a mask or a map that we, or another segmenter, left in a folder of inputs
        what = "this is a segmentation, not an image"
        return None, ReadError(what, where=path, remedy="give the image that it was made from") if explicit else None
    if kind is not None or not (explicit or promised):
        return kind, None
    what = f"this is no {_FAMILY[promised]} file, whatever its name says" if promised else "this is no image"
    if path.stat().st_size == 0:
        what = "the file is empty"
    return promised, ReadError(what, where=path, remedy=f"give {_FORMATS} files, or remove it from the input")


def _sniff(path: Path, reader: HeaderReader) -> SourceKind | Literal["result"] | None:
    with path.open("rb") as stream:
        head = stream.read(4096)
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
    if head.startswith(_FIRST_DICOM_GROUPS):
        return "dicom" if reader.is_dicom_without_preamble(path) else None
    return None


def _real(path: Path) -> Path:
    """The path without links; unlike `Path.resolve`, which raises before Python 3.13, also for links in a circle."""
    return Path(os.path.realpath(path))


def _digest(path: Path) -> str:
    return hashlib.sha256(bytes(_real(path))).hexdigest()[:8]


def _stem(path: Path) -> str:
    return re.sub(r"(\.nii)?\.gz$|\.[^.]*$", "", path.name, flags=re.IGNORECASE) or path.name


def _safe(name: str) -> str:
    """The name with everything replaced that could mean something to a file system."""
    return re.sub(r"[^\w.+=, -]", "_", name).strip(". ")[:_LONGEST_NAME] or "case"


def _missing(given: Path) -> CaseFiles:
    what, remedy = "there is no such file or folder", "check the path"
    if given.name.lower().endswith(tuple(_PROMISED)):
        return CaseFiles(_stem(given), None, (given,), ReadError(what, where=given, remedy=remedy))
    error = _FolderError(what, where=given, remedy=remedy)
    return CaseFiles(f"missing-{_digest(given)}", None, (given,), error)


def _empty(folder: Path) -> CaseFiles:
    error = _FolderError(
        "the folder holds nothing to segment", where=folder, remedy=f"give a folder with {_FORMATS} files"
    )
    return CaseFiles(f"empty-folder-{_digest(folder)}", None, (folder,), error)


def _named_apart(cases: list[CaseFiles]) -> list[CaseFiles]:
    """The cases with distinct names, also on file systems that ignore case."""
    shared = Counter(files.case.casefold() for files in cases)
    taken: set[str] = set()
    apart: list[CaseFiles] = []
    for files in cases:
        name = files.case
        if shared[name.casefold()] > 1:
            name = f"{name}-{_digest(min(files.paths))}"
        while name.casefold() in taken:
            name += "+"
        taken.add(name.casefold())
        apart.append(replace(files, case=name))
    return apart
