"""The training loop: the same on a CPU, one GPU or several, in float32 or bf16 (Lightning Fabric)."""

from __future__ import annotations

import json
import logging
import shlex
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from cdal_sdk.atomic import atomic, unfinished
from cdal_sdk.bundle import load_checkpoint, read_split, save_checkpoint
from cdal_sdk.engines import Engine
from cdal_sdk.errors import TrainingError, UsageError
from cdal_trainer.batches import Batch, SliceBatches
from cdal_trainer.cases import LabelledCase, labelled_cases
from cdal_trainer.hardware import Hardware
from cdal_trainer.logbook import Clock, Logbook, Progress
from cdal_trainer.pictures import Panel, draw_panels
from cdal_trainer.prepared import PreparedCase, prepare_cases
from cdal_trainer.recipe import Optimisation, Recipe
from cdal_trainer.split import bind_cases, describe_split, record_split, refuse_shared, split_folds
from cdal_trainer.state import TrainingState
from cdal_trainer.validate import validate

__all__ = ["Hardware", "Progress", "train"]

_log = logging.getLogger(__name__)

_REPORT_EVERY = 20  # steps
_SAVE_EVERY_SECONDS = 120.0
_PICTURED = 6  # validation cases
_ABANDONED_SECONDS = 3600.0  # an unfinished file of this age in a shared cache is nobody's


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
        UsageError: if there are no data, no such fold, or another setting is impossible; or if another run is at work
            in `out`.
        TrainingError: on unusable data, an image on both sides of the split, a folder of another run or of other data
            (naming the case), or divergence (naming the step).
        OutputError: on a full disk; the last checkpoint stays whole.
    """
    fabric = hardware.fabric()
    found = {case.name: case for case in labelled_cases(data, recipe.data.cases)}
    settings, initial = recipe.data, recipe.optimisation.initial
    training, held_out = split_folds(list(found), settings.folds, fold, settings.patient, settings.per_patient)
    before = read_split(initial) if initial else None
    split = record_split(settings, fold, training, held_out, before)
    words, known = describe_split(split, training, held_out), not initial or before is not None
    if not known:
        words += "; which cases trained the model that it started from is not known"
    if fabric.is_global_zero and (not known or len(split.held_out) < len(held_out)):
        _log.warning("%s: validation %s look better than it is", words, "will" if known else "may")
    state = TrainingState(recipe, fabric, words, split if known else None)
    sides = [[found[name] for name in names] for names in (training, held_out)]
    with _claimed(out) if fabric.is_global_zero else nullcontext():
        _train(state, sides, out, cache or out / "prepared", hardware.workers, report)
    return out / "best.pt"


def _train(
    state: TrainingState,
    sides: list[list[LabelledCase]],
    out: Path,
    cache: Path,
    workers: int,
    report: Callable[[Progress], None],
) -> None:
    """Train on one side of the cases, validating on the other, from where the run folder stands."""
    recipe, fabric = state.recipe, state.fabric
    if (out / "last.pt").exists():
        state.restore(out / "last.pt")
    if fabric.is_global_zero:
        _tidy(out)
        _tidy(cache, 0.0 if cache == out / "prepared" else _ABANDONED_SECONDS)
    fabric.barrier()
    values = {label.value for label in recipe.labels}
    cases, validation = (prepare_cases(side, recipe.plan, values, cache) for side in sides)
    if fabric.is_global_zero:
        refuse_shared(cases, validation)
        _bind_recipe(out / "recipe.json", recipe)
        bind_cases(out / "split.json", cases, validation)
    fabric.barrier()

    batches = SliceBatches(cases, recipe, fabric.global_rank)
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(state.step, len(batches)),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )
    loaded = cast("Iterable[Batch]", fabric.setup_dataloaders(loader, use_distributed_sampler=False))  # one, so no list
    running = _run(state, loaded, validation, out)
    if fabric.is_global_zero:
        logbook = Logbook(out, state.method.terms, [label.name for label in recipe.labels], state.step)
        for progress in running:
            logbook.add(progress)
            report(progress)
        if (final := _score_best(state, validation, out)) is not None:
            report(Progress(recipe.optimisation.steps, recipe.optimisation.steps, {}, 0.0, 0.0, final, final=True))
    else:
        deque(running, maxlen=0)  # the first device alone validates, writes and tells
    fabric.barrier()


@contextmanager
def _claimed(out: Path) -> Iterator[None]:
    """The run folder for this run alone.

    Raises:
        UsageError: if another run is at work in it.
    """
    lock = FileLock(out / ".lock")
    with suppress(OSError, NotImplementedError):  # of a file system without locks; whoever writes tells of others
        try:
            out.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            raise UsageError(
                "another run is at work in this folder", where=out, remedy="wait for it, or give another --out"
            ) from None
    try:
        yield
    finally:
        lock.release()


def _run(
    state: TrainingState, batches: Iterable[Batch], validation: list[PreparedCase], out: Path
) -> Iterator[Progress]:
    """Train over the batches, validating and saving on the way."""
    settings, fabric = state.recipe.optimisation, state.fabric
    clock, saved = (
        Clock(settings.steps, settings.validate_every, _final_share(state, validation)),
        time.monotonic(),
    )
    window, seconds, window_start = defaultdict[str, list[float]](list), 0.0, state.step
    for batch in batches:
        for name, value in _advance(state, batch, out).items():
            window[name].append(value)
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
            yield Progress(
                step=state.step,
                steps=settings.steps,
                losses=losses,
                seconds_left=clock.seconds_left(state.step),
                samples_per_second=samples / seconds,
                dice=dice,
                at_least=not clock.complete,
            )
            clock.lap()  # what the caller did with it is no part of a step
            window.clear()
            window_start, seconds = state.step, 0.0


def _advance(state: TrainingState, batch: Batch, out: Path) -> dict[str, float]:
    """One step, looked at before anything of it is saved; its losses by name."""
    try:
        losses = {name: float(value) for name, value in state.advance(batch).items()}
        state.watch.look(losses["loss"], state.step)
    except TrainingError as error:
        raise TrainingError(error.what, remedy=_fresh_start(state.recipe.optimisation, out)) from error
    return losses


def _fresh_start(settings: Optimisation, out: Path) -> str:
    """How to go on from the best weights so far with half the learning rates; a run itself keeps its settings."""
    start = next((out / name for name in ("best.pt", "last.pt") if (out / name).exists()), None)
    rates = {name: getattr(settings, name) / 2 for name in ("lr_generator", "lr_discriminator")}
    changes = ([] if start is None else [f"initial={start}"]) + [f"{name}={rate:g}" for name, rate in rates.items()]
    text = " ".join(f"--set {shlex.quote(f'optimisation.{change}')}" for change in changes)
    return f"start anew, with --out NEW {text}, or check the images for extreme values"


def _final_share(state: TrainingState, validation: list[PreparedCase]) -> float:
    """How long the scoring at the end takes, in validations."""
    recipe = state.recipe
    votes = recipe.diffusion.votes / recipe.data.validation_votes if state.method.voting else 1
    return votes * len(validation) / min(recipe.data.validation_cases, len(validation))


def _validate_and_save(state: TrainingState, validation: list[PreparedCase], out: Path) -> dict[str, float]:
    """Score a few held-out cases, always the same ones, and keep the best weights."""
    data = state.recipe.data
    cases = validation[: data.validation_cases]
    dice = _validate(state, state.engine(votes=data.validation_votes), cases, out)
    metrics = {f"dice_{name}_of_{len(cases)}_cases": value for name, value in dice.items()}
    score = sum(dice.values()) / len(dice)
    if score >= state.best:
        state.best = score
        save_checkpoint(state.content(metrics), out / "best.pt")
    save_checkpoint(state.content(metrics), out / "last.pt")
    return dice


def _score_best(state: TrainingState, validation: list[PreparedCase], out: Path) -> dict[str, float] | None:
    """Score the best weights on all held-out cases with all votes, and write that into `best.pt`.

    Returns:
        The Dice by label; None where that was done already.
    """
    content = load_checkpoint(out / "best.pt")
    if content.get("scored"):
        return None
    dice = _validate(state, state.engine(content["generator"]), validation, out)
    content["manifest"]["provenance"]["metrics"] = {f"dice_{name}": value for name, value in dice.items()}
    save_checkpoint({**content, "scored": True}, out / "best.pt")
    return dice


def _validate(state: TrainingState, engine: Engine, cases: list[PreparedCase], out: Path) -> dict[str, float]:
    """Mean Dice by label; the first cases are drawn into `validation.png`."""
    panels: list[Panel] = []

    def keep(case: PreparedCase, mask: NDArray[np.uint8]) -> None:
        if len(panels) < _PICTURED:
            images = case.images[:, plan.context * plan.channels : (plan.context + 1) * plan.channels]  # not neighbours
            panels.append(Panel.of_volume(case.name, images, case.labels, mask))

    manifest, plan = state.recipe.manifest(), state.recipe.plan
    dice = validate(engine, manifest, cases, on_mask=keep)
    with atomic(out / "validation.png") as aside:
        draw_panels(panels, manifest.labels, aside)
    return dice


def _tidy(folder: Path, age: float = 0.0) -> None:
    """Remove what a run that was killed has left half written, once it is so many seconds old."""
    for path in unfinished(folder):
        with suppress(OSError):  # another run may have been faster
            if time.time() - path.stat().st_mtime >= age:
                path.unlink()


def _bind_recipe(path: Path, recipe: Recipe) -> None:
    """Write the settings that a run is bound to; a folder that is bound to others is refused."""
    text = json.dumps(msgspec.to_builtins(recipe), indent=2) + "\n"
    if not path.exists():
        with atomic(path) as aside:
            aside.write_text(text, encoding="utf-8")
    elif path.read_text(encoding="utf-8") != text:
        raise TrainingError("this folder belongs to a run with other settings", where=path, remedy="give another --out")
