"""Planning: from a study to the network's 2-D inputs, and results back onto the source grid."""

from cdal_sdk.slicing.domain import check_domain, match_channels
from cdal_sdk.slicing.intensity import map_intensity
from cdal_sdk.slicing.plan import Domain, Intensity, Plan
from cdal_sdk.slicing.prepare import (
    Prepared,
    Slices,
    cut_slices,
    padded_size,
    planar_size,
    prepare,
    stack_context,
    tile,
)
from cdal_sdk.slicing.resample import resample_rows, rows_behind
from cdal_sdk.slicing.tiles import Tiling

__all__ = [
    "Domain",
    "Intensity",
    "Plan",
    "Prepared",
    "Slices",
    "Tiling",
    "check_domain",
    "cut_slices",
    "map_intensity",
    "match_channels",
    "padded_size",
    "planar_size",
    "prepare",
    "resample_rows",
    "rows_behind",
    "stack_context",
    "tile",
]
