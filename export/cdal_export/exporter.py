"""From a checkpoint to a model folder: weights, manifest, and engines that passed the gate."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from cdal_export.images import choose_images
from cdal_export.judge import Judge
from cdal_export.options import ExportOptions
from cdal_export.workshop import ExportedEngine, Say, Workshop, check_engines
from cdal_sdk.bundle import (
    GATE_FILE,
    SPLIT_FILE,
    Manifest,
    check_folder,
    load_model,
    read_split,
    split_to_json,
    stored_weights,
    weights_identity,
    write_model_folder,
)
from cdal_sdk.engines import Target
from cdal_sdk.errors import GateError, UsageError
from cdal_sdk.network import Generator

__all__ = ["ExportOptions", "Exported", "ExportedEngine", "export_model"]


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

    def to_data(self) -> dict[str, Any]:
        """As `cdal export --json` prints it."""
        return {
            "folder": str(self.folder),
            "gate_images": self.gate_images,
            "engines": [asdict(engine) for engine in self.engines],
            "files": {name: (self.folder / name).stat().st_size for name in self.manifest.files},
        }


_DEFAULTS = ExportOptions()


def _check_judge(judge: Judge, manifest: Manifest, say: Say) -> None:
    """Refuse images that judge nothing, and tell labels that they do not show."""
    absent = judge.unjudged
    if len(absent) == len(manifest.labels):
        raise GateError(
            "the float32 reference labels nothing on these images, so that they cannot judge an engine",
            remedy="give images that show what the model segments by --data",
        )
    if absent:
        say(f"not judged, since the reference finds none on these images: {', '.join(absent)}")


def _for_votes(manifest: Manifest, votes: int, say: Say) -> Manifest:
    """The manifest for so many votes, without what was measured with others."""
    if votes == manifest.votes:
        return manifest
    if manifest.confidence.coverage is not None or manifest.provenance.metrics:
        say(f"figures and calibration were found with {manifest.votes} votes and are left out: cdal calibrate it again")
    provenance = replace(manifest.provenance, metrics={})
    confidence = replace(manifest.confidence, coverage=None, cases=0)
    return replace(manifest, votes=votes, provenance=provenance, confidence=confidence)


def export_model(
    checkpoint: str | Path, out: Path, options: ExportOptions = _DEFAULTS, say: Say = lambda _: None
) -> Exported:
    """Export a model with engines.

    Args:
        checkpoint: of training, a model folder, or a bundled model's name.
        out: model folder to write; replaced in one step if it is one already.
        options: what to make.
        say: called with what happens.

    Raises:
        UsageError: if it would replace its own source, an engine does not exist, options exclude each other, or there
            are no images to keep.
        OutputError: if the folder cannot be written; before anything is built, where that can be told.
        ModelError: if the checkpoint is unusable or its weights overflow half precision.
        MissingExtraError: if an engine's packages are not installed.
        EngineError: if an engine cannot be built.
        GateError: if an engine disagrees with the reference; nothing is written.
    """
    if Path(checkpoint).exists() and Path(checkpoint).resolve() == out.resolve():
        raise UsageError("the export would replace its own source", where=out, remedy="choose another --out")
    ignored = {"bf16": options.precision == "bf16", "islands": options.islands, "free-noise": options.free_noise}
    if options.int8 and (other := next((name for name, given in ignored.items() if given), None)):
        raise UsageError(f"--int8 and --{other} exclude each other", remedy="leave one of them out")
    check_engines(options)
    model, split = load_model(checkpoint), read_split(checkpoint)
    sampling = model.manifest.sampling(options.votes, options.seed)
    manifest = _for_votes(replace(model.manifest, seed=sampling.seed), sampling.votes, say)
    check_folder(out)
    travelling = model.gate_images()
    if options.keep_images and options.data is None and not travelling:
        raise UsageError("there are no images to keep", remedy="give some by --data")
    images = choose_images(manifest, options.data, travelling, int8=options.int8)
    weights = stored_weights(model.generator.state_dict(), half=options.precision == "fp16")
    generator = Generator(manifest.network).eval().requires_grad_(False)
    generator.load_state_dict({name: value.float() for name, value in weights.items()})

    say(f"the gate compares with the float32 reference on {images.described}")
    judge = Judge(model.generator, manifest, sampling, images.gate, options.limits)
    _check_judge(judge, manifest, say)
    target = Target(
        sampling,
        "cpu",
        options.precision,
        weights_identity(weights),
        fixed_size=manifest.plan.fixed_size,
        free_noise=options.free_noise,
        calibration=images.calibration,
    )
    with tempfile.TemporaryDirectory() as scratch:
        made = Workshop(generator, target, judge, options, Path(scratch), say).make_all()
        files = {name: path for _, built in made for name, path in built.items()}
        if options.keep_images:
            kept = {f"{i:03d}": np.ascontiguousarray(array) for i, array in enumerate(images.gate)}
            safetensors.numpy.save_file(kept, Path(scratch) / GATE_FILE)
            files[GATE_FILE] = Path(scratch) / GATE_FILE
        if split is not None:
            files[SPLIT_FILE] = Path(scratch) / SPLIT_FILE
            files[SPLIT_FILE].write_text(split_to_json(split), encoding="utf-8")
        written = write_model_folder(out, manifest, weights, extra_files=files)
    return Exported(out, written, tuple(engine for engine, _ in made), images.described)
