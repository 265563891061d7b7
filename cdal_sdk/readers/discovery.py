"""Which cases lie in the files and folders that a user names: recognised by content, never by name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from cdal_sdk.errors import ReadError, UsageError
from cdal_sdk.readers.case_files import CaseFiles, UnnamedError
from cdal_sdk.readers.case_names import name_cases, stem
from cdal_sdk.readers.header import Header
from cdal_sdk.readers.limits import LIMITS
from cdal_sdk.readers.patience import TurnTo, in_time
from cdal_sdk.readers.recognise import FORMATS, HeaderReader, Recognised, promised_kind, recognise
from cdal_sdk.readers.walk import list_files, real

__all__ = ["discover"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class _Here:
    """Reads headers in this process."""

    timeout: float | None = None

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

    Folders are searched recursively, through links, too. Passed over are hidden files, segmentations, what an earlier
    run left in its output folder, the pictures of a DICOM disc (its viewer's), and files that were never meant to be
    an input.
    A DICOM series is one case however its files are named and wherever they lie; it is split where size, orientation
    or pixel spacing differ. A file that may be what is left of a slice makes the series in its folder fail, since a
    volume without it would pass for a complete one. For the names see `name_cases`.

    Args:
        inputs: files and folders.
        exclude: a folder that is passed over with all that lies in it, such as the one for the outputs. An input that
            is this folder, or lies in it, is used nevertheless.
        volume: the one to take of NIfTI files with several, from 0.
        reader: reads the DICOM headers, such as an `IsolatedReader`, for files that may be hostile; by default they are
            read in this process. Where it has a timeout, no folder or file may keep the search waiting for longer.

    Returns:
        The cases. What looks like an input but cannot be read, folders among it, and what does not exist, is a case
        with an error. So is an input on a drive that stops answering, with all that lies in it: what was found there
        until then may be a part of a series.

    Raises:
        UsageError: none of the inputs holds anything to segment.
        ReadError: nor does one of them answer; it names the place.
    """
    headers = reader or _Here()
    silent: dict[Path, ReadError] = {}
    ask = partial(_ask, timeout=headers.timeout, silent=silent)
    answers = {given: ask(partial(list_files, given, exclude), given) for given in dict.fromkeys(inputs)}
    listed = {given: listing for given, listing in answers.items() if listing is not None}
    if changed := {path for listing in listed.values() for path in listing.changed}:
        what = "passed over %d output(s) of an earlier run that have changed since; name them to segment them"
        _log.warning(what, len(changed))
    if any(listing.hidden for listing in listed.values()):
        what = "passed over %s, though what lies there is of no earlier run; choose another --out to segment it"
        _log.warning(what, exclude)
    missing = [given for given in answers if given not in listed and given not in silent]
    if missing and len(missing) == len(answers):
        raise UsageError("there is no such file or folder", where=missing[0], remedy="check the path")
    # By resolved path, so that a file named twice is one input; the order of insertion is the order of the cases.
    files = {target: path for listing in listed.values() for target, path in listing.files.items()}
    if len(files) > LIMITS.files:
        raise UsageError(f"there are {len(files)} files, the limit is {LIMITS.files}", remedy="give fewer at a time")
    order = {path: number for number, path in enumerate(files.values())}
    explicit = frozenset(listed)
    recognised: dict[Path, Recognised] = {}
    for given, listing in listed.items():
        paths = [files[target] for target in listing.files if files[target] not in recognised]
        recognised |= ask(partial(_recognise_all, paths, explicit, headers), given) or {}
    found = _cases(recognised, explicit, {disc for listing in listed.values() for disc in listing.discs})
    if silent:  # a series may lie in several inputs
        doubt = "an input could not be searched: slices of this series may lie there"
        found = [replace(case, doubts=(*case.doubts, doubt)) if case.kind == "dicom" else case for case in found]
    found.sort(key=lambda files: min(order[path] for path in files.paths))
    targets = {path: target for target, path in files.items()}
    used = {targets[path] for case in found for path in case.paths}
    unreadable = dict.fromkeys(path for listing in listed.values() for path in listing.unreadable)
    found += [_unreadable(path) for path in unreadable]
    if silent and not found:
        raise next(iter(silent.values()))
    if not found:
        names = ", ".join(str(given) for given in inputs) or "the given inputs"
        raise UsageError("there is nothing to segment here", where=names, remedy=f"give {FORMATS} files")
    found += [_missing(given) for given in missing if real(given) not in used]
    found += [
        _empty(given)
        for given, listing in listed.items()
        if not listing.unreadable and given not in silent and used.isdisjoint(listing.files)
    ]
    found += [_silent(given, error) for given, error in silent.items()]
    alone = {*missing, *(given for given, listing in listed.items() if not listing.is_folder)}
    folders = [given.parent if given in alone else given for given in inputs]
    return name_cases([replace(case, volume=volume) for case in found], folders)


def _ask(work: Callable[[TurnTo], _T], given: Path, timeout: float | None, silent: dict[Path, ReadError]) -> _T | None:
    """What work on an input comes to; None where its drive does not answer, or with an error, which is noted."""
    try:
        return in_time(work, given, timeout)
    except ReadError as error:
        silent[given] = error
    except OSError as error:
        silent[given] = ReadError(f"it cannot be searched ({error.strerror})", where=given, remedy="check the drive")
    return None


def _recognise_all(
    paths: Sequence[Path], explicit: frozenset[Path], reader: HeaderReader, turn_to: TurnTo
) -> dict[Path, Recognised]:
    """What the files are, with the headers of DICOM, without those that were never meant to be an input."""
    recognised = {}
    for path in paths:
        turn_to(path.parent)
        file = recognise(path, reader, explicit=path in explicit)
        if file.kind == "dicom" and file.error is None:
            turn_to(path.parent)
            file = replace(file, header=reader.header(path, explicit=path in explicit))
        if file != Recognised():
            recognised[path] = file
    return recognised


def _cases(recognised: Mapping[Path, Recognised], explicit: frozenset[Path], discs: set[Path]) -> list[CaseFiles]:
    found: list[CaseFiles] = []
    dicom_files: list[tuple[Path, Header]] = []
    remnants: list[tuple[Path, Recognised]] = []
    icons = 0
    for path, file in recognised.items():
        if file.remnant:
            remnants.append((path, file))
        elif file.kind == "image" and path not in explicit and not discs.isdisjoint(path.parents):
            icons += 1
        elif file.kind == "dicom" and file.error is None:
            dicom_files += [] if file.header is None else [(path, file.header)]
        elif file.kind is not None or file.error is not None:
            found.append(CaseFiles(stem(path), file.kind, (path,), file.error))
    if icons:
        _log.warning("passed over %d picture(s) of a DICOM disc; name them to segment them", icons)
    # What is left of a slice matters among slices; elsewhere, an empty file without a suffix says nothing.
    folders = {path.parent for path, header in dicom_files if header.problem is None}
    dicom_files += [
        (path, Header(problem=(file.error.what, file.error.remedy or "")))
        for path, file in remnants
        if file.error and (file.kind == "dicom" or path in explicit or path.parent in folders)
    ]
    if dicom_files:
        from cdal_sdk.readers.dicom_series import group_series

        found += group_series(dicom_files)
    return found


def _silent(given: Path, error: ReadError) -> CaseFiles:
    """Without a path, since whoever looks at that waits, too."""
    told = UnnamedError(error.what, where=error.where, remedy=error.remedy)
    return CaseFiles("silent-", None, (), told, identity=ascii(str(given)))


def _missing(given: Path) -> CaseFiles:
    what, remedy = "there is no such file or folder", "check the path"
    if promised_kind(given) in ("nifti", "image"):
        return CaseFiles(stem(given), None, (given,), ReadError(what, where=given, remedy=remedy))
    return CaseFiles("missing-", None, (given,), UnnamedError(what, where=given, remedy=remedy))


def _empty(folder: Path) -> CaseFiles:
    what, remedy = "the folder holds nothing to segment", f"give a folder with {FORMATS} files"
    return CaseFiles("empty-folder-", None, (folder,), UnnamedError(what, where=folder, remedy=remedy))


def _unreadable(folder: Path) -> CaseFiles:
    what, remedy = "the folder cannot be listed", "check its permissions"
    return CaseFiles("unreadable-folder-", None, (folder,), UnnamedError(what, where=folder, remedy=remedy))
