"""The SDK's engines for the benchmark: the one place here that knows how they are named and made."""

from __future__ import annotations

from cdal_sdk.bundle import Model
from cdal_sdk.diffusion import Sampling
from cdal_sdk.engines import (
    BuiltEngine,
    EngineCache,
    EngineRequest,
    candidates,
    default_cache_folder,
    engine_names,
    make_engine,
)

__all__ = ["make_own_engine", "own_engine_names", "rate_of", "runs_on"]

_PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def own_engine_names() -> tuple[str, ...]:
    """Every engine that there is, installed or not, without "auto"."""
    return tuple(name for name in engine_names() if name != "auto")


def runs_on(name: str, device: str) -> bool:
    """Whether an engine should run on a device once its packages are installed."""
    return name == "torch" or any(kind.name == name for kind in candidates(device))


def make_own_engine(name: str, model: Model, sampling: Sampling, device: str) -> BuiltEngine:
    """An engine for a model.

    Raises:
        EngineError: if it cannot be made here.
        MissingExtraError: if its packages are not installed.
    """
    request = EngineRequest(
        generator=model.generator,
        sampling=sampling,
        device=device,
        weights_sha256=model.weights_sha256,
        fixed_size=model.manifest.plan.fixed_size,
        stored=model.files,
        cache=EngineCache(default_cache_folder() / "benchmark"),  # apart: these are not gated
    )
    return make_engine(name, request)


def rate_of(precision: str) -> str:
    """The name of the matrix rate of an engine's word for its precision."""
    return _PRECISIONS.get(precision, precision)
