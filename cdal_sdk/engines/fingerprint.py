"""When a stored engine may be used: everything that it was built from, as data that can be compared."""

from __future__ import annotations

import torch

from cdal_sdk.diffusion import Sampling

__all__ = ["GRAPH_VERSION", "fingerprint"]

GRAPH_VERSION = 1
"""Raised whenever the fused graph computes something else than before."""


def fingerprint(engine: str, weights_sha256: str, sampling: Sampling, device: str) -> dict[str, object]:
    """What an engine depends on. A stored engine with another fingerprint is stale or foreign."""
    return {
        "engine": engine,
        "graph_version": GRAPH_VERSION,
        "weights": weights_sha256,
        "betas": list(sampling.schedule.betas),
        "label_shape": list(sampling.label_shape),
        "votes": sampling.votes,
        "seed": sampling.seed,
        "posterior_noise": sampling.posterior_noise,
        "device": device,
        "torch": torch.__version__.split("+")[0],
    }
