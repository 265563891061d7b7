"""Planning: from a study to the network's 2-D inputs, and results back onto the source grid."""

from cdal_sdk.slicing.domain import check_domain, match_channels
from cdal_sdk.slicing.plan import Domain, Intensity, Plan
from cdal_sdk.slicing.prepare import Prepared, Slices, cut_slices, prepare, stack_context, tile

__all__ = [
    "Domain",
    "Intensity",
    "Plan",
    "Prepared",
    "Slices",
    "check_domain",
    "cut_slices",
    "match_channels",
    "prepare",
    "stack_context",
    "tile",
]
