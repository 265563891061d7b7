"""The files below a folder: through links, but not in circles, and without what an earlier run left there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Listing", "list_files", "real"]

_LEDGER, _PREVIEWS = ".cdal-ledger", "previews"
_DISC_INDEX = "DICOMDIR"


@dataclass(frozen=True)
class Listing:
    """What lies below a folder.

    Attributes:
        files: in the order of their names.
        unreadable: folders that cannot be listed.
        discs: folders that are the contents of a DICOM disc, since they have its index.
    """

    files: list[Path] = field(default_factory=list)
    unreadable: list[Path] = field(default_factory=list)
    discs: list[Path] = field(default_factory=list)


def list_files(folder: Path, exclude: Path | None = None) -> Listing:
    """List the files below a folder, hidden ones and the outputs of earlier runs left out.

    Links to folders are followed, except to one that was visited, or to one above.

    Args:
        folder: where to begin.
        exclude: a folder below it to pass over.
    """
    listing = Listing()
    start, passed_over = real(folder), None if exclude is None else real(exclude)
    visited = {start, *start.parents}
    earlier: set[Path] = set()
    if passed_over in visited:  # what is named as an input is wanted
        passed_over = None

    def enters(path: Path) -> bool:
        target = real(path)
        if target in visited or (passed_over is not None and passed_over in (target, *target.parents)):
            return False
        visited.add(target)
        return True

    def note(error: OSError) -> None:
        listing.unreadable.append(Path(error.filename))

    for place, folders, names in os.walk(folder, onerror=note, followlinks=True):
        here = Path(place)
        hidden = {_PREVIEWS} if _LEDGER in folders else set()
        earlier.update(_outputs(here) if hidden else ())
        visible = (name for name in sorted(folders) if not name.startswith(".") and name not in hidden)
        folders[:] = [name for name in visible if enters(here / name)]
        if _DISC_INDEX in (name.upper() for name in names):
            listing.discs.append(here)
        files = (here / name for name in sorted(names) if not name.startswith("."))
        listing.files.extend(path for path in files if path not in earlier)
    return listing


def real(path: Path) -> Path:
    """The path without links; unlike `Path.resolve`, which raises before Python 3.13, also for links in a circle."""
    return Path(os.path.realpath(path))


def _outputs(out: Path) -> Iterator[Path]:
    """What the ledger of an output folder lists."""
    for entry in sorted((out / _LEDGER).glob("*.json")):
        with suppress(OSError, ValueError, TypeError, LookupError):  # damaged, or none of ours
            yield from [out / name for name in json.loads(entry.read_text(encoding="utf-8"))["outputs"]]
