"""Where an export's engines are built, held against the gate, and described."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import cast

from cdal_export.emulation import EmulatedEngine, find_islands
from cdal_export.judge import Judge
from cdal_export.options import ExportOptions
from cdal_sdk.digest import sha256
from cdal_sdk.engines import (
    Builder,
    BuiltEngine,
    EngineKind,
    Precision,
    ProbingEngine,
    Target,
    build_engine,
    builder_of,
    candidates,
    describe_gpu,
    engine_kind,
    engine_names,
    fingerprint,
    fitting_precisions,
    pick_device,
    stored_engine_names,
    usable_precisions,
)
from cdal_sdk.errors import EngineError, GateError, MissingExtraError, OutputError, UsageError
from cdal_sdk.gate import Agreement, StepAgreement
from cdal_sdk.network import Generator

__all__ = ["ExportedEngine", "Say", "Workshop", "check_engines"]

_INT8 = "-int8"  # ends the names of engines that only --int8 makes

Say = Callable[[str], None]


@dataclass(frozen=True)
class ExportedEngine:
    """One engine of an export.

    Attributes:
        name: of the engine.
        file: in the model folder.
        precision: that it computes in.
        agreement: with the float32 reference; None where it cannot run here, so that it is gated at its first use.
        steps: agreement after each step, where the engine can tell.
        islands: layers that compute in float32 although the engine is in half precision.
        rehearsal: where it cannot run here, the agreement of its arithmetic, emulated on the CPU.
    """

    name: str
    file: str
    precision: Precision
    agreement: Agreement | None
    steps: tuple[StepAgreement, ...] = ()
    islands: tuple[str, ...] = ()
    rehearsal: Agreement | None = None


def check_engines(options: ExportOptions) -> None:
    """Find out what engines that were asked for can be had here, before work is spent on them.

    Raises:
        UsageError: if an engine does not exist or has no INT8.
        MissingExtraError: if one's packages are not installed.
        EngineError: if one cannot be built here, or not as the options want it.
    """
    for name in _names(options):
        if name != "auto":
            _builder(engine_kind(name), options)


def _names(options: ExportOptions) -> tuple[str, ...]:
    """Each engine once, with --int8 the quantised ones."""
    return tuple(dict.fromkeys(map(_quantised, options.engines) if options.int8 else options.engines))


def _quantised(name: str) -> str:
    name = "openvino" if name == "auto" else name.removesuffix(_INT8)
    if f"{name}{_INT8}" not in engine_names():
        having = " or ".join(f"--engine {known.removesuffix(_INT8)}" for known in engine_names() if _INT8 in known)
        raise UsageError(f"the engine '{name}' has no INT8", remedy=f"use --int8 with {having}")
    return f"{name}{_INT8}"


def _builder(kind: EngineKind, options: ExportOptions) -> tuple[Builder, str]:
    """An engine's builder, and the device that it is built for; refuses what cannot be built."""
    if kind.name == "torch":
        raise UsageError("the engine 'torch' is the model itself", remedy="choose another engine to export")
    builder, here = builder_of(kind), pick_device("auto")
    device = here if here in kind.devices else kind.devices[0]
    if builder.needs_device and not builder.precisions(device):
        raise EngineError(
            f"the engine '{kind.name}' can only be built on a {device} device",
            remedy="use --engine auto, or export there",
        )
    if options.free_noise and not builder.takes_free_noise:
        raise EngineError(
            f"the engine '{kind.name}' takes its noise as constants only",
            remedy="leave --free-noise out, or choose --engine onnx",
        )
    return builder, device


@dataclass(frozen=True)
class Workshop:
    """Builds engines of one model into a scratch folder and holds them against the gate.

    Attributes:
        generator: with the weights as they are stored.
        target: what all engines have in common.
        judge: holds them against the reference.
        options: of the export.
        scratch: folder for their files.
        say: called with what happens.
    """

    generator: Generator
    target: Target
    judge: Judge
    options: ExportOptions
    scratch: Path
    say: Say

    def make_all(self) -> list[tuple[ExportedEngine, dict[str, Path]]]:
        """The engines, and their files by their names in a model folder.

        Raises:
            UsageError: if an engine does not exist or has no INT8.
            EngineError: if one cannot be built.
            OutputError: if the disk is full.
            GateError: if one disagrees with the reference.
        """
        names = _names(self.options)
        made = [self._automatic() if name == "auto" else self._named(engine_kind(name)) for name in names]
        return list({engine.file: (engine, files) for engine, files in made}.values())  # auto may be one of the others

    def _automatic(self) -> tuple[ExportedEngine, dict[str, Path]]:
        """The first engine, in the order of speed, that can be built and passes here, in float32 at the last."""
        for kind in candidates(pick_device("auto")):
            try:
                builder, device = _builder(kind, self.options)
                available = builder.precisions(device)
                usable = usable_precisions(kind, builder, device, self.options.precision)
            except (EngineError, MissingExtraError) as error:
                self.say(f"{kind.name} is passed over: {error}")
                continue
            for precision in dict.fromkeys((*usable, *(each for each in available if each == "fp32"))):
                try:
                    made = self._make(kind, builder, device, precision)
                except (EngineError, OutputError) as error:
                    self.say(f"{kind.name} in {precision} is passed over: {error}")
                    continue
                self.say(f"engine: {kind.name} in {precision}, the fastest that can be built and passes the gate here")
                return made
        raise EngineError("no engine can be built here", remedy="see the messages above")

    def _named(self, kind: EngineKind) -> tuple[ExportedEngine, dict[str, Path]]:
        """An engine that somebody asked for."""
        builder, device = _builder(kind, self.options)
        precision: Precision = "int8" if kind.name.endswith(_INT8) else self.options.precision
        precision = fitting_precisions(kind, builder.precisions(device) or builder.offers, precision)[0]
        return self._make(kind, builder, device, precision)

    def _make(
        self, kind: EngineKind, builder: Builder, device: str, precision: Precision
    ) -> tuple[ExportedEngine, dict[str, Path]]:
        target = replace(self.target, device=device, precision=precision)
        self.say(f"building {kind.name} in {precision}")
        path = self.scratch / f"{kind.name}{builder.suffix}"
        build_engine(builder, self.generator, target, path)
        if builder.precisions(device):
            engine = self._gated(kind, builder, target, path, partial(builder.load, path))
        else:
            self.say(f"{kind.name} cannot run here: it is stored as not yet gated, and gated at its first use")
            self.say("holding its arithmetic against the reference, emulated on the CPU")
            rehearsed = self._gated(kind, builder, target, path, self._emulated)
            engine = replace(rehearsed, agreement=None, rehearsal=rehearsed.agreement)
        return engine, self._files(kind, builder, target, path, engine)

    def _gated(
        self,
        kind: EngineKind,
        builder: Builder,
        target: Target,
        path: Path,
        open_engine: Callable[[Target], BuiltEngine],
    ) -> ExportedEngine:
        """Hold an engine against the reference; in half precision, retry with float32 islands where that is wanted."""
        file = stored_engine_names(kind, builder.suffix, target)[0]
        try:
            agreement, steps = self.judge(target, open_engine, partial(self._probing, kind, builder, target, path))
            return ExportedEngine(kind.name, file, target.precision, agreement, steps)
        except GateError as error:
            if target.precision == "fp32":
                raise
            if target.precision == "int8":
                remedy = "leave --int8 out, or give other images by --data"
                raise GateError(error.what, where=error.where, remedy=remedy) from error
            exact = replace(target, precision="fp32", islands=frozenset())
            islands = find_islands(self.generator, exact, target, self.judge.images[0])
            layers = ", ".join(islands[:8]) if islands else "no single layer stands out"
            if not (self.options.islands and islands and builder.takes_islands):
                offer = "retry with --islands, or use --fp32" if builder.takes_islands and islands else "use --fp32"
                raise GateError(f"{error.what}; offending layers: {layers}", where=error.where, remedy=offer) from error
        self.say(f"retrying with {len(islands)} layer(s) in float32: {layers}")
        target = replace(target, islands=frozenset(islands))
        build_engine(builder, self.generator, target, path)
        agreement, steps = self.judge(target, open_engine, partial(self._probing, kind, builder, target, path))
        return ExportedEngine(kind.name, file, target.precision, agreement, steps, islands)

    def _probing(self, kind: EngineKind, builder: Builder, target: Target, path: Path) -> ProbingEngine:
        """The engine once more, with the sampler's steps as outputs; emulated where it cannot be had."""
        target = replace(target, probes=True)
        if not (builder.takes_probes and builder.precisions(target.device)):
            return self._emulated(target)
        if target.precision != "int8":  # whose file has them in any case
            path = self.scratch / f"{kind.name}-probes{builder.suffix}"
            build_engine(builder, self.generator, target, path)
        return cast("ProbingEngine", builder.load(path, target))

    def _emulated(self, target: Target) -> ProbingEngine:
        """A target's arithmetic on the CPU."""
        return self._emulated_int8 if target.precision == "int8" else EmulatedEngine(self.generator, target)

    @cached_property
    def _emulated_int8(self) -> ProbingEngine:
        from cdal_sdk.engines.onnx_int8 import write_int8_graph
        from cdal_sdk.engines.onnx_runtime import OnnxEngine

        graph = write_int8_graph(self.generator, replace(self.target, precision="int8", probes=True))
        engine = OnnxEngine(graph, "cpu", "int8")
        engine.name = EmulatedEngine.name
        return engine

    def _files(
        self, kind: EngineKind, builder: Builder, target: Target, path: Path, engine: ExportedEngine
    ) -> dict[str, Path]:
        """The engine and its description, by their names in the model folder."""
        engine_name, description_name = stored_engine_names(kind, builder.suffix, target)
        description = path.with_name(f"{kind.name}.json")
        content = {
            "fingerprint": fingerprint(kind.name, target, self.generator.config, builder.environment(target.device)),
            "sha256": sha256(path),
            "gpu": describe_gpu(target.device),
            "gate": None if engine.agreement is None else str(engine.agreement),
            "steps": [str(step) for step in engine.steps],
            "rehearsal": None if engine.rehearsal is None else str(engine.rehearsal),
            "islands": list(engine.islands),
        }
        description.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return {engine_name: path, description_name: description}
