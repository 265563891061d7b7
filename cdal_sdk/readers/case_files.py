"""What discovery hands to reading."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cdal_sdk.errors import ReadError
from cdal_sdk.study import SourceKind

__all__ = ["CaseFiles", "UnnamedError"]


class UnnamedError(ReadError):
    """About a folder or a DICOM file, whose own name may be that of a patient."""

    def brief(self, name: str | None = None) -> str:
        """The message for reports, without the path."""
        return self._text(name)


@dataclass(frozen=True)
class CaseFiles:
    """A case that was found, not yet read.

    Attributes:
        case: its name in outputs, unique in one discovery and safe as a file name.
        kind: the family of the format; None where nothing readable was recognised.
        paths: its files; for a DICOM series in no particular order.
        frames: of a multi-frame file with several volumes, those of the one to read, from 0.
        volume: of a NIfTI file with several, the number of the one to read, from 0; None takes it only where it is one.
        error: why it cannot be read, where that is already known.
        identity: what tells it from cases of the same name wherever it lies; empty where only its path does.
        doubts: reasons to review whatever comes of it, such as a file beside it that is damaged.
    """

    case: str
    kind: SourceKind | None
    paths: tuple[Path, ...]
    error: ReadError | None = None
    volume: int | None = None
    identity: str = ""
    frames: tuple[int, ...] = ()
    doubts: tuple[str, ...] = ()

    def told(self, error: ReadError) -> ReadError:
        """An error of reading them, of DICOM without the names of files."""
        if self.kind != "dicom":
            return error
        return UnnamedError(error.what, where=error.where, remedy=error.remedy)
