"""From a name to a running engine.

One that is stored with the model is taken where it fits, else one kept from an earlier run, else one is built here and
now. Whatever the gate has not seen, it sees before its first use.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import torch

from cdal_sdk.diffusion import Sampling
from cdal_sdk.digest import sha256
from cdal_sdk.engines.base import Builder, BuiltEngine, Precision, Target, build_engine, describe_gpu
from cdal_sdk.engines.cache import EngineCache
from cdal_sdk.engines.eager import TorchEngine
from cdal_sdk.engines.fingerprint import Fingerprint, differences, fingerprint
from cdal_sdk.engines.registry import EngineKind, builder_of, candidates, check_engine_name, engine_kind
from cdal_sdk.errors import EngineError, GateError, MissingExtraError, OutputError
from cdal_sdk.network import Generator

__all__ = [
    "EngineRequest",
    "GateCheck",
    "fitting_precisions",
    "make_engine",
    "stored_engine_names",
    "usable_precisions",
]

GateCheck = Callable[[BuiltEngine], str]
"""Holds an engine against the reference: returns its figures, or raises GateError."""

_METHOD = {"betas", "network", "label_shape", "posterior_noise"}  # of a fingerprint: what a manifest alone decides

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineRequest:
    """Everything that the choice of an engine depends on.

    Attributes:
        generator: in eval mode.
        sampling: what the engine is for.
        device: "cpu" or "cuda".
        weights_sha256: identity of the weights.
        fixed_size: whether every image has the canvas's size.
        precision: that is asked for, or None for the fastest that passes the gate.
        stored: files of the model by name, checked against their hashes; engines may be among them.
        gate: for engines that it has not seen yet; None trusts them.
        judged: identity of what the gate judges by (images, labels, decision); its verdicts hold for nothing else.
        cache: where built engines are kept; None keeps none.
        say: called with what takes long.
    """

    generator: Generator
    sampling: Sampling
    device: str
    weights_sha256: str
    fixed_size: bool = False
    precision: Precision | None = None
    stored: Mapping[str, Path] = field(default_factory=lambda: MappingProxyType({}))
    gate: GateCheck | None = None
    judged: str = ""
    cache: EngineCache | None = None
    say: Callable[[str], None] = _log.info

    def target(self, precision: Precision) -> Target:
        """What is to be built for it in a precision."""
        return Target(self.sampling, self.device, precision, self.weights_sha256, self.fixed_size)

    def key(self, wanted: Fingerprint) -> Fingerprint:
        """What an engine with a verdict of the gate is kept by; one that none has seen is no other's."""
        judged = self.judged if self.gate is not None else None
        return wanted | {"judged": judged, "gpu": describe_gpu(self.device)}


def stored_engine_names(kind: EngineKind, suffix: str, target: Target) -> tuple[str, str]:
    """File names, inside a model folder, of a stored engine and of its description."""
    stem = f"engines/{kind.name}-{target.device}-{target.precision}{'-free-noise' if target.free_noise else ''}"
    return f"{stem}{suffix}", f"{stem}.json"


def make_engine(name: str, request: EngineRequest) -> BuiltEngine:
    """Make an engine; "auto" is the fastest that runs and passes the gate here. The log says which and why.

    Raises:
        UsageError: if there is no such engine.
        MissingExtraError: if the engine's packages are not installed.
        EngineError: if it cannot be made here.
        GateError: if it disagrees with the reference.
    """
    check_engine_name(name)
    if name == "torch":
        return TorchEngine(request.generator, request.sampling, request.device)
    if name != "auto":
        return _first_precision(engine_kind(name), request)
    passed_over: list[str] = []
    for kind in candidates(request.device, request.stored):
        try:
            engine = _first_precision(kind, request)
        except (EngineError, MissingExtraError, OutputError) as error:
            passed_over.append(kind.name)
            _log.log(
                logging.DEBUG if isinstance(error, MissingExtraError) else logging.WARNING,
                "engine %s is passed over: %s",
                kind.name,
                error,
            )
            continue
        reason = f"faster ones cannot be used here: {', '.join(passed_over)}" if passed_over else "the fastest here"
        _log.info("engine %s on %s in %s (%s)", kind.name, engine.device, engine.precision, reason)
        return engine
    _log.warning("no compiled engine can be used here; running the reference")
    return TorchEngine(request.generator, request.sampling, request.device)


def usable_precisions(
    kind: EngineKind, builder: Builder, device: str, wanted: Precision | None
) -> tuple[Precision, ...]:
    """Precisions to try, in order. A half that the engine lacks becomes its other half, else float32.

    Raises:
        EngineError: if the engine does not run on the device, or the device is not there.
    """
    if device not in kind.devices:
        reachable = kind.devices[0] == "cpu" or torch.cuda.is_available()
        remedy = f"use --device {kind.devices[0]}" if reachable else "use --engine auto; it needs an NVIDIA GPU"
        raise EngineError(f"the engine '{kind.name}' does not run on {device}", remedy=remedy)
    available = builder.precisions(device)
    if not available:
        what = f"the engine '{kind.name}' finds no {device} that it can use"
        if device == "cuda" and torch.cuda.is_available():
            major, minor = torch.cuda.get_device_capability()
            what += f" (here: {torch.cuda.get_device_name()}, compute capability {major}.{minor})"
        raise EngineError(what, remedy="use --engine auto")
    return fitting_precisions(kind, available, wanted)


def fitting_precisions(
    kind: EngineKind, available: tuple[Precision, ...], wanted: Precision | None
) -> tuple[Precision, ...]:
    """Of the precisions that an engine has, those to try, in order; see `usable_precisions`.

    Raises:
        EngineError: if none stands for the one that is wanted: nobody who asks for float32 gets less.
    """
    if wanted is None:
        return available
    halves = [precision for precision in available if precision in ("fp16", "bf16") and wanted in ("fp16", "bf16")]
    for precision in (wanted, *halves, "fp32"):
        if precision in available:
            return (precision,)
    raise EngineError(
        f"the engine '{kind.name}' does not compute in {wanted}", remedy=f"it has {' and '.join(available)}"
    )


def _first_precision(kind: EngineKind, request: EngineRequest) -> BuiltEngine:
    """The engine in the first precision that passes the gate."""
    builder = builder_of(kind)
    refusal: EngineError | None = None
    usable = usable_precisions(kind, builder, request.device, request.precision)
    stored = [
        precision
        for precision in usable
        for target in _storable(builder, request.target(precision))
        if stored_engine_names(kind, builder.suffix, target)[0] in request.stored
    ]
    for precision in dict.fromkeys((*stored, *usable)):  # whoever exported it has chosen
        try:
            return _obtain(kind, builder, request, request.target(precision))
        except EngineError as error:  # the gate's, too
            _log.info("%s", error)
            refusal = error
    if refusal is None:
        raise EngineError(f"the engine '{kind.name}' has no precision to run in")
    raise refusal


def _obtain(kind: EngineKind, builder: Builder, request: EngineRequest, target: Target) -> BuiltEngine:
    for fitting in _storable(builder, target):
        engine = _stored(kind, builder, request, fitting)
        if engine is not None:
            return engine
    wanted = request.key(fingerprint(kind.name, target, request.generator.config, builder.environment(target.device)))
    if request.cache is not None:
        verdict = request.cache.verdict(wanted)
        if verdict is not None and not verdict[0]:
            raise GateError(
                f"in {target.precision} it disagreed with the float32 reference earlier: {verdict[1]}",
                where=f"engine '{kind.name}'",
                remedy="choose another engine or precision",
            )
        kept = request.cache.find(wanted, builder.suffix)
        if kept is not None:
            try:
                return builder.load(kept, target)
            except EngineError as error:
                _log.warning("the kept engine %s does not open and is built again: %s", kind.name, error)
                request.cache.drop(wanted)
    if not (kind.automatic or target.calibration):
        raise EngineError(
            f"the model has no engine '{kind.name}' for these votes, this seed, these versions and this machine",
            remedy="make one by cdal export --int8, with --data",
        )
    request.say(f"building the engine {kind.name} in {target.precision}, once on this machine")
    return _build(builder, request, target, wanted)


def _build(builder: Builder, request: EngineRequest, target: Target, wanted: Fingerprint) -> BuiltEngine:
    """Build, gate, and keep."""
    made: list[BuiltEngine] = []

    def fill(path: Path) -> str:
        build_engine(builder, request.generator, target, path)
        engine = builder.load(path, target)
        made.append(engine)
        return _gated(engine, request, wanted)

    if request.cache is None:
        with tempfile.TemporaryDirectory() as scratch:
            fill(Path(scratch) / f"engine{builder.suffix}")
    else:
        try:
            request.cache.add(wanted, builder.suffix, fill)
        except OutputError as error:
            _log.warning("%s", error)
            return _build(builder, replace(request, cache=None), target, wanted)
    return made[0]


def _gated(engine: BuiltEngine, request: EngineRequest, key: Fingerprint) -> str:
    if request.gate is None:
        return "not gated"
    request.say(f"holding the engine {engine.name} in {engine.precision} against the reference, once on this machine")
    try:
        figures = request.gate(engine)
    except GateError as error:
        if request.cache is not None:
            request.cache.remember(key, passed=False, figures=error.what)
        raise
    return figures


def _storable(builder: Builder, target: Target) -> tuple[Target, ...]:
    """What an engine that came with the model may have been built for: this noise, or any."""
    return (target, replace(target, free_noise=True)) if builder.takes_free_noise else (target,)


def _stored(kind: EngineKind, builder: Builder, request: EngineRequest, target: Target) -> BuiltEngine | None:
    """The engine that came with the model, where it fits; where not, the log says in what."""
    wanted = fingerprint(kind.name, target, request.generator.config, builder.environment(target.device))
    path, description = (request.stored.get(name) for name in stored_engine_names(kind, builder.suffix, target))
    if path is None or description is None:
        return None
    try:
        found = json.loads(description.read_text(encoding="utf-8"))
        # Older descriptions do not tell the network; the manifest beside them is what they were written with.
        differing = differences({"network": wanted["network"], **found["fingerprint"]}, wanted)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        _log.warning("the description of the stored engine %s cannot be read", kind.name)
        return None
    if differing:
        # Weights and method come from one export: one without the other is what a manifest edited by hand looks like.
        tampered = "weights" not in differing and not _METHOD.isdisjoint(differing)
        _log.log(
            logging.WARNING if tampered else logging.INFO,
            "the stored engine %s was built for another %s",
            kind.name,
            ", ".join(differing) + (": was the model's manifest changed?" if tampered else ""),
        )
        return None
    try:
        digest = sha256(path)
        if digest != found.get("sha256", digest):  # both were checked with the model, and an export came since
            _log.warning("the stored engine %s is not the one that its description tells of", kind.name)
            return None
        engine = builder.load(path, target)
    except (OSError, EngineError) as error:
        _log.warning("the stored engine %s is not used: %s", kind.name, error)
        return None
    if not found.get("gate") or found.get("gpu", "") != describe_gpu(target.device):
        _first_use(kind, engine, request, request.key(wanted | {"sha256": digest}))
    return engine


def _first_use(kind: EngineKind, engine: BuiltEngine, request: EngineRequest, key: Fingerprint) -> None:
    """Gate an engine that was built where it could not run, or for another GPU; the verdict is kept.

    Raises:
        GateError: if it disagrees with the reference, now or earlier.
    """
    verdict = None if request.cache is None else request.cache.verdict(key)
    if verdict is None:
        figures = _gated(engine, request, key)
        if request.cache is not None and request.gate is not None:
            request.cache.remember(key, passed=True, figures=figures)
    elif not verdict[0]:
        raise GateError(
            f"it disagreed with the float32 reference earlier: {verdict[1]}",
            where=f"engine '{kind.name}'",
            remedy="choose another engine",
        )
