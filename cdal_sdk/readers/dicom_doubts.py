"""What the headers of a series as a whole give to doubt: whether slices are missing at its ends, or belong together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from cdal_sdk.readers.dicom_split import RELATING, Placed, instance_number

__all__ = ["doubts_of", "is_close", "numbering_doubts_of", "plane_doubts_of", "relation_doubts_of"]

# Cosines and spacings that differ by less than the rounding of a decimal string belong to one stack.
_SAME = 1e-3
_COSINES = 6
_ALMOST_PARALLEL = math.cos(math.radians(10))


def doubts_of(slices: Sequence[Placed]) -> tuple[str, ...]:
    """Reasons to doubt that a series is complete; many that are have them, so that they refuse nothing."""
    return (*numbering_doubts_of([instance_number(piece) for piece in slices]), *_announced(slices))


def numbering_doubts_of(known: Sequence[int | None]) -> tuple[str, ...]:
    """A reason to doubt that slices with these numbers are all of their volume; none where one has no number."""
    numbers = {number for number in known if number is not None}
    if None in known or not numbers:
        return ()
    first, last = min(numbers), max(numbers)
    if first in (0, 1) and last - first + 1 == len(numbers):
        return ()
    return (f"slices may be missing: {len(numbers)} are numbered from {first} to {last}",)


def relation_doubts_of(slices: Sequence[Placed]) -> tuple[str, ...]:
    """Reasons to doubt which slices of a series belong together."""
    doubts = []
    for mark, things in zip(RELATING, ("studies", "frames of reference"), strict=True):
        found = {piece.marks.get(mark) for piece in slices} - {None}
        if len(found) > 1:
            doubts.append(f"its series has {len(found)} {things}, so that slices may not belong together")
    return tuple(doubts)


def plane_doubts_of(planes: Sequence[Sequence[float]]) -> tuple[str, ...]:
    """Reasons to doubt that stacks are volumes of their own: a slice of another kind may have been the end of one.

    Args:
        planes: the orientation cosines of each stack, and what else its slices share.
    """
    alike = almost = False
    whole = [(plane[:6], _normal(plane)) for plane in planes if len(plane) >= _COSINES]  # others are refused anyway
    for (one, normal), (other, other_normal) in combinations(whole, 2):
        if is_close(one, other):
            alike = True
        elif abs(sum(x * y for x, y in zip(normal, other_normal, strict=True))) > _ALMOST_PARALLEL:
            almost = True
        if alike and almost:
            break
    doubts = ("slices may be missing: parallel ones of its series have another size or pixel spacing",) * alike
    return doubts + ("its slices lie in planes that are almost parallel, so that they may be one volume",) * almost


def is_close(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two sequences of cosines and spacings are the same but for rounding."""
    return all(math.isclose(x, y, abs_tol=_SAME) for x, y in zip(one, other, strict=False))


def _normal(plane: Sequence[float]) -> tuple[float, float, float]:
    """The direction across a plane whose orientation cosines come first."""
    (a, b, c), (x, y, z) = plane[:3], plane[3:6]
    return b * z - c * y, c * x - a * z, a * y - b * x


def _announced(slices: Sequence[Placed]) -> list[str]:
    """The images of an acquisition, which some scanners count for the series."""
    present = Counter(piece.marks.get("AcquisitionNumber") for piece in slices)
    counts = {len(slices), *present.values()}
    announced = {piece.marks["ImagesInAcquisition"] for piece in slices if "ImagesInAcquisition" in piece.marks}
    wrong = sorted(int(number) for number in announced if number.isdecimal() and int(number) not in counts)
    return [f"slices may be missing: {number} are announced, {len(slices)} are here" for number in wrong]
