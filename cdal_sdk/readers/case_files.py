"""What discovery hands to reading."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cdal_sdk.errors import ReadError
from cdal_sdk.study import SourceKind

__all__ = ["CaseFiles"]


@dataclass(frozen=True)
class CaseFiles:
    """A case that was found, not yet read.

    Attributes:
        case: its name in outputs, unique in one discovery and safe as a file name.
        kind: the family of the format; None where nothing readable was recognised.
        paths: its files; for a DICOM series in no particular order.
        volume: of a NIfTI file with several, the number of the one to read, from 0; None takes it only where it is one.
        error: why it cannot be read, where that is already known.
    """

    case: str
    kind: SourceKind | None
    paths: tuple[Path, ...]
    error: ReadError | None = None
    volume: int | None = None
