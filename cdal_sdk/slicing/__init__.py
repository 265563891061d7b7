"""Planning: from a study to the network's 2-D inputs, and results back onto the source grid."""

from cdal_sdk.slicing.domain import check_domain, match_channels
from cdal_sdk.slicing.plan import Domain, Intensity, Plan
from cdal_sdk.slicing.prepare import Prepared, prepare, stack_context

__all__ = [
    "Domain",
    "Intensity",
    "Plan",
    "Prepared",
    "check_domain",
    "match_channels",
    "prepare",
    "stack_context",
]
