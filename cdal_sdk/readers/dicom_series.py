"""DICOM headers grouped into series: what belongs together in one volume, what stands alone, what is no image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cdal_sdk.errors import ReadError
from cdal_sdk.readers.case_files import CaseFiles, UnnamedError
from cdal_sdk.readers.dicom_doubts import doubts_of, is_close, plane_doubts_of, relation_doubts_of
from cdal_sdk.readers.dicom_split import Placed, divide
from cdal_sdk.readers.header import Header

__all__ = ["group_series"]


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
        whole series fail, since a volume without it would pass for a complete one; so does a file of which nothing is
        known, beside the slices of one series. Beside several, it is a case with an error and a doubt about each of
        them; anywhere else, a damaged file is a case with an error. Cases of damaged files are named "damaged-".
    """
    series: dict[str, list[_Slice]] = defaultdict(list)
    unknown: list[_Slice] = []
    for path, header in files:
        (series[header.series] if header.series else unknown).append(_slice(path, header))
    strays, doubts = _adopt(unknown, series)
    cases = [case for uid, pieces in series.items() for case in _cases(pieces, doubts.get(uid, ()))]
    return cases + [_damaged(pieces) for pieces in strays]


def _adopt(
    unknown: Iterable[_Slice], series: Mapping[str, list[_Slice]]
) -> tuple[list[list[_Slice]], dict[str, tuple[str, ...]]]:
    """Give files of which nothing is known to the one series that has slices beside them.

    Returns:
        Those that stay, by folder and problem, and what is to be doubted of the series beside which they lie.
    """
    stacks_in: dict[Path, set[str]] = defaultdict(set)
    for uid, pieces in series.items():
        for piece in pieces:
            if piece.header.frame is not None:
                stacks_in[piece.path.parent].add(uid)
    strays: dict[tuple[Path, str], list[_Slice]] = defaultdict(list)
    doubts: dict[str, tuple[str, ...]] = {}
    for piece in unknown:
        beside = stacks_in[piece.path.parent]
        if len(beside) == 1:
            series[next(iter(beside))].append(_lost(piece))
            continue
        strays[piece.path.parent, str(piece.header.problem)].append(piece)
        doubts |= dict.fromkeys(beside, ("a damaged file beside its slices may be one of them",))
    return list(strays.values()), doubts


def _lost(piece: _Slice) -> _Slice:
    """A file that is taken for a slice, since it lies where slices of one series do."""
    what = f"a file beside its slices may be one of them: {piece.error.what if piece.error else 'damaged'}"
    remedy = "copy or export the series again, or remove that file"
    return replace(piece, error=UnnamedError(what, where=piece.path, remedy=remedy))


def _damaged(pieces: Sequence[_Slice]) -> CaseFiles:
    """The case of files whose own names may be that of a patient."""
    return CaseFiles("damaged-", "dicom", tuple(piece.path for piece in pieces), pieces[0].error)


def _cases(pieces: Sequence[_Slice], doubts: tuple[str, ...]) -> list[CaseFiles]:
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
    cases = [case for piece in single for case in _alone(piece)]
    if not stacks:
        return cases + ([_damaged(damaged)] if damaged else [])
    error = damaged[0].error if damaged else None
    placed = [[piece.placed for piece in stack if piece.placed] for stack in stacks]
    volumes = [volume for stack in placed for volume in divide(stack)]
    doubts += relation_doubts_of([piece for stack in placed for piece in stack])
    doubts += plane_doubts_of([stack[0].header.frame or () for stack in stacks])
    if not single:  # else those have numbers of the series, too
        doubts += doubts_of([piece for volume in volumes for piece in volume])
    paths = [tuple(piece.path for piece in volume) for volume in volumes]
    paths[0] += tuple(piece.path for piece in damaged)  # in one case only, as every file is
    name = stacks[0][0].header.series
    return cases + [
        CaseFiles(name, "dicom", members, error, identity=_identity(volume), doubts=doubts)
        for members, volume in zip(paths, volumes, strict=True)
    ]


def _alone(piece: _Slice) -> list[CaseFiles]:
    """The case of an image that stands alone, or those of the volumes of a multi-frame file."""
    case = CaseFiles(piece.header.series, "dicom", (piece.path,), identity=piece.header.marks.get("SOPInstanceUID", ""))
    return [
        replace(case, frames=frames, identity=f"{case.identity or piece.path.name} {frames}")
        for frames in piece.header.volumes
    ] or [case]


def _identity(volume: Sequence[Placed]) -> str:
    """What tells one volume of a series from another, however its files are named."""
    return min(piece.marks.get("SOPInstanceUID", "") for piece in volume)


def _with_place(piece: _Slice, placed_classes: Collection[str]) -> _Slice:
    """The slice, with an error where it has no place although its like in the series have one."""
    header = piece.header
    if piece.error or header.frame is not None or header.frames > 1 or header.sop_class not in placed_classes:
        return piece
    what = "the position, orientation or pixel spacing of a slice is missing"
    return replace(piece, error=UnnamedError(what, where=piece.path, remedy="export the series again"))


def _slice(path: Path, header: Header) -> _Slice:
    placed = None if header.frame is None else Placed(path, header.position, header.marks)
    error = None if header.problem is None else UnnamedError(header.problem[0], where=path, remedy=header.problem[1])
    return _Slice(path, header, placed, error)


def _same_stack(one: _Slice, other: _Slice) -> bool:
    """Whether two slices of one series belong to one volume."""
    a, b = one.header, other.header
    if a.frame is None or b.frame is None or (a.size, len(a.frame)) != (b.size, len(b.frame)):
        return False
    return is_close(a.frame, b.frame)
