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


@dataclass(frozen=True)
class Listing:
    """What an input stands for.

    Attributes:
        files: below a folder, in the order of their names, or the input itself; by the path without links.
        is_folder: whether it is a folder.
        unreadable: folders that cannot be listed.
        discs: folders that are the contents of a DICOM disc, since they have its index.
    """

    files: dict[Path, Path] = field(default_factory=dict)
    is_folder: bool = True
    unreadable: list[Path] = field(default_factory=list)
    discs: list[Path] = field(default_factory=list)


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
    earlier: set[Path] = set()
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
        for path in _outputs(here) if hidden else ():
            turn_to(here)
            earlier.add(path)
        visible = (name for name in sorted(folders) if not name.startswith(".") and name not in hidden)
        waiting += reversed([here / name for name in visible if enters(here / name)])
        if _DISC_INDEX in (name.upper() for name in names):
            listing.discs.append(here)
        for path in (here / name for name in sorted(names) if not name.startswith(".")):
            turn_to(here)
            if path not in earlier:
                listing.files[real(path)] = path
    return listing


def real(path: Path) -> Path:
    """The path without links; unlike `Path.resolve`, which raises before Python 3.13, also for links in a circle."""
    return Path(os.path.realpath(path))


def _outputs(out: Path) -> Iterator[Path]:
    """What the ledger of an output folder lists."""
    for entry in sorted((out / _LEDGER).glob("*.json")):
        with suppress(OSError, ValueError, TypeError, LookupError):  # damaged, or none of ours
            yield from [out / name for name in json.loads(entry.read_text(encoding="utf-8"))["outputs"]]
