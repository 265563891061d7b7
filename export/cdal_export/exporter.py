"""From a checkpoint to a model folder: weights, manifest, and engines that passed the gate."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from cdal_export.emulation import EmulatedEngine, find_islands
from cdal_export.judge import Judge
from cdal_sdk.bundle import (
    GATE_FILE,
    Manifest,
    load_model,
    stored_weights,
    weights_identity,
    write_model_folder,
)
from cdal_sdk.engines import (
    Builder,
    BuiltEngine,
    EngineKind,
    Precision,
    ProbingEngine,
    Target,
    builder_of,
    candidates,
    engine_kind,
    engine_names,
    fingerprint,
    pick_device,
    stored_engine_names,
    usable_precisions,
)
from cdal_sdk.errors import EngineError, GateError, MissingExtraError, UsageError
from cdal_sdk.gate import Agreement, Limits, StepAgreement, gate_images, synthetic_images
from cdal_sdk.network import Generator
from cdal_sdk.readers import discover, read_study
from cdal_sdk.slicing import check_domain, match_channels
from cdal_sdk.study import Study

__all__ = ["ExportOptions", "Exported", "ExportedEngine", "export_model"]

_GATE_CASES = 2
_LIMITS = Limits()
_INT8 = "-int8"  # ends the names of engines that only --int8 makes

Say = Callable[[str], None]


@dataclass(frozen=True)
class ExportOptions:
    """What an export shall make.

    Attributes:
        engines: names; "auto" is the best that this machine can build and run.
        precision: of the engines' convolutions; fp16 also stores the weights in half precision.
        votes: K of the engines and default of the exported model; None keeps the model's.
        seed: the same for the seed.
        data: images for the gate; without it, those that travel with the model, else a synthetic one.
        keep_images: store the gate's images in the model folder, so that later builds are held against them, too.
        islands: where half precision fails the gate, retry with the offending layers in float32.
        free_noise: engines take their noise as inputs; it is gated for two seeds.
        int8: quantise the engines, on the gate's images.
        limits: of the gate.
    """

    engines: tuple[str, ...] = ("auto",)
    precision: Precision = "fp32"
    votes: int | None = None
    seed: int | None = None
    data: Path | None = None
    keep_images: bool = False
    islands: bool = False
    free_noise: bool = False
    int8: bool = False
    limits: Limits = _LIMITS


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


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        folder: the model folder.
        manifest: as written.
        engines: that it holds.
        gate_images: where the images of the gate came from.
    """

    folder: Path
    manifest: Manifest
    engines: tuple[ExportedEngine, ...]
    gate_images: str


def export_model(
    checkpoint: str | Path, out: Path, options: ExportOptions = ExportOptions(), say: Say = lambda _: None
) -> Exported:
    """Export a model with engines.

    Args:
        checkpoint: of training, a model folder, or a bundled model's name.
        out: model folder to write; replaced in one step if it is one already.
        options: what to make.
        say: called with what happens.

    Raises:
        UsageError: if it would replace its own source, or an engine does not exist.
        ModelError: if the checkpoint is unusable or its weights overflow half precision.
        EngineError: if an engine cannot be built.
        GateError: if an engine disagrees with the reference; nothing is written.
    """
    if Path(checkpoint).exists() and Path(checkpoint).resolve() == out.resolve():
        raise UsageError("the export would replace its own source", where=out, remedy="choose another --out")
    model = load_model(checkpoint)
    sampling = model.manifest.sampling(options.votes, options.seed)
    manifest = replace(model.manifest, votes=sampling.votes, seed=sampling.seed)
    images, described = _images(manifest, options.data, model.gate_images())
    weights = stored_weights(model.generator.state_dict(), half=options.precision == "fp16")
    generator = Generator(manifest.network).eval().requires_grad_(False)
    generator.load_state_dict({name: value.float() for name, value in weights.items()})

    say(f"the gate compares with the float32 reference on {described}")
    judge = Judge(model.generator, manifest, sampling, images, options.limits)
    target = Target(
        sampling,
        "cpu",
        options.precision,
        weights_identity(weights),
        fixed_size=manifest.plan.fit != "pad",
        free_noise=options.free_noise,
        calibration=tuple(images),
    )
    with tempfile.TemporaryDirectory() as scratch:
        made = _Workshop(generator, target, judge, options, Path(scratch), say).make_all()
        files = {name: path for _, built in made for name, path in built.items()}
        if options.keep_images:
            kept = {f"{i:03d}": np.ascontiguousarray(array) for i, array in enumerate(images)}
            safetensors.numpy.save_file(kept, Path(scratch) / GATE_FILE)
            files[GATE_FILE] = Path(scratch) / GATE_FILE
        written = write_model_folder(out, manifest, weights, extra_files=files)
    return Exported(out, written, tuple(engine for engine, _ in made), described)


@dataclass(frozen=True)
class _Workshop:
    """Builds engines of one model into a scratch folder and holds them against the gate."""

    generator: Generator
    target: Target
    judge: Judge
    options: ExportOptions
    scratch: Path
    say: Say

    def make_all(self) -> list[tuple[ExportedEngine, dict[str, Path]]]:
        names = dict.fromkeys(map(self._quantised, self.options.engines) if self.options.int8 else self.options.engines)
        return [self._automatic() if name == "auto" else self._make(engine_kind(name)) for name in names]

    @staticmethod
    def _quantised(name: str) -> str:
        name = "openvino" if name == "auto" else name.removesuffix(_INT8)
        if f"{name}{_INT8}" not in engine_names():
            having = " or ".join(f"--engine {known.removesuffix(_INT8)}" for known in engine_names() if _INT8 in known)
            raise UsageError(f"the engine '{name}' has no INT8", remedy=f"use --int8 with {having}")
        return f"{name}{_INT8}"

    def _automatic(self) -> tuple[ExportedEngine, dict[str, Path]]:
        """The fastest engine that can be built and passes here; says which and why."""
        for kind in candidates(pick_device("auto")):
            try:
                made = self._make(kind)
            except (EngineError, MissingExtraError) as error:
                self.say(f"{kind.name} is passed over: {error}")
                continue
            self.say(f"engine: {kind.name}, the fastest that can be built and passes the gate here")
            return made
        raise EngineError("no engine can be built here", remedy="see the messages above")

    def _make(self, kind: EngineKind) -> tuple[ExportedEngine, dict[str, Path]]:
        if kind.name == "torch":
            raise UsageError("the engine 'torch' is the model itself", remedy="choose another engine to export")
        builder = builder_of(kind)
        device = pick_device("auto") if pick_device("auto") in kind.devices else kind.devices[0]
        runs_here = bool(builder.precisions(device))
        if not runs_here and builder.needs_device:
            raise EngineError(f"the engine '{kind.name}' can only be built on a {device} device")
        if self.options.free_noise and not builder.takes_free_noise:
            raise EngineError(
                f"the engine '{kind.name}' takes its noise as constants only",
                remedy="leave --free-noise out, or choose --engine onnx",
            )
        precision: Precision = "int8" if kind.name.endswith(_INT8) else self.options.precision
        if runs_here:
            precision = usable_precisions(kind, builder, device, self.options.precision)[0]
        target = replace(self.target, device=device, precision=precision)
        self.say(f"building {kind.name} in {precision}")
        path = self.scratch / f"{kind.name}{builder.suffix}"
        builder.build(self.generator, target, path)
        engine = ExportedEngine(kind.name, stored_engine_names(kind, builder.suffix, target)[0], precision, None)
        if runs_here:
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
            agreement, steps = self.judge(target, open_engine, partial(self._probing, kind, builder, target))
            return ExportedEngine(kind.name, file, target.precision, agreement, steps)
        except GateError as error:
            if target.precision == "fp32":
                raise
            exact = replace(target, precision="fp32", islands=frozenset())
            islands = find_islands(self.generator, exact, target, self.judge.images[0])
            layers = ", ".join(islands[:8]) if islands else "no single layer stands out"
            if not (self.options.islands and islands and builder.takes_islands):
                offer = "retry with --islands, or use --fp32" if builder.takes_islands and islands else "use --fp32"
                offer = "leave --int8 out, or give more images by --data" if target.precision == "int8" else offer
                raise GateError(f"{error.what}; offending layers: {layers}", where=error.where, remedy=offer) from error
        self.say(f"retrying with {len(islands)} layer(s) in float32: {layers}")
        target = replace(target, islands=frozenset(islands))
        builder.build(self.generator, target, path)
        agreement, steps = self.judge(target, open_engine, partial(self._probing, kind, builder, target))
        return ExportedEngine(kind.name, file, target.precision, agreement, steps, islands)

    def _probing(self, kind: EngineKind, builder: Builder, target: Target) -> ProbingEngine:
        """The engine once more, with the sampler's steps as outputs; emulated where it cannot be had."""
        target = replace(target, probes=True)
        if not (builder.takes_probes and builder.precisions(target.device)):
            return self._emulated(target)
        path = self.scratch / f"{kind.name}-probes{builder.suffix}"
        builder.build(self.generator, target, path)
        return cast("ProbingEngine", builder.load(path, target))

    def _emulated(self, target: Target) -> ProbingEngine:
        """A target's arithmetic on the CPU."""
        if target.precision == "int8":
            from cdal_sdk.engines.onnx_int8 import write_int8_graph
            from cdal_sdk.engines.onnx_runtime import OnnxEngine

            engine = OnnxEngine(write_int8_graph(self.generator, replace(target, probes=True)), "cpu", "int8")
            engine.name = EmulatedEngine.name
            return engine
        return EmulatedEngine(self.generator, target)

    def _files(
        self, kind: EngineKind, builder: Builder, target: Target, path: Path, engine: ExportedEngine
    ) -> dict[str, Path]:
        """The engine and its description, by their names in the model folder."""
        engine_name, description_name = stored_engine_names(kind, builder.suffix, target)
        description = path.with_name(f"{kind.name}.json")
        content = {
            "fingerprint": fingerprint(kind.name, target, builder.environment(target.device)),
            "gate": None if engine.agreement is None else str(engine.agreement),
            "steps": [str(step) for step in engine.steps],
            "rehearsal": None if engine.rehearsal is None else str(engine.rehearsal),
            "islands": list(engine.islands),
        }
        description.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return {engine_name: path, description_name: description}


def _images(
    manifest: Manifest, data: Path | None, travelling: Sequence[NDArray[np.float32]]
) -> tuple[list[NDArray[np.float32]], str]:
    """Images for the gate, and what they are.

    Raises:
        CdalError: if the data cannot be used.
    """
    if data is None:
        if travelling:
            return list(travelling), "images that travel with the model"
        return synthetic_images(manifest), "a synthetic image"
    studies: list[Study] = []
    for files in discover([data]):
        study = match_channels(read_study(files), manifest.plan)
        check_domain(study, manifest.plan)
        studies.append(study)
        if len(studies) == _GATE_CASES:
            break
    return gate_images(manifest, studies), f"{len(studies)} case(s) of {data}"
