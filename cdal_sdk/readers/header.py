"""What of a DICOM header decides where its image belongs. It is plain, so that another process can send it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Header"]


@dataclass(frozen=True)
class Header:
    """What a header says about where its image belongs.

    Attributes:
        series: SeriesInstanceUID, empty where it is not known.
        size: rows and columns.
        sop_class: UID of the kind of object.
        frame: orientation cosines and pixel spacing; None where the image stands alone.
        position: of the first pixel, LPS millimetres; empty where it stands alone.
        marks: what tells volumes of one series apart, as text.
        frames: their number.
        volumes: the frames of each volume, from 0, where a multi-frame file holds several.
        problem: what is wrong with the file, and the remedy; None where nothing is.
    """

    series: str = ""
    size: tuple[int, int] = (0, 0)
    sop_class: str = ""
    frame: tuple[float, ...] | None = None
    position: tuple[float, ...] = ()
    marks: Mapping[str, str] = field(default_factory=dict)
    frames: int = 1
    volumes: tuple[tuple[int, ...], ...] = ()
    problem: tuple[str, str] | None = None
