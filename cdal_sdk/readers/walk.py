"""The files below a folder: through links, but not in circles, and without what an earlier run left there."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cdal_sdk.readers.patience import TurnTo

__all__ = ["Listing", "list_files", "real"]

_LEDGER, _PREVIEWS = ".cdal-ledger", "previews"
_DISC_INDEX = "DICOMDIR"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Listing:
    """What an input stands for.

    Attributes:
        files: below a folder, in the order of their names, or the input itself; by the path without links.
        is_folder: whether it is a folder.
        unreadable: folders that cannot be listed.
        discs: folders that are the contents of a DICOM disc, since they have its index.
        outputs: files that an earlier run wrote, which are none of `files`.
    """

    files: dict[Path, Path] = field(default_factory=dict)
    is_folder: bool = True
    unreadable: list[Path] = field(default_factory=list)
    discs: list[Path] = field(default_factory=list)
    outputs: list[Path] = field(default_factory=list)


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
    digests: dict[Path, set[str]] = defaultdict(set)  # of outputs of earlier runs
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
        for path, digest in _outputs(here) if hidden else ():
            turn_to(here)
            digests[path].add(digest)
        visible = (name for name in sorted(folders) if not name.startswith(".") and name not in hidden)
        waiting += reversed([here / name for name in visible if enters(here / name)])
        if _DISC_INDEX in (name.upper() for name in names):
            listing.discs.append(here)
        for path in (here / name for name in sorted(names) if not name.startswith(".")):
            turn_to(here)
            if path in digests and _digest(path, turn_to) in digests[path]:
                listing.outputs.append(path)
            else:
                listing.files[real(path)] = path
    return listing


def real(path: Path) -> Path:
    """The path without links; unlike `Path.resolve`, which raises before Python 3.13, also for links in a circle."""
    return Path(os.path.realpath(path))


def _outputs(out: Path) -> Iterator[tuple[Path, str]]:
    """What the ledger of an output folder lists, with SHA-256: under the name of a mask that is gone may be a scan."""
    for entry in sorted((out / _LEDGER).glob("*.json")):
        with suppress(OSError, ValueError, TypeError, LookupError, AttributeError):  # damaged, or none of ours
            digests = json.loads(entry.read_text(encoding="utf-8"))["output_sha256"]
            yield from [(out / name, str(digest)) for name, digest in digests.items()]


def _digest(path: Path, turn_to: TurnTo) -> str | None:
    """SHA-256 of a file; None where it has none that can be read."""
    if not path.is_file():
        return None
    digest = hashlib.sha256()
    with suppress(OSError), path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            turn_to(path.parent)  # however large it is, a drive that answers is not late
            digest.update(chunk)
        return digest.hexdigest()
    return None
