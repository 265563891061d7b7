"""The files below a folder: through links, but not in circles, and without what an earlier run left there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cdal_sdk.readers.patience import TurnTo

__all__ = ["Listing", "list_files", "real"]

_LEDGER, _PREVIEWS = ".cdal-ledger", "previews"
_DISC_INDEX = "DICOMDIR"
_WHILE_RECORDED = 2.0  # seconds: what is younger than its record by more was written by somebody else


@dataclass(frozen=True)
class Listing:
    """What an input stands for.

    Attributes:
        files: below a folder, in the order of their names, or the input itself; by the path without links.
        is_folder: whether it is a folder.
        unreadable: folders that cannot be listed.
        discs: folders that are the contents of a DICOM disc, since they have its index.
        changed: outputs of an earlier run that are younger than its record of them; none of `files`.
    """

    files: dict[Path, Path] = field(default_factory=dict)
    is_folder: bool = True
    unreadable: list[Path] = field(default_factory=list)
    discs: list[Path] = field(default_factory=list)
    changed: list[Path] = field(default_factory=list)


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
    recorded: dict[Path, float] = {}  # outputs of earlier runs, and when they were
    if passed_over in visited:  # what is named as an input is wanted
        passed_over = None

    def enters(path: Path) -> bool:
        turn_to(path)
        target = real(path)
        if target in visited or (passed_over is not None and passed_over in (target, *target.parents)):
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
        for path, moment in _outputs(here) if hidden else ():
            turn_to(here)
            recorded[path] = moment
        visible = (name for name in sorted(folders) if not _is_aside(name) and name not in hidden)
        waiting += reversed([here / name for name in visible if enters(here / name)])
        if _DISC_INDEX in (name.upper() for name in names):
            listing.discs.append(here)
        for path in (here / name for name in sorted(names) if not _is_aside(name)):
            turn_to(here)
            if path not in recorded:
                listing.files[real(path)] = path
            elif _written(path) > recorded[path] + _WHILE_RECORDED:
                listing.changed.append(path)
    return listing


def real(path: Path) -> Path:
    """The path without links; unlike `Path.resolve`, which raises before Python 3.13, also for links in a circle."""
    return Path(os.path.realpath(path))


def _is_aside(name: str) -> bool:
    """Whether a name is that of a hidden file, or of one that was kept when another took its place."""
    return name.startswith(".") or name.rstrip("0123456789").endswith("~")


def _outputs(out: Path) -> Iterator[tuple[Path, float]]:
    """What the ledger of an output folder lists, and when it was recorded."""
    for entry in sorted((out / _LEDGER).glob("*.json")):
        with suppress(OSError, ValueError, TypeError, LookupError):  # damaged, or none of ours
            names, moment = json.loads(entry.read_text(encoding="utf-8"))["outputs"], entry.stat().st_mtime
            yield from [(out / name, moment) for name in names]


def _written(path: Path) -> float:
    """When a file was written, in seconds; 0 where that cannot be told."""
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0
