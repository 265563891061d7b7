"""DICOM headers grouped into series: what belongs together in one volume, what stands alone, what is no image."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cdal_sdk.errors import ReadError
from cdal_sdk.readers.case_files import CaseFiles
from cdal_sdk.readers.dicom_split import Placed, divide
from cdal_sdk.readers.header import Header

__all__ = ["group_series"]

# Cosines and spacings that differ by less than the rounding of a decimal string belong to one stack.
_SAME = 1e-3


@dataclass(frozen=True)
class _Slice:
    """A file with its header."""

    path: Path
    header: Header
    placed: Placed | None = None  # where the image does not stand alone
    error: ReadError | None = None  # why the rest is not known


def group_series(files: Iterable[tuple[Path, Header]]) -> list[CaseFiles]:
    """Group DICOM files into cases.

    Args:
        files: with their headers.

    Returns:
        One case for each volume of one series (echoes, acquisitions and repetitions are volumes of their own), for
        each multi-frame file and for each image without a place in the patient. A damaged file of a stack makes its
        whole series fail, since a volume without it would pass for a complete one; of any other kind, it is a case
        with an error.
    """
    series: dict[str, list[_Slice]] = {}
    for path, header in files:
        series.setdefault(header.series, []).append(_slice(path, header))
    return [case for pieces in series.values() for case in _cases(pieces)]


def _cases(pieces: Sequence[_Slice]) -> list[CaseFiles]:
    """The cases of one series."""
    stacks: list[list[_Slice]] = []
    for piece in pieces:
        if piece.header.frame is not None:
            stack = next((stack for stack in stacks if _same_stack(stack[0], piece)), None)
            if stack is None:
                stacks.append([piece])
            else:
                stack.append(piece)
    placed_classes = {piece.header.sop_class for stack in stacks for piece in stack}
    pieces = [_with_place(piece, placed_classes) for piece in pieces]
    damaged = [piece for piece in pieces if piece.error]
    single = [piece for piece in pieces if not piece.error and piece.header.frame is None]
    cases = [CaseFiles(piece.header.series, "dicom", (piece.path,)) for piece in single]
    if not stacks:
        return cases + [CaseFiles(piece.path.stem, "dicom", (piece.path,), piece.error) for piece in damaged]
    error = damaged[0].error if damaged else None
    volumes = [volume for stack in stacks for volume in divide([piece.placed for piece in stack if piece.placed])]
    paths = [tuple(piece.path for piece in volume) for volume in volumes]
    paths[0] += tuple(piece.path for piece in damaged)  # in one case only, as every file is
    return cases + [CaseFiles(pieces[0].header.series, "dicom", members, error) for members in paths]


def _with_place(piece: _Slice, placed_classes: Collection[str]) -> _Slice:
    """The slice, with an error where it has no place although its like in the series have one."""
    header = piece.header
    if piece.error or header.frame is not None or header.frames > 1 or header.sop_class not in placed_classes:
        return piece
    what = "the position, orientation or pixel spacing of a slice is missing"
    return replace(piece, error=ReadError(what, where=piece.path, remedy="export the series again"))


def _slice(path: Path, header: Header) -> _Slice:
    placed = None if header.frame is None else Placed(path, header.position, header.marks)
    error = None if header.problem is None else ReadError(header.problem[0], where=path, remedy=header.problem[1])
    return _Slice(path, header, placed, error)


def _same_stack(one: _Slice, other: _Slice) -> bool:
    """Whether two slices of one series belong to one volume."""
    a, b = one.header, other.header
    if a.frame is None or b.frame is None or (a.size, len(a.frame)) != (b.size, len(b.frame)):
        return False
    return all(math.isclose(x, y, abs_tol=_SAME) for x, y in zip(a.frame, b.frame, strict=True))
