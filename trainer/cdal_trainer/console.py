"""What the trainer's commands show: progress on a terminal or in a log, and tables of figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from cdal_trainer.evaluation import Evaluation
    from cdal_trainer.logbook import Progress

__all__ = ["case_progress", "print_scores", "training_progress"]


@contextmanager
def training_progress(console: Console, steps: int) -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal; elsewhere a line a report."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=steps)

        def report(progress: Progress) -> None:
            dice = ", ".join(f"{name} {value:.4f}" for name, value in progress.dice.items())
            if progress.final:
                console.print(f"best weights, all held-out cases, all votes: Dice {dice}", markup=False)
                return
            losses = " ".join(f"{name} {value:.4f}" for name, value in progress.losses.items())
            minutes = progress.seconds_left / 60
            left = f"{'at least ' if progress.at_least else ''}{minutes:.0f} min left"
            text = f"{losses}  {progress.samples_per_second:.1f} samples/s  {left}"
            bar.update(task, completed=progress.step, description=text)
            if not console.is_terminal:
                console.print(f"step {progress.step}/{progress.steps}  {text}", markup=False)
            if dice:
                console.print(f"step {progress.step}: validation Dice {dice}", markup=False)

        yield report


@contextmanager
def case_progress(console: Console, total: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, nothing elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


def print_scores(console: Console, evaluation: Evaluation, other: Evaluation | None) -> None:
    """A table of means and standard deviations, and below it the comparison."""
    from rich.markup import escape
    from rich.table import Table

    from cdal_trainer.metrics import METRICS

    labels = evaluation.summary
    columns = ("label", "n", *METRICS)
    title = f"{evaluation.model}, {evaluation.chosen} cases, {evaluation.evaluations} NFE"
    table = Table(*columns, title=escape(title))
    for label, metrics in labels.items():
        cells = [f"{metrics[m].mean:.4f} ± {metrics[m].std:.4f}" if m in metrics else "-" for m in METRICS]
        defined = min(metrics[m].cases if m in metrics else 0 for m in METRICS)
        count = len(evaluation.cases)
        table.add_row(escape(label), str(count) if defined == count else f"{count} (hd95: {defined})", *cells)
    console.print(table)
    if other is None:
        return
    for label, difference in evaluation.against(other).items():
        interval = "one patient: no interval"
        if difference.interval is not None:
            interval = "95 % interval {:+.4f} to {:+.4f}".format(*difference.interval)
        console.print(
            f"{label}: Dice {difference.mean:+.4f} against {other.model} ({other.method}), "
            f"{interval}, "
            f"p = {difference.p_value:.3g} (Wilcoxon, {difference.cases} pairs of {difference.patients} patients)",
            markup=False,
        )
