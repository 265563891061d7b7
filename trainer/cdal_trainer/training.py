"""The training loop: the same on a CPU, one GPU or several, in float32 or bf16 (Lightning Fabric)."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import cast

import msgspec
from torch.utils.data import DataLoader

from cdal_sdk.bundle import load_checkpoint, save_checkpoint
from cdal_sdk.errors import TrainingError
from cdal_trainer.batches import Batch, SliceBatches
from cdal_trainer.cases import labelled_cases, split_folds
from cdal_trainer.hardware import Hardware
from cdal_trainer.logbook import Clock, Logbook, Progress
from cdal_trainer.pictures import Panel, draw_curves, draw_panels
from cdal_trainer.prepared import PreparedCase, prepare_cases
from cdal_trainer.recipe import Recipe
from cdal_trainer.state import TrainingState
from cdal_trainer.validate import segment_prepared, validate

__all__ = ["Hardware", "Progress", "train"]

_REPORT_EVERY = 20  # steps
_SAVE_EVERY_SECONDS = 120.0
_PICTURED = 6  # validation cases


def train(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    fold: int = 0,
    hardware: Hardware = Hardware(),  # noqa: B008 - immutable
    report: Callable[[Progress], None] = lambda _: None,
) -> Path:
    """Train a model, or go on where an interrupted run of the same settings stopped.

    Args:
        recipe: every setting.
        data: folder with a Decathlon index, or with `images` and `masks`.
        out: run folder, gets `last.pt`, `best.pt` (best validation), `recipe.json`, `split.json`, `log.csv`,
            TensorBoard's files, and the pictures `curves.png` and `validation.png`.
        fold: which part of the cases is held out.
        hardware: where to run.
        report: called with the progress every few steps and after each validation.

    Returns:
        The path of `best.pt`.

    Raises:
        TrainingError: on unusable data, a folder of another run, or divergence (naming the step).
        OutputError: on a full disk; the last checkpoint stays whole.
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

    cases, validation = (
        prepare_cases([found[name] for name in names], recipe.plan, values, out / "prepared")
        for names in (training, held_out)
    )
    batches = SliceBatches(cases, recipe, fabric.global_rank)
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(state.step, len(batches)),
        num_workers=hardware.workers,
        prefetch_factor=4 if hardware.workers else None,
    )
    loaded = cast("Iterable[Batch]", fabric.setup_dataloaders(loader, use_distributed_sampler=False))  # one, so no list
    running = _run(state, loaded, validation, out)
    if not fabric.is_global_zero:
        for _ in running:  # the first device alone writes and tells
            pass
        return out / "best.pt"
    logbook = Logbook(out, state.method.terms, [label.name for label in recipe.labels], state.step)
    try:
        for progress in running:
            logbook.add(progress)
            report(progress)
    finally:
        logbook.close()
        draw_curves(logbook.path, out / "curves.png")
    return out / "best.pt"


def _run(
    state: TrainingState, batches: Iterable[Batch], validation: list[PreparedCase], out: Path
) -> Iterator[Progress]:
    """Train over the batches, validating and saving on the way."""
    settings = state.recipe.optimisation
    clock, saved = Clock(settings.steps, settings.validate_every), time.monotonic()
    window, seconds = defaultdict[str, list[float]](list), 0.0
    window_start = state.step
    clock.lap()
    for batch in batches:
        for name, value in state.advance(batch).items():
            window[name].append(float(value))
        seconds += clock.stepped()
        dice: dict[str, float] = {}
        last = state.step == settings.steps
        if last or state.step % settings.validate_every == 0:
            dice = _validate_and_save(state, validation, out)
            if last:
                dice = _score_best(state, validation, out)
            clock.validated()
            saved = time.monotonic()
        elif time.monotonic() - saved > _SAVE_EVERY_SECONDS:
            _save(state, out / "last.pt", {})
            saved = time.monotonic()
        if dice or state.step % _REPORT_EVERY == 0:
            samples = (state.step - window_start) * settings.batch * state.fabric.world_size
            yield Progress(
                step=state.step,
                steps=settings.steps,
                losses={name: sum(values) / len(values) for name, values in window.items()},
                seconds_left=clock.seconds_left(state.step),
                samples_per_second=samples / seconds,
                dice=dice,
            )
            window.clear()
            window_start, seconds = state.step, 0.0


def _validate_and_save(state: TrainingState, validation: list[PreparedCase], out: Path) -> dict[str, float]:
    """Score a few held-out cases, always the same ones, and keep the best weights."""
    data = state.recipe.data
    cases = validation[: data.validation_cases]
    dice = validate(state.engine(votes=data.validation_votes), state.recipe.manifest(), cases)
    metrics = {f"dice_{name}_of_{len(cases)}_cases": value for name, value in dice.items()}
    score = sum(dice.values()) / len(dice)
    if score >= state.best:
        state.best = score
        _save(state, out / "best.pt", metrics)
    _save(state, out / "last.pt", metrics)
    return dice


def _score_best(state: TrainingState, validation: list[PreparedCase], out: Path) -> dict[str, float]:
    """Score the best weights on all held-out cases with all votes, write that into `best.pt`, and draw some cases."""
    content = load_checkpoint(out / "best.pt")
    manifest, engine = state.recipe.manifest(), state.engine(content["generator"])
    dice = validate(engine, manifest, validation)
    content["manifest"]["provenance"]["metrics"] = {f"dice_{name}": value for name, value in dice.items()}
    if state.fabric.is_global_zero:
        save_checkpoint(content, out / "best.pt")
        masks = ((case, segment_prepared(engine, manifest, case)) for case in validation[:_PICTURED])
        panels = [Panel.of_volume(case.name, case.images, case.labels, mask) for case, mask in masks]
        draw_panels(panels, manifest.labels, out / "validation.png")
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
