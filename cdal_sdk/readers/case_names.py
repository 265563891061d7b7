"""The names of cases: safe as file names, distinct, and naming no patient."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cdal_sdk.readers.case_files import CaseFiles

__all__ = ["name_cases", "stem"]

_MOST_BYTES = 190  # of UTF-8, so that a digest and the suffixes of outputs stay within the 255 of file systems


def name_cases(cases: Sequence[CaseFiles], folders: Sequence[Path]) -> list[CaseFiles]:
    """The cases with safe and distinct names, also for file systems that ignore case.

    Where names would be shared, and for a name that ends in "-", a digest is appended: of the case's identity, or of
    where it lies below the folder that all inputs share. So neither the name of a folder gets out, which is often that
    of a patient, nor does a name change with the place of that folder.

    Args:
        cases: as they were found.
        folders: that the inputs are, or lie in.
    """
    root = _shared_folder(folders)
    named = [replace(files, case=_safe(files.case)) for files in cases]
    shared = Counter(files.case.casefold() for files in named)
    taken: set[str] = set()
    apart: list[CaseFiles] = []
    for files in named:
        name = files.case
        if name.endswith("-"):
            name += _digest(files, root)
        elif shared[name.casefold()] > 1:
            name = f"{name}-{_digest(files, root)}"
        while name.casefold() in taken:
            name += "+"
        taken.add(name.casefold())
        apart.append(replace(files, case=name))
    return apart


def stem(path: Path) -> str:
    """The name of a file without its suffix."""
    return re.sub(r"(\.nii)?\.gz$|\.[^.]*$", "", path.name, flags=re.IGNORECASE) or path.name


def _safe(name: str) -> str:
    """The name with everything replaced that could mean something to a file system, and not too long for one."""
    plain = re.sub(r"[^\w.+=, -]", "_", name).strip(". ")
    return plain.encode()[:_MOST_BYTES].decode(errors="ignore") or "case"


def _shared_folder(folders: Sequence[Path]) -> Path:
    try:
        return Path(os.path.commonpath([_absolute(folder) for folder in folders]))
    except ValueError:  # on several drives, or nothing
        return Path()


def _absolute(path: Path) -> Path:
    """The path from the root, without dots; links stay, since what they lead to may move."""
    return Path(os.path.normpath(path.absolute()))


def _digest(files: CaseFiles, root: Path) -> str:
    said = files.identity.encode()
    if not said:
        path = _absolute(min(files.paths))
        said = os.fsencode((path.relative_to(root) if path.is_relative_to(root) else path).as_posix())
    return hashlib.sha256(said).hexdigest()[:8]
