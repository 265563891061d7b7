"""From a name to a running engine: a stored one where it fits, else one built here and now."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

from cdal_sdk.diffusion import Sampling
from cdal_sdk.engines.base import Engine
from cdal_sdk.engines.eager import TorchEngine
from cdal_sdk.engines.fingerprint import fingerprint
from cdal_sdk.engines.torchscript import SUFFIX, TorchScriptEngine, trace
from cdal_sdk.errors import EngineError, UsageError
from cdal_sdk.network import Generator

__all__ = ["EngineName", "check_engine_name", "make_engine", "stored_engine_names"]

EngineName = Literal["auto", "torchscript", "torch"]

_log = logging.getLogger(__name__)


def check_engine_name(name: str) -> EngineName:
    """Raises UsageError for a name that is no engine."""
    if name not in get_args(EngineName):
        raise UsageError(f"there is no engine '{name}'", remedy=f"choose one of: {', '.join(get_args(EngineName))}")
    return name  # type: ignore[return-value]


def stored_engine_names(stem: str) -> tuple[str, str]:
    """File names, inside a model folder, of a stored TorchScript engine and of its fingerprint."""
    return f"engines/{stem}{SUFFIX}", f"engines/{stem}.json"


def make_engine(
    name: EngineName,
    generator: Generator,
    sampling: Sampling,
    device: str,
    *,
    weights_sha256: str,
    stored: Mapping[str, Path] = MappingProxyType({}),
) -> Engine:
    """Make an engine.

    Args:
        name: "auto" is TorchScript, the fastest that every installation has.
        generator: in eval mode.
        sampling: what the engine is built for.
        device: "cpu" or "cuda".
        weights_sha256: identity of the weights.
        stored: files of the model by name, checked against their hashes; an engine may be among them.
    """
    if name == "torch":
        return TorchEngine(generator, sampling, device)
    wanted = fingerprint("torchscript", weights_sha256, sampling, device)
    fitting = _fitting(stored, wanted)
    if fitting is not None:
        try:
            return TorchScriptEngine.load(fitting, device)
        except EngineError as error:
            _log.warning("the stored engine is not used: %s", error)
    return TorchScriptEngine(trace(generator, sampling, device), device)


def _fitting(stored: Mapping[str, Path], wanted: dict[str, object]) -> Path | None:
    """A stored engine with the wanted fingerprint; where it differs, the log says in what."""
    engine, description = (stored.get(name) for name in stored_engine_names(str(wanted["device"])))
    if engine is None or description is None:
        return None
    found = json.loads(description.read_text(encoding="utf-8"))
    differing = sorted(key for key in wanted if found.get(key) != wanted[key])
    if differing:
        _log.info("the stored engine was built for another %s; building one here", ", ".join(differing))
        return None
    return engine
