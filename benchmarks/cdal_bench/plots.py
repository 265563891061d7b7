"""A result as pictures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cdal_bench.contenders import is_ours
from cdal_bench.report import duration
from cdal_bench.results import Result, Row
from cdal_sdk.atomic import atomic
from cdal_sdk.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_plots", "pictures"]

_OURS, _THEIRS = "#1f6fb4", "#b0b0b0"
_STAGES = ("read", "prepare", "engine", "restore", "write")


def pictures(result: Result) -> dict[str, str]:
    """File name by title of what a result has data for."""
    return {title: name for title, (name, _) in _plots(result).items()}


def draw_plots(result: Result, folder: Path, prefix: str = "") -> dict[str, str]:
    """Draw what the result has data for.

    Args:
        result: what was found.
        folder: for the PNGs, made as needed.
        prefix: of their names.

    Returns:
        File name by title.

    Raises:
        MissingExtraError: if matplotlib is not installed.
        OutputError: if one cannot be written.
    """
    for title, (name, draw) in _plots(result).items():
        _save(folder / (prefix + name), title, draw)
    return {title: prefix + name for title, name in pictures(result).items()}


def _plots(result: Result) -> dict[str, tuple[str, Callable[[Axes], None]]]:
    rows = result.rows
    plots: dict[str, tuple[str, Callable[..., None], bool]] = {
        "Time for one image": ("latency.png", _latency, bool(rows)),
        "Dice over time": ("dice.png", _dice, any(row.dice for row in rows)),
        "A case from file to file": ("stages.png", _stages, any(row.stages_ms for row in rows)),
        "Throughput": ("throughput.png", _throughput, any(len(row.throughput) > 1 for row in rows)),
    }
    for axis in dict.fromkeys(series.axis for series in result.scaling):
        plots[f"Growth with {axis}"] = (f"scaling-{axis}.png", partial(_scaling, axis=axis), True)
    return {title: (name, partial(draw, result=result)) for title, (name, draw, has_data) in plots.items() if has_data}


def _save(path: Path, title: str, draw: Callable[[Axes], None]) -> None:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise MissingExtraError("matplotlib", "bench") from None
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    draw(axes)
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _latency(axes: Axes, result: Result) -> None:
    rows = sorted(result.rows, key=lambda row: row.network.p50.value)
    values = [row.network.p50.value / 1000 for row in rows]
    bars = axes.barh([_name(row) for row in rows], values, color=[_colour(row) for row in rows])
    axes.bar_label(bars, [duration(1000 * value) for value in values], padding=4)
    axes.set_xscale("log")
    axes.set_xlim(min(values) / 3, max(values) * 8)
    note = "; * extrapolated" if any(row.extrapolated for row in rows) else ""
    axes.set_xlabel(f"seconds for one image, network alone (log axis){note}")


def _dice(axes: Axes, result: Result) -> None:
    for row in (row for row in result.rows if row.dice):
        x, y = row.network.p50.value / 1000, sum(row.dice.values()) / len(row.dice)
        axes.scatter(x, y, s=60, label=f"{_name(row)}, {row.note}" if row.note else _name(row))
    axes.set_xscale("log")
    axes.margins(x=0.2, y=0.2)
    axes.legend(frameon=False)
    axes.set_xlabel("seconds for one image (log axis)")
    axes.set_ylabel("Dice, mean over labels")


def _stages(axes: Axes, result: Result) -> None:
    rows = [row for row in result.rows if row.stages_ms and not row.extrapolated] or list(result.rows)
    left = [0.0] * len(rows)
    for stage in _STAGES:
        widths = [row.stages_ms.get(stage, 0.0) / 1000 for row in rows]
        axes.barh([_name(row) for row in rows], widths, left=left, label=stage)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_xlabel("seconds for one case")
    axes.legend(frameon=False, ncols=len(_STAGES), loc="upper left", bbox_to_anchor=(0.0, -0.15))


def _throughput(axes: Axes, result: Result) -> None:
    for row in (row for row in result.rows if len(row.throughput) > 1):
        batches = [entry.batch for entry in row.throughput]
        axes.plot(batches, [entry.images_per_second for entry in row.throughput], marker="o", label=_name(row))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("images at once")
    axes.set_ylabel("images a second")
    axes.legend(frameon=False)


def _scaling(axes: Axes, result: Result, axis: str) -> None:
    chosen = [series for series in result.scaling if series.axis == axis]
    twin = None
    for series in chosen:
        target = axes if series.cost == "milliseconds" or len(chosen) == 1 else axes.twinx()
        twin = target if target is not axes else twin
        colour = _OURS if target is axes else "#d97706"
        target.scatter(series.x, series.y, color=colour)
        target.plot(series.x, series.fitted(), color=colour, linewidth=1, linestyle="--")
        target.set_ylabel(series.cost, color=colour)
        target.set_ylim(bottom=0, top=1.15 * max(series.y))
    axes.set_xlabel(f"{axis} (engine {result.scaling_engine}; dashed: the better fit of line and power law)")


def _name(row: Row) -> str:
    return f"{row.title}*" if row.extrapolated else row.title


def _colour(row: Row) -> str:
    return _OURS if is_ours(row.name) else _THEIRS
