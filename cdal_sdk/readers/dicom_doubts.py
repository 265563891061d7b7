"""What the headers of a series as a whole give to doubt: whether slices are missing at its ends, or belong together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cdal_sdk.readers.dicom_split import RELATING, Placed, instance_number

__all__ = ["doubts_of", "numbering_doubts_of", "relation_doubts_of"]


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


def _announced(slices: Sequence[Placed]) -> list[str]:
    """The images of an acquisition, which some scanners count for the series."""
    present = Counter(piece.marks.get("AcquisitionNumber") for piece in slices)
    counts = {len(slices), *present.values()}
    announced = {piece.marks["ImagesInAcquisition"] for piece in slices if "ImagesInAcquisition" in piece.marks}
    wrong = sorted(int(number) for number in announced if number.isdecimal() and int(number) not in counts)
    return [f"slices may be missing: {number} are announced, {len(slices)} are here" for number in wrong]
