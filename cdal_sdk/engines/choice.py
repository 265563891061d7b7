"""From a name to a running engine: a stored one where it fits, else one built here and now."""

from __future__ import annotations

import json
import logging
from pathlib import Path
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
    folder: Path | None = None,
) -> Engine:
    """Make an engine.

    Args:
        name: "auto" is TorchScript, the fastest that every installation has.
        generator: in eval mode.
        sampling: what the engine is built for.
        device: "cpu" or "cuda".
        weights_sha256: identity of the weights.
        folder: of the model, where a stored engine may lie; its files were checked against their hashes.
    """
    if name == "torch":
        return TorchEngine(generator, sampling, device)
    wanted = fingerprint("torchscript", weights_sha256, sampling, device)
    stored = None if folder is None else _stored(folder, wanted)
    if stored is not None:
        try:
            return TorchScriptEngine.load(stored, device)
        except EngineError as error:
            _log.warning("the stored engine is not used: %s", error)
    return TorchScriptEngine(trace(generator, sampling, device), device)


def _stored(folder: Path, wanted: dict[str, object]) -> Path | None:
    """A stored engine with the wanted fingerprint; where it differs, the log says in what."""
    engine, description = (folder / name for name in stored_engine_names(str(wanted["device"])))
    if not engine.is_file() or not description.is_file():
        return None
    found = json.loads(description.read_text(encoding="utf-8"))
    differing = sorted(key for key in wanted if found.get(key) != wanted[key])
    if differing:
        _log.info("the stored engine was built for another %s; building one here", ", ".join(differing))
        return None
    return engine
