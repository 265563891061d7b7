"""The training loop: the same on a CPU, one GPU or several, in float32 or bf16 (Lightning Fabric)."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import cast

import msgspec
from torch.utils.data import DataLoader

from cdal_sdk.atomic import atomic
from cdal_sdk.bundle import load_checkpoint, save_checkpoint
from cdal_sdk.errors import TrainingError
from cdal_trainer.batches import Batch, SliceBatches
from cdal_trainer.cases import labelled_cases, split_folds
from cdal_trainer.hardware import Hardware
from cdal_trainer.logbook import Clock, Logbook, Progress
from cdal_trainer.pictures import Panel, draw_panels
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
    cache: Path | None = None,
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
        cache: folder of prepared cases, to share between runs; by default one in `out`.
        hardware: where to run.
        report: called with the progress every few steps, after each validation, and after the scoring at the end.

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
    state = TrainingState(recipe, fabric, split)
    if (out / "last.pt").exists():
        state.restore(out / "last.pt")
    cases, validation = (
        prepare_cases([found[name] for name in names], recipe.plan, values, cache or out / "prepared")
        for names in (training, held_out)
    )
    if fabric.is_global_zero:
        _record(out / "recipe.json", msgspec.to_builtins(recipe))
        _record(out / "split.json", {"training": training, "validation": held_out})
    fabric.barrier()

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
    if fabric.is_global_zero:
        with closing(Logbook(out, state.method.terms, [label.name for label in recipe.labels], state.step)) as logbook:
            for progress in running:
                logbook.add(progress)
                report(progress)
        if (final := _score_best(state, validation, out)) is not None:
            report(Progress(recipe.optimisation.steps, recipe.optimisation.steps, {}, 0.0, 0.0, final, final=True))
    else:
        deque(running, maxlen=0)  # the first device alone validates, writes and tells
    fabric.barrier()
    return out / "best.pt"


def _run(
    state: TrainingState, batches: Iterable[Batch], validation: list[PreparedCase], out: Path
) -> Iterator[Progress]:
    """Train over the batches, validating and saving on the way."""
    settings, fabric = state.recipe.optimisation, state.fabric
    clock, saved = (
        Clock(settings.steps, settings.validate_every, _final_share(state.recipe, validation)),
        time.monotonic(),
    )
    window, seconds, window_start = defaultdict[str, list[float]](list), 0.0, state.step
    watch = _Watch()
    for batch in batches:
        for name, value in state.advance(batch).items():
            window[name].append(float(value))
        seconds += clock.stepped()
        dice: dict[str, float] = {}
        due = state.step == settings.steps or state.step % settings.validate_every == 0
        if due:
            if fabric.is_global_zero:
                dice = _validate_and_save(state, validation, out)
            fabric.barrier()
            clock.validated()
            saved = time.monotonic()
        elif time.monotonic() - saved > _SAVE_EVERY_SECONDS and fabric.is_global_zero:
            save_checkpoint(state.content({}), out / "last.pt")
            clock.lap()
            saved = time.monotonic()
        if due or state.step % _REPORT_EVERY == 0:
            samples = (state.step - window_start) * settings.batch * fabric.world_size
            losses = {name: sum(values) / len(values) for name, values in window.items()}
            watch.look(losses["loss"], state.step)
            yield Progress(
                step=state.step,
                steps=settings.steps,
                losses=losses,
                seconds_left=clock.seconds_left(state.step),
                samples_per_second=samples / seconds,
                dice=dice,
            )
            window.clear()
            window_start, seconds = state.step, 0.0


class _Watch:
    """Tells a run that learns from one that has come apart, though all its numbers are finite."""

    first = lowest = math.inf

    def look(self, loss: float, step: int) -> None:
        """Stop a run whose loss has grown tenfold, or has fallen to a third and come back.

        Raises:
            TrainingError: naming the step.
        """
        self.first = loss if math.isinf(self.first) else self.first
        self.lowest = min(self.lowest, loss)
        if loss > 10 * self.first or (self.lowest < self.first / 3 and loss > 0.9 * self.first):
            raise TrainingError(
                f"the loss diverges: it was {self.lowest:.4g} and is {loss:.4g} at step {step}",
                remedy="start again with a lower learning rate; best.pt holds the best weights so far",
            )


def _final_share(recipe: Recipe, validation: list[PreparedCase]) -> float:
    """How long the scoring at the end takes, in validations."""
    few = min(recipe.data.validation_cases, len(validation)) * recipe.data.validation_votes
    return len(validation) * recipe.diffusion.votes / few


def _validate_and_save(state: TrainingState, validation: list[PreparedCase], out: Path) -> dict[str, float]:
    """Score a few held-out cases, always the same ones, keep the best weights, and draw the curves so far."""
    data = state.recipe.data
    cases = validation[: data.validation_cases]
    dice = validate(state.engine(votes=data.validation_votes), state.recipe.manifest(), cases)
    metrics = {f"dice_{name}_of_{len(cases)}_cases": value for name, value in dice.items()}
    score = sum(dice.values()) / len(dice)
    if score >= state.best:
        state.best = score
        save_checkpoint(state.content(metrics), out / "best.pt")
    save_checkpoint(state.content(metrics), out / "last.pt")
    return dice


def _score_best(state: TrainingState, validation: list[PreparedCase], out: Path) -> dict[str, float] | None:
    """Score the best weights on all held-out cases with all votes, write that into `best.pt`, and draw some cases.

    Returns:
        The Dice by label; None where that was done already.
    """
    content = load_checkpoint(out / "best.pt")
    if content.get("scored"):
        return None
    manifest, engine = state.recipe.manifest(), state.engine(content["generator"])
    dice = validate(engine, manifest, validation)
    masks = ((case, segment_prepared(engine, manifest, case)) for case in validation[:_PICTURED])
    panels = [Panel.of_volume(case.name, case.images, case.labels, mask) for case, mask in masks]
    with atomic(out / "validation.png") as aside:
        draw_panels(panels, manifest.labels, aside)
    content["manifest"]["provenance"]["metrics"] = {f"dice_{name}": value for name, value in dice.items()}
    save_checkpoint({**content, "scored": True}, out / "best.pt")
    return dice


def _record(path: Path, content: object) -> None:
    """Write what a run is bound to; a folder that is bound to something else is refused."""
    text = json.dumps(content, indent=2) + "\n"
    if not path.exists():
        with atomic(path) as aside:
            aside.write_text(text, encoding="utf-8")
    elif path.read_text(encoding="utf-8") != text:
        raise TrainingError("this folder belongs to a run with other settings", where=path, remedy="give another --out")
