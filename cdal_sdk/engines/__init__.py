"""Inference engines behind one protocol."""

from cdal_sdk.engines.base import Device, Engine, VoteMaps, fuse, pick_device
from cdal_sdk.engines.choice import EngineName, check_engine_name, make_engine, stored_engine_names
from cdal_sdk.engines.fingerprint import GRAPH_VERSION, fingerprint
from cdal_sdk.engines.fused import FusedSampler

__all__ = [
    "GRAPH_VERSION",
    "Device",
    "Engine",
    "EngineName",
    "FusedSampler",
    "VoteMaps",
    "check_engine_name",
    "fingerprint",
    "fuse",
    "make_engine",
    "pick_device",
    "stored_engine_names",
]
