"""Slices of one series and one plane, divided into volumes: by echo, acquisition, time point, or order of repetition.

A scanner often stores several volumes under one SeriesInstanceUID: echoes, the images of a Dixon sequence, the
b-values of a diffusion scan, the time points of a perfusion scan. Their slices lie at the same positions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

__all__ = ["MARKS", "RELATING", "Placed", "divide", "instance_number"]

# By the standard, a series has one of each.
RELATING = ("StudyInstanceUID", "FrameOfReferenceUID")
# What holds for a whole volume, so that slices which differ in it never belong together.
_ALWAYS = (*RELATING, "SamplesPerPixel", "PhotometricInterpretation", "EchoTime", "EchoNumbers")
# What may tell volumes apart that lie at the same positions, the most telling first.
_WHERE_REPEATED = (
    "ImageType",
    "TemporalPositionIdentifier",
    "DiffusionBValue",
    "InversionTime",
    "FlipAngle",
    "AcquisitionNumber",
    "TriggerTime",
    "ContrastBolusAgent",
    "ConvolutionKernel",
    "AcquisitionTime",
    "ContentTime",
)
MARKS = (*_ALWAYS, *_WHERE_REPEATED, "InstanceNumber", "SOPInstanceUID", "ImagesInAcquisition")
_SAME_POSITION_DIGITS = 2  # of millimetres; what differs in a finer digit is left to the check of the distances


@dataclass(frozen=True)
class Placed:
    """One slice with a place in the patient.

    Attributes:
        path: its file.
        position: of its first pixel, LPS millimetres.
        marks: values of `MARKS` that it has, as text.
    """

    path: Path
    position: tuple[float, ...]
    marks: Mapping[str, str] = field(default_factory=dict)


def divide(slices: Sequence[Placed]) -> list[list[Placed]]:
    """Volumes of slices that share their orientation, spacing and size.

    A mark that some slices lack divides nothing: a slice that loses its volume by damage would leave a shorter one
    that passes for complete. Positions that are still repeated stay together, to be refused by name when read.
    """
    volumes = [_without_copies(_without_scattered(slices))]
    for mark in _ALWAYS:
        volumes = [part for volume in volumes for part in _by(mark, volume)]
    return [part for volume in volumes for part in _unrepeated(volume, _WHERE_REPEATED)]


def _without_scattered(slices: Sequence[Placed]) -> list[Placed]:
    """The slices without those marks of `RELATING` of which no value holds two positions.

    Such values relate nothing to anything: an anonymiser gave each file its own.
    """
    if len(_positions(slices)) == 1:
        return list(slices)
    scattered = {mark for mark in RELATING if all(len(_positions(part)) == 1 for part in _by(mark, slices))}
    return [replace(piece, marks={k: v for k, v in piece.marks.items() if k not in scattered}) for piece in slices]


def _without_copies(slices: Sequence[Placed]) -> list[Placed]:
    """Each image once: a file with the same SOPInstanceUID, position and bytes is a copy."""
    kept: dict[tuple[str, tuple[float, ...]], list[Placed]] = {}
    for piece in slices:
        same = kept.setdefault((piece.marks.get("SOPInstanceUID", ""), piece.position), [])
        if not any(_same_bytes(piece.path, other.path) for other in same):
            same.append(piece)
    return [piece for same in kept.values() for piece in same]


def _same_bytes(one: Path, other: Path) -> bool:
    return one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()


def _by(mark: str, slices: Sequence[Placed]) -> list[list[Placed]]:
    """Groups of equal value; one group where a slice has none."""
    if any(mark not in piece.marks for piece in slices):
        return [list(slices)]
    groups: dict[str, list[Placed]] = defaultdict(list)
    for piece in slices:
        groups[piece.marks[mark]].append(piece)
    return list(groups.values())


def _unrepeated(slices: list[Placed], marks: Sequence[str]) -> list[list[Placed]]:
    at = _positions(slices)
    if len(at) == len(slices):
        return [slices]
    for number, mark in enumerate(marks):
        groups = _by(mark, slices)
        if len(groups) > 1 and all(_positions(group).keys() == at.keys() for group in groups):
            return [part for group in groups for part in _unrepeated(group, marks[number + 1 :])]
    return _in_order(at) or [slices]


def _positions(slices: Sequence[Placed]) -> dict[tuple[float, ...], list[Placed]]:
    """The slices at each position."""
    at: dict[tuple[float, ...], list[Placed]] = defaultdict(list)
    for piece in slices:
        at[tuple(round(value, _SAME_POSITION_DIGITS) + 0.0 for value in piece.position)].append(piece)
    return at


def _in_order(at: Mapping[tuple[float, ...], list[Placed]]) -> list[list[Placed]]:
    """The first image of every position, the second, and so on; nothing where their order or number is not clear."""
    repeats = {len(pieces) for pieces in at.values()}
    numbered = [[(instance_number(piece), piece) for piece in pieces] for pieces in at.values()]
    if len(repeats) > 1 or any(len({number for number, _ in row} - {None}) < len(row) for row in numbered):
        return []
    rows = [sorted(row, key=lambda pair: pair[0] or 0) for row in numbered]
    return [[pair[1] for pair in column] for column in zip(*rows, strict=True)]


def instance_number(piece: Placed) -> int | None:
    """The number of an image in its series, where it has one."""
    try:
        return int(float(piece.marks["InstanceNumber"]))
    except (KeyError, ValueError, OverflowError):
        return None
