"""How large an input may be, so that a damaged or hostile file cannot exhaust memory, disk or patience.

All limits are checked on what a header announces, before anything of that size is allocated.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

from cdal_sdk.errors import ReadError

__all__ = ["LIMITS", "Limits", "check_slices", "check_voxels"]


@dataclass(frozen=True)
class Limits:
    """Upper bounds.

    Attributes:
        files: found in one run.
        slices: files or frames of one volume.
        pixels: of one picture or slice, channels not counted.
        whole_pixels: of a picture that is read whole where it could be segmented part by part.
        parts_pixels: of a picture that is segmented part by part.
        voxels: values of one case, channels counted; they take four bytes each.
        header_bytes: of what comes before the voxels of a NIfTI file.
        unpacked_bytes: of a DICOM file that is compressed as a whole.
    """

    files: int = 5_000_000
    slices: int = 20_000
    pixels: int = 2**28
    whole_pixels: int = 2**25
    parts_pixels: int = 2**36
    voxels: int = 2**30
    header_bytes: int = 2**24
    unpacked_bytes: int = 2**30


LIMITS = Limits()


def check_slices(count: int, where: Path) -> None:
    """Raises ReadError where a volume has more slices than is sane."""
    if not 0 < count <= LIMITS.slices:
        raise ReadError(
            f"it claims {count} slices, the limit is {LIMITS.slices}", where=where, remedy="divide it into volumes"
        )


def check_voxels(shape: tuple[int, ...], channels: int, where: Path) -> None:
    """Raises ReadError where a picture [row, column] or volume [i, j, k] is larger than is sane, or has no voxel."""
    size = " x ".join(map(str, shape))
    if min(shape) < 1 or channels < 1:
        raise ReadError(f"it claims an impossible size, {size}", where=where, remedy="copy or export it again")
    if prod(shape[:2]) > LIMITS.pixels or prod(shape) * channels > LIMITS.voxels:
        raise ReadError(
            f"it claims a size of {size} x {channels} channel(s), the limits are {LIMITS.pixels} pixels a slice and "
            f"{LIMITS.voxels} values in all",
            where=where,
            remedy="cut it into parts",
        )
