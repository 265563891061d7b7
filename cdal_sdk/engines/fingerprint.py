"""When a stored engine may be used: everything that it was built from, as data that can be compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict

from cdal_sdk.engines.base import Target
from cdal_sdk.network import GeneratorConfig

__all__ = ["GRAPH_VERSION", "differences", "fingerprint", "identity"]

GRAPH_VERSION = 6
"""Raised whenever the graph is written or the gate judges otherwise than before, so that engines are built again."""

Fingerprint = dict[str, object]


def fingerprint(engine: str, target: Target, network: GeneratorConfig, environment: Mapping[str, str]) -> Fingerprint:
    """What an engine depends on. A stored engine with another fingerprint is stale or foreign.

    Args:
        engine: its name.
        target: what it is built for.
        network: its layers, since weights do not tell all of them: no weight knows of a closing tanh.
        environment: versions and hardware, from its builder.
    """
    sampling = target.sampling
    return {
        "engine": engine,
        "graph_version": GRAPH_VERSION,
        "weights": target.weights_sha256,
        "network": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(network).items()
            if name != "dropout"  # of training only
        },
        "betas": list(sampling.schedule.betas),
        "label_shape": list(sampling.label_shape),
        "votes": sampling.votes,
        "seed": None if target.free_noise else sampling.seed,
        "free_noise": target.free_noise,
        "posterior_noise": sampling.posterior_noise,
        "device": target.device,
        "precision": target.precision,
        "fixed_size": target.fixed_size,
        "batch": list(target.batch),
        "canvas": list(target.canvas),
        **dict(environment),
    }


def differences(found: Mapping[str, object], wanted: Fingerprint) -> list[str]:
    """Names of the entries in which a stored fingerprint differs from the wanted one."""
    return sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))


def identity(wanted: Fingerprint) -> str:
    """A short name for a fingerprint, usable as a file name."""
    return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:24]
