"""Inference engines behind one protocol."""

from cdal_sdk.engines.base import (
    BatchProfile,
    Builder,
    BuiltEngine,
    Device,
    Engine,
    Precision,
    ProbingEngine,
    Target,
    VoteMaps,
    build_engine,
    describe_gpu,
    fold_for,
    fuse,
    in_parts,
    pick_device,
)
from cdal_sdk.engines.cache import EngineCache, default_cache_folder
from cdal_sdk.engines.choice import (
    EngineRequest,
    fitting_precisions,
    make_engine,
    stored_engine_names,
    usable_precisions,
)
from cdal_sdk.engines.fingerprint import GRAPH_VERSION, fingerprint
from cdal_sdk.engines.fused import FoldedSampler, FusedSampler
from cdal_sdk.engines.registry import (
    ENGINES,
    EngineKind,
    builder_of,
    candidates,
    check_engine_name,
    engine_kind,
    engine_names,
)

__all__ = [
    "ENGINES",
    "GRAPH_VERSION",
    "BatchProfile",
    "Builder",
    "BuiltEngine",
    "Device",
    "Engine",
    "EngineCache",
    "EngineKind",
    "EngineRequest",
    "FoldedSampler",
    "FusedSampler",
    "Precision",
    "ProbingEngine",
    "Target",
    "VoteMaps",
    "build_engine",
    "builder_of",
    "candidates",
    "check_engine_name",
    "default_cache_folder",
    "describe_gpu",
    "engine_kind",
    "engine_names",
    "fingerprint",
    "fitting_precisions",
    "fold_for",
    "fuse",
    "in_parts",
    "make_engine",
    "pick_device",
    "stored_engine_names",
    "usable_precisions",
]
