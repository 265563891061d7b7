"""The training loop: the same on a CPU, one GPU or several, in float32 or bf16 (Lightning Fabric)."""

from __future__ import annotations

import csv
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

import msgspec
import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader

from cdal_sdk.bundle import load_checkpoint, save_checkpoint
from cdal_sdk.errors import TrainingError
from cdal_trainer.batches import Batch, SliceBatches
from cdal_trainer.cases import labelled_cases, split_folds
from cdal_trainer.prepared import PreparedCase, prepare_case
from cdal_trainer.recipe import Recipe
from cdal_trainer.state import TrainingState
from cdal_trainer.validate import validate

__all__ = ["Hardware", "Progress", "train"]

_REPORT_EVERY = 20  # steps
_SAVE_EVERY_SECONDS = 120.0


@dataclass(frozen=True)
class Hardware:
    """Where a run runs; none of it changes what is computed but for rounding.

    Attributes:
        accelerator: as Lightning Fabric names it.
        devices: number of devices.
        precision: "auto" is bf16 where the device has it in hardware, else float32.
        workers: processes that prepare batches.
    """

    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    workers: int = 1

    def fabric(self) -> Fabric:
        """A launched Fabric."""
        cuda = self.accelerator != "cpu" and torch.cuda.is_available()
        precision = self.precision
        if precision == "auto":
            fast = torch.cuda.is_bf16_supported() if cuda else _cpu_multiplies_bf16()
            precision = "bf16-mixed" if fast else "32-true"
        fabric = Fabric(accelerator="cuda" if cuda else "cpu", devices=self.devices, precision=precision)
        fabric.launch()
        return fabric


def _cpu_multiplies_bf16() -> bool:
    capabilities = torch.backends.cpu.get_cpu_capability()
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    has_avx512_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return capabilities.startswith("AVX512") and bool(has_amx or has_avx512_bf16)


@dataclass(frozen=True)
class Progress:
    """What a run tells while it goes.

    Attributes:
        step: generator steps done.
        steps: of the whole run.
        losses: by name, averaged since the last report.
        seconds_left: estimate for the rest of the run, validations included.
        samples_per_second: throughput of training alone since the last report, over all devices.
        dice: by label, where a validation has just been made.
    """

    step: int
    steps: int
    losses: dict[str, float]
    seconds_left: float
    samples_per_second: float
    dice: dict[str, float] = field(default_factory=dict)


def train(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    fold: int = 0,
    hardware: Hardware = Hardware(),
    report: Callable[[Progress], None] = lambda _: None,
) -> Path:
    """Train a model, or go on where an interrupted run of the same settings stopped.

    Args:
        recipe: every setting.
        data: folder with a Decathlon index, or with `images` and `masks`.
        out: run folder, gets `last.pt`, `best.pt` (best validation), `recipe.json`, `split.json` and `log.csv`.
        fold: which part of the cases is held out.
        hardware: where to run.
        report: called with the progress every few steps and after each validation.

    Returns:
        The path of `best.pt`.

    Raises:
        TrainingError: on unusable data, a folder of another run, a full disk, or divergence (naming the step).
    """
    fabric = hardware.fabric()
    values = {label.value for label in recipe.labels}
    found = {case.name: case for case in labelled_cases(data, recipe.data.cases)}
    training, held_out = split_folds(list(found), recipe.data.folds, fold, recipe.data.patient)
    split = f"fold {fold} of {recipe.data.folds}: {len(training)} cases for training, {len(held_out)} for validation"
    out.mkdir(parents=True, exist_ok=True)
    state = TrainingState(recipe, fabric, split)
    if (out / "last.pt").exists():
        state.restore(out / "last.pt")
    _record(out / "recipe.json", msgspec.to_builtins(recipe))
    _record(out / "split.json", {"training": training, "validation": held_out})

    cases = [prepare_case(found[name], recipe.plan, values) for name in training]
    validation = [prepare_case(found[name], recipe.plan, values) for name in held_out]
    batches = SliceBatches(cases, recipe, fabric.global_rank)
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(state.step, len(batches)),
        num_workers=hardware.workers,
        prefetch_factor=4 if hardware.workers else None,
    )
    loaded = cast("Iterable[Batch]", fabric.setup_dataloaders(loader, use_distributed_sampler=False))  # one, so no list
    _loop(state, loaded, validation, out, report)
    return out / "best.pt"


def _loop(
    state: TrainingState,
    batches: Iterable[Batch],
    validation: list[PreparedCase],
    out: Path,
    report: Callable[[Progress], None],
) -> None:
    recipe, fabric = state.recipe, state.fabric
    settings = recipe.optimisation
    started, first, saved = time.monotonic(), state.step, time.monotonic()
    window, window_start, training_seconds = defaultdict[str, list[float]](list), state.step, 0.0
    tick = time.monotonic()
    for batch in batches:
        for name, value in state.advance(batch).items():
            window[name].append(float(value))
        training_seconds += time.monotonic() - tick
        dice: dict[str, float] = {}
        last = state.step == settings.steps
        if last or state.step % settings.validate_every == 0:
            dice = _validate_and_save(state, validation, out)
            if last:
                dice = _score_best(state, validation, out)
            saved = time.monotonic()
        elif time.monotonic() - saved > _SAVE_EVERY_SECONDS:
            _save(state, out / "last.pt", {})
            saved = time.monotonic()
        if dice or state.step % _REPORT_EVERY == 0:
            done = state.step - window_start
            progress = Progress(
                step=state.step,
                steps=settings.steps,
                losses={name: sum(values) / len(values) for name, values in window.items()},
                seconds_left=(time.monotonic() - started) / (state.step - first) * (settings.steps - state.step),
                samples_per_second=done * settings.batch * fabric.world_size / training_seconds,
                dice=dice,
            )
            if fabric.is_global_zero:
                _log(out / "log.csv", progress)
                report(progress)
            window.clear()
            window_start, training_seconds = state.step, 0.0
        tick = time.monotonic()


def _validate_and_save(state: TrainingState, validation: list[PreparedCase], out: Path) -> dict[str, float]:
    """Score a few held-out cases, always the same ones, and keep the best weights."""
    data = state.recipe.data
    cases = validation[: data.validation_cases]
    dice = validate(state.averaged_generator(), state.recipe.manifest(), cases, data.validation_votes)
    metrics = {f"dice_{name}_of_{len(cases)}_cases": value for name, value in dice.items()}
    score = sum(dice.values()) / len(dice)
    if score >= state.best:
        state.best = score
        _save(state, out / "best.pt", metrics)
    _save(state, out / "last.pt", metrics)
    return dice


def _score_best(state: TrainingState, validation: list[PreparedCase], out: Path) -> dict[str, float]:
    """Score the best weights on all held-out cases with all votes, and write that into `best.pt`."""
    content = load_checkpoint(out / "best.pt")
    manifest = state.recipe.manifest()
    generator = state.averaged_generator()
    generator.load_state_dict(content["generator"])
    dice = validate(generator, manifest, validation, manifest.votes)
    content["manifest"]["provenance"]["metrics"] = {f"dice_{name}": value for name, value in dice.items()}
    if state.fabric.is_global_zero:
        save_checkpoint(content, out / "best.pt")
    return dice


def _save(state: TrainingState, path: Path, metrics: dict[str, float]) -> None:
    if state.fabric.is_global_zero:
        save_checkpoint(state.content(metrics), path)


def _record(path: Path, content: object) -> None:
    """Write what a run is bound to; a folder that is bound to something else is refused."""
    text = json.dumps(content, indent=2) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise TrainingError("this folder belongs to a run with other settings", where=path, remedy="give another --out")
    path.write_text(text, encoding="utf-8")


def _log(path: Path, progress: Progress) -> None:
    """Append one row to the CSV log."""
    names = ["loss", "d_real", "d_fake", "r1"]
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["step", *names, "samples_per_second", "dice"])
        dice = " ".join(f"{name}={value:.4f}" for name, value in progress.dice.items())
        losses = [f"{progress.losses[n]:.5f}" if n in progress.losses else "" for n in names]
        writer.writerow([progress.step, *losses, f"{progress.samples_per_second:.2f}", dice])
