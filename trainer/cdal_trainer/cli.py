"""`cdal train`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

if TYPE_CHECKING:
    from cdal_trainer.training import Progress

__all__ = ["train"]


def train(
    data: Annotated[Path, typer.Option(help="Data folder, in the form of the Medical Segmentation Decathlon.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder; an interrupted run in it goes on.")],
    recipe: Annotated[str, typer.Option(help="Bundled recipe or TOML file.")] = "hippocampus",
    fold: Annotated[int, typer.Option(help="Part of the cases that is held out.")] = 0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting, such as optimisation.batch=8; repeatable.")
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train.")] = "auto",
    devices: Annotated[int, typer.Option(help="Number of devices.")] = 1,
    precision: Annotated[
        Literal["auto", "32-true", "bf16-mixed"], typer.Option(help="auto is bf16 where the device has it in hardware.")
    ] = "auto",
    workers: Annotated[int, typer.Option(help="Processes that prepare batches.")] = 1,
) -> None:
    """Train a model; last.pt resumes, best.pt is the one to export."""
    from cdal_sdk.errors import MissingExtraError

    try:
        from cdal_trainer.recipe import load_recipe
        from cdal_trainer.training import Hardware
        from cdal_trainer.training import train as run
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), "train") from None
    loaded = load_recipe(recipe, tuple(settings or ()))
    hardware = Hardware(device, devices, precision, workers)
    console = Console(soft_wrap=True, highlight=False)
    with _progress(console, loaded.optimisation.steps) as report:
        best = run(loaded, data, out, fold=fold, hardware=hardware, report=report)
    console.print(f"the best weights are in {best}; next: cdal export --checkpoint {best} --fp16", markup=False)


@contextmanager
def _progress(console: Console, steps: int) -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal; elsewhere a line a report."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=steps)

        def report(progress: Progress) -> None:
            losses = " ".join(f"{name} {value:.4f}" for name, value in progress.losses.items())
            minutes = progress.seconds_left / 60
            text = f"{losses}  {progress.samples_per_second:.1f} samples/s  {minutes:.0f} min left"
            bar.update(task, completed=progress.step, description=text)
            if not console.is_terminal:
                console.print(f"step {progress.step}/{progress.steps}  {text}", markup=False)
            if progress.dice:
                dice = ", ".join(f"{name} {value:.4f}" for name, value in progress.dice.items())
                console.print(f"step {progress.step}: validation Dice {dice}", markup=False)

        yield report
