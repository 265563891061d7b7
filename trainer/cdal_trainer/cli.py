"""`cdal train`, `cdal evaluate` and `cdal calibrate`."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from cdal_sdk.cli.output import tell
from cdal_sdk.cli.paths import parse_name, parse_path
from cdal_sdk.cli.status import show_status
from cdal_trainer.console import case_progress, print_scores, training_progress

if TYPE_CHECKING:
    from cdal_sdk.bundle import SplitRecord
    from cdal_trainer.cases import LabelledCase

__all__ = ["calibrate", "evaluate", "train"]

_Data = Annotated[
    Path, typer.Option(parser=parse_path, help="Data folder: dataset.json (Decathlon), or 'images' and 'masks'.")
]
_Split = Annotated[
    str | None,
    typer.Option(
        parser=parse_name,
        help="held-out: the cases that training held out; else split.json of a run, or K/N for a fold.",
    ),
]
_Patient = Annotated[
    str | None, typer.Option(help="Regular expression of the patient in a name, for K/N; by default the model's.")
]


def train(
    data: _Data,
    out: Annotated[
        Path, typer.Option("--out", "-o", parser=parse_path, help="Run folder; an interrupted run in it goes on.")
    ],
    recipe: Annotated[
        str, typer.Option(parser=parse_name, help="Bundled recipe (hippocampus, chest-xray, nuclei) or TOML file.")
    ] = "hippocampus",
    paper: Annotated[bool, typer.Option("--paper", help="The paper's own settings instead of the recipe's.")] = False,
    method: Annotated[
        str | None, typer.Option(help="cdal, or a baseline such as unet; by default the recipe's.")
    ] = None,
    fold: Annotated[int, typer.Option(help="Part of the cases that is held out.")] = 0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting, such as optimisation.batch=8; repeatable.")
    ] = None,
    ablate: Annotated[
        Literal["latent", "attention", "scale"] | None,
        typer.Option(help="Train every variant of this part of the method, each in a folder of its own."),
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train.")] = "auto",
    devices: Annotated[int, typer.Option(min=1, help="Number of devices.")] = 1,
    precision: Annotated[
        Literal["auto", "32-true", "bf16-mixed"], typer.Option(help="auto is bf16 where the device has it in hardware.")
    ] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare batches.")] = 1,
    cache: Annotated[
        Path | None,
        typer.Option(parser=parse_path, help="Folder of prepared cases, to share between runs; by default in --out."),
    ] = None,
) -> None:
    """Train a model; last.pt resumes, best.pt is the one to export."""
    with _extra("train"):
        from cdal_trainer.ablation import ablation_table, variants
        from cdal_trainer.hardware import Hardware
        from cdal_trainer.recipe import load_recipe
        from cdal_trainer.training import train as run
    overrides = (*(settings or ()), *([f"method={method}"] if method else ()))
    hardware = Hardware(device, devices, precision, workers)
    console = Console(soft_wrap=True, highlight=False)
    runs = {"": load_recipe(recipe, overrides, paper=paper)}
    if ablate is not None:
        changes = variants(ablate, runs[""])
        runs = {n: load_recipe(recipe, (*overrides, *further), paper=paper) for n, further in changes.items()}
    best: dict[str, Path] = {}
    for name, loaded in runs.items():
        if name:
            console.print(f"variant {name}", markup=False)
        with training_progress(console, loaded.optimisation.steps) as report:
            shared = cache or out / "prepared"
            best[name] = run(loaded, data, out / name, fold=fold, cache=shared, hardware=hardware, report=report)
    if os.environ.get("LOCAL_RANK", "0") != "0":  # another process of the same run tells
        return
    if ablate is not None:
        console.print(ablation_table(best, out / "ablation.json"), markup=False)
        return
    console.print(f"the best weights are in {best['']}; next: {_next(runs[''].method, best[''])}", markup=False)


def evaluate(
    model: Annotated[
        str, typer.Option(parser=parse_name, help="Bundled model, model folder, or checkpoint of any method.")
    ],
    data: _Data,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", parser=parse_path, help="JSON file to write; a CSV and a picture go beside it."),
    ],
    split: _Split = None,
    cases: Annotated[str, typer.Option(help="Shell pattern of the names of the cases, such as 'MCUCXR*'.")] = "*",
    patient: _Patient = None,
    against: Annotated[
        Path | None,
        typer.Option(parser=parse_path, help="JSON of another model's evaluation on the same cases, to compare with."),
    ] = None,
    engine: Annotated[str, typer.Option(help="Engine that runs the model.")] = "auto",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to run.")] = "auto",
    votes: Annotated[int | None, typer.Option(help="Instances to average; by default the model's own.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all noise.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Score a model on labelled cases: Dice, IoU, precision, recall and HD95, a case and label."""
    with _extra("train"):
        from cdal_trainer.evaluate import choose_cases, load_trained
        from cdal_trainer.evaluate import evaluate as run
        from cdal_trainer.evaluation import Evaluation
        from cdal_trainer.split import patient_by
    from cdal_sdk.atomic import check_place
    from cdal_sdk.bundle import read_split

    record = read_split(model)
    chosen, words = choose_cases(data, pattern=cases, split=split, record=record, patient=patient)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    with show_status(console, "loading the model") as progress:
        trained = load_trained(model, engine=engine, device=device, votes=votes, seed=seed, progress=progress)
    other = None if against is None else Evaluation.from_json(against)
    if other is not None:
        other.require_pairs([case.name for case in chosen], [label.name for label in trained.manifest.labels])
    check_place(out)
    seen = _warn_of_training(console, record, chosen, data)
    with case_progress(console, len(chosen)) as advance:
        evaluation = run(
            trained,
            chosen,
            chosen=words,
            trained_on=seen,
            patient=patient_by(record, patient),
            on_case=lambda _: advance(),
        )
    written = evaluation.save(out, trained.manifest.labels, other)
    if as_json:
        tell(json.dumps(json.loads(written[0].read_text(encoding="utf-8")) | {"cases": None}) + "\n")
        return
    print_scores(Console(soft_wrap=True, highlight=False), evaluation, other)
    Console(soft_wrap=True, highlight=False).print("written:", *map(str, written), markup=False)


def calibrate(
    model: Annotated[
        Path,
        typer.Option(parser=parse_path, help="Model folder; its manifest, and its card if it has one, are changed."),
    ],
    data: _Data,
    split: _Split = None,
    cases: Annotated[str, typer.Option(help="Shell pattern of the names of the cases that calibrate.")] = "*",
    patient: _Patient = None,
    coverage: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Share of unseen cases whose true sizes lie in their intervals.")
    ] = 0.9,
    check: Annotated[
        str | None, typer.Option(help="Pattern of the names of further cases, to measure the coverage on.")
    ] = None,
    engine: Annotated[str, typer.Option(help="Engine that runs the model.")] = "auto",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to run.")] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing, only tell.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Find what a model's spread is worth on labelled cases that did not train it.

    Sets the factor with which the intervals of sizes keep their promise, the spread from which a case is to be
    reviewed, and what is usual of the masks.
    """
    with _extra("train"):
        from cdal_trainer.calibration import calibrate as run
        from cdal_trainer.calibration import figures_of_all
        from cdal_trainer.confidence_card import apply, describe
        from cdal_trainer.evaluate import choose_cases
        from cdal_trainer.split import patient_by
    from cdal_sdk.bundle import read_split
    from cdal_sdk.errors import UsageError
    from cdal_sdk.segmenter import Segmenter

    if not model.is_dir():
        raise UsageError("this is no model folder", where=model, remedy="export the checkpoint first")
    record = read_split(model)
    chosen, words = choose_cases(data, pattern=cases, split=split, record=record, patient=patient)
    others = [] if check is None else choose_cases(data, pattern=check)[0]
    owner = patient_by(record, patient)
    if shared := {owner(case.name) for case in chosen} & {owner(case.name) for case in others}:
        raise UsageError(
            f"'{min(shared)}' would both calibrate and check", remedy="give patterns without common cases or patients"
        )
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    with show_status(console, "loading the model") as progress:
        segmenter = Segmenter(model, engine=engine, device=device, progress=progress)
    seen = _warn_of_training(console, record, chosen, data)
    checked = _warn_of_training(console, record, others, data)
    with case_progress(console, len(chosen) + len(others)) as advance:
        figures = figures_of_all(segmenter, [*chosen, *others], advance)
    others_figures = figures[len(chosen) :]
    outcome = run(
        figures[: len(chosen)],
        coverage,
        chosen=words,
        others=others_figures,
        trained_on=seen,
        checked_trained_on=checked,
        patient=owner,
    )
    written = [] if dry_run else apply(outcome, model)
    if as_json:
        tell(json.dumps(outcome.to_data()) + "\n")
        return
    told = Console(soft_wrap=True, highlight=False)
    told.print(describe(outcome), markup=False)
    told.print(*(["written:", *map(str, written)] if written else ["nothing was changed"]), markup=False)


@contextmanager
def _extra(name: str) -> Iterator[None]:
    """Say which extra brings a library that is missing."""
    from cdal_sdk.errors import MissingExtraError

    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), name) from None


def _warn_of_training(
    console: Console, record: SplitRecord | None, cases: list[LabelledCase], data: Path
) -> int | None:
    """Say how many cases are of patients that trained the model, and return it; None where its record does not tell."""
    from cdal_trainer.cases import labelled_cases
    from cdal_trainer.split import seen_in_training

    if record is None:
        return None
    known = [case.name for case in labelled_cases(data)]
    if seen := seen_in_training(record, [case.name for case in cases], known):
        console.print(
            f"warning: {seen} of the {len(cases)} cases, or others of their patients, trained this model; "
            "the figures say little of unseen ones",
            markup=False,
        )
    return seen


def _next(method: str, best: Path) -> str:
    path = shlex.quote(str(best))
    return f"cdal export --checkpoint {path} --fp16" if method == "cdal" else f"cdal evaluate --model {path}"
