"""From a checkpoint to a model folder: weights, manifest, and engines that passed the gate."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from cdal_export.gate import Agreement, Limits, check, compare
from cdal_sdk.bundle import Manifest, load_model, stored_weights, weights_identity, write_model_folder
from cdal_sdk.engines import fingerprint, stored_engine_names
from cdal_sdk.engines.eager import TorchEngine
from cdal_sdk.engines.torchscript import TorchScriptEngine, save, trace
from cdal_sdk.errors import UsageError
from cdal_sdk.example import example_study
from cdal_sdk.network import Generator
from cdal_sdk.readers import discover, read_study
from cdal_sdk.slicing import check_domain, match_channels
from cdal_sdk.study import Source, Study

__all__ = ["Exported", "export_model"]

_GATE_CASES = 2


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        folder: the model folder.
        manifest: as written.
        agreement: of the engine with the float32 reference.
        gate_images: where the images of the gate came from.
    """

    folder: Path
    manifest: Manifest
    agreement: Agreement
    gate_images: str


def export_model(
    checkpoint: str | Path,
    out: Path,
    *,
    half: bool = False,
    votes: int | None = None,
    seed: int | None = None,
    data: Path | None = None,
    limits: Limits = Limits(),  # noqa: B008 - immutable
    say: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Export a model with a TorchScript engine for the CPU.

    Args:
        checkpoint: of training, a model folder, or a bundled model's name.
        out: model folder to write; replaced in one step if it is one already.
        half: store weights in half precision. The engine computes with the very weights that are stored.
        votes: K of the engine and default of the exported model.
        seed: the same for the seed.
        data: images for the gate; without it, a synthetic one is used.
        limits: of the gate.
        say: called with what happens.

    Raises:
        UsageError: if it would replace its own source.
        ModelError: if the checkpoint is unusable or its weights overflow half precision.
        GateError: if the engine disagrees with the reference; nothing is written.
    """
    if Path(checkpoint).exists() and Path(checkpoint).resolve() == out.resolve():
        raise UsageError("the export would replace its own source", where=out, remedy="choose another --out")
    model = load_model(checkpoint)
    sampling = model.manifest.sampling(votes, seed)
    manifest = replace(model.manifest, votes=sampling.votes, seed=sampling.seed)
    studies, gate_images = _gate_studies(manifest, data)
    weights = stored_weights(model.generator.state_dict(), half=half)
    generator = Generator(manifest.network).eval()
    generator.load_state_dict({name: value.float() for name, value in weights.items()})

    say("tracing the fused sampler for TorchScript")
    module = trace(generator, sampling)
    say(f"comparing it with the float32 reference on {gate_images}")
    reference = TorchEngine(model.generator, sampling, "cpu")
    agreement = compare(TorchScriptEngine(module, "cpu"), reference, manifest, studies)
    check("torchscript", agreement, limits)

    with tempfile.TemporaryDirectory() as scratch:
        engine_name, description_name = stored_engine_names("cpu")
        engine, description = Path(scratch, "engine"), Path(scratch, "description")
        save(module, engine)
        built_from = fingerprint("torchscript", weights_identity(weights), sampling, "cpu")
        description.write_text(json.dumps(built_from, indent=2) + "\n", encoding="utf-8")
        files = {engine_name: engine, description_name: description}
        written = write_model_folder(out, manifest, weights, extra_files=files)
    return Exported(out, written, agreement, gate_images)


def _gate_studies(manifest: Manifest, data: Path | None) -> tuple[list[Study], str]:
    """Images for the gate, and what they are."""
    if data is None:
        study = example_study() if manifest.plan.kind == "volume" else _synthetic_picture(manifest)
        return [study], "a synthetic image"
    studies = []
    for files in discover([data]):
        study = match_channels(read_study(files), manifest.plan)
        check_domain(study, manifest.plan)
        studies.append(study)
        if len(studies) == _GATE_CASES:
            break
    return studies, f"{len(studies)} case(s) of {data}"


def _synthetic_picture(manifest: Manifest) -> Study:
    """Smooth random structure of the canvas's size, in 8-bit values."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((manifest.plan.channels, *manifest.plan.canvas))
    smooth = ndimage.gaussian_filter(noise, (0, 8, 8))
    scaled = (smooth - smooth.min()) / np.ptp(smooth) * 255
    return Study("synthetic", scaled[..., None].astype(np.float32), None, Source("array"))
