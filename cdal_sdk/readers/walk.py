"""The files below a folder: through links, but not in circles, and without what an earlier run left there."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cdal_sdk.digest import sha256
from cdal_sdk.readers.patience import TurnTo

__all__ = ["Listing", "list_files", "real"]

_LEDGER, _PREVIEWS = ".cdal-ledger", "previews"
_DISC_INDEX = "DICOMDIR"
_KEPT = re.compile(r".+\.(nii\.gz|dcm|png|tif)~\d*")  # what a run found under a result's name, and kept


@dataclass(frozen=True)
class Listing:
    """What an input stands for.

    Attributes:
        files: below a folder, in the order of their names, or the input itself; by the path without links.
        is_folder: whether it is a folder.
        unreadable: folders that cannot be listed.
        discs: folders that are the contents of a DICOM disc, since they have its index.
        changed: files under the names of outputs of an earlier run, with other bytes than it recorded; none of `files`.
        hidden: the folder that was passed over, where it holds something and no run has worked there.
    """

    files: dict[Path, Path] = field(default_factory=dict)
    is_folder: bool = True
    unreadable: list[Path] = field(default_factory=list)
    discs: list[Path] = field(default_factory=list)
    changed: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)


def list_files(given: Path, exclude: Path | None, turn_to: TurnTo) -> Listing | None:
    """List a file, or those below a folder, hidden ones and the outputs of earlier runs left out.

    Links to folders are followed, except to one that was visited, or to one above.

    Args:
        given: a file or folder.
        exclude: a folder below it to pass over.
        turn_to: called with each place before it is looked at.

    Returns:
        The listing; None where there is no such file or folder.
    """
    if not given.is_dir():
        return Listing({real(given): given}, is_folder=False) if given.exists() else None
    listing = Listing()
    start, passed_over = real(given), None
    if exclude is not None:
        turn_to(exclude)
        passed_over = real(exclude)
    visited = {start, *start.parents}
    recorded: dict[Path, str] = {}  # outputs of earlier runs, and their SHA-256
    if passed_over in visited:  # what is named as an input is wanted
        passed_over = None

    def enters(path: Path) -> bool:
        turn_to(path)
        target = real(path)
        if passed_over is not None and passed_over in (target, *target.parents):
            if _holds_what_no_run_wrote(passed_over):
                listing.hidden.append(passed_over)
            return False
        if target in visited:
            return False
        visited.add(target)
        return True

    def note(error: OSError) -> None:
        listing.unreadable.append(Path(error.filename))

    waiting = [given]
    while waiting:
        here = waiting.pop()
        turn_to(here)
        _, folders, names = next(os.walk(here, onerror=note), ("", [], []))
        hidden = {_PREVIEWS} if _LEDGER in folders else set()
        for path, digest in _outputs(here) if hidden else ():
            turn_to(here)
            recorded[path] = digest
        visible = (name for name in sorted(folders) if not _is_aside(name) and name not in hidden)
        waiting += reversed([here / name for name in visible if enters(here / name)])
        if _DISC_INDEX in (name.upper() for name in names):
            listing.discs.append(here)
        for path in (here / name for name in sorted(names) if not _is_aside(name)):
            turn_to(here)
            if path in recorded:
                if not _holds(path, recorded[path]):
                    listing.changed.append(path)
            elif not (hidden and _KEPT.fullmatch(path.name)):
                listing.files[real(path)] = path
    return listing


def real(path: Path) -> Path:
    """The path without links; unlike `Path.resolve`, which raises before Python 3.13, also for links in a circle."""
    return Path(os.path.realpath(path))


def _is_aside(name: str) -> bool:
    """Whether a name is that of a hidden file, or of an editor's backup; not one such as `PATIEN~1`."""
    return name.startswith(".") or name.endswith("~")


def _outputs(out: Path) -> Iterator[tuple[Path, str]]:
    """What the ledger of an output folder lists, and its SHA-256."""
    for entry in sorted((out / _LEDGER).glob("*.json")):
        with suppress(OSError, ValueError, TypeError, LookupError, AttributeError):  # damaged, or none of ours
            told = json.loads(entry.read_text(encoding="utf-8"))
            yield from [(out / name, told.get("output_sha256", {}).get(name, "")) for name in told["outputs"]]


def _holds_what_no_run_wrote(folder: Path) -> bool:
    """Whether something lies in a folder that has no ledger."""
    try:
        return not (folder / _LEDGER).exists() and any(not path.name.startswith(".") for path in folder.iterdir())
    except OSError:
        return False


def _holds(path: Path, digest: str) -> bool:
    """Whether a file has the bytes of a digest."""
    try:
        return sha256(path) == digest
    except OSError:
        return False
