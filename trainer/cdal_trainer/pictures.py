"""Pictures for people: the curves of a run, and cases with the contours of truth and prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from cdal_sdk.study import Label

__all__ = ["Panel", "draw_curves", "draw_panels"]

_DPI = 110


@dataclass(frozen=True)
class Panel:
    """One slice to show.

    Attributes:
        title: what stands above it.
        image: [channel, h, w], any range.
        truth: label values [h, w].
        prediction: label values [h, w].
    """

    title: str
    image: NDArray[np.float32]
    truth: NDArray[np.uint8]
    prediction: NDArray[np.uint8]

    @classmethod
    def of_volume(
        cls, title: str, images: NDArray[np.float32], truth: NDArray[np.uint8], prediction: NDArray[np.uint8]
    ) -> Panel:
        """The slice with the largest label, of images [n, channel, h, w] and masks [n, h, w]."""
        place = int(np.argmax((truth > 0).sum(axis=(1, 2)) + (prediction > 0).sum(axis=(1, 2))))
        return cls(title, images[place].copy(), truth[place].copy(), prediction[place].copy())


def draw_panels(panels: Sequence[Panel], labels: Sequence[Label], path: Path, columns: int = 3) -> None:
    """Write the panels as one picture: the truth dashed in white, the prediction in the label's colour."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.8 * rows + 0.5), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, panel in zip(grid, panels, strict=False):
        _draw_panel(axes, panel, labels)
    lines = [Line2D([], [], color=_rgb(label), label=label.name) for label in labels]
    lines.append(Line2D([], [], color="black", linestyle="--", label="truth (white)"))
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), frameon=False)
    figure.savefig(path)


def draw_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Write losses and validation Dice over the steps of a log (see `read_log`)."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    figure = Figure(figsize=(9, 3.6), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    losses, dice = figure.subplots(1, 2)
    for name in names:
        steps, values = zip(*((row["step"], row[name]) for row in rows if name in row), strict=True)
        if name.startswith("dice_"):
            dice.plot(steps, values, marker=".", label=name.removeprefix("dice_"))
        elif name not in ("step", "samples_per_second"):
            losses.plot(steps, values, linewidth=1, label=name)
    losses.set(title="training", xlabel="step", ylabel="loss")
    if "r1" in names:  # is 0 at first
        losses.set_yscale("symlog", linthresh=1e-3)
        losses.set_ylim(bottom=0)
    else:
        losses.set_yscale("log")
    dice.set(title="validation", xlabel="step", ylabel="Dice")
    for axes in (losses, dice):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    figure.savefig(path)


def _draw_panel(axes: Axes, panel: Panel, labels: Sequence[Label]) -> None:
    channels = panel.image if len(panel.image) == 3 else panel.image[len(panel.image) // 2][None]
    low, high = np.percentile(channels, (0.5, 99.5))
    shown = np.clip((channels - low) / max(float(high - low), 1e-6), 0, 1).transpose(1, 2, 0)
    axes.imshow(shown[..., 0] if shown.shape[2] == 1 else shown, cmap="gray", interpolation="nearest")
    axes.set_title(panel.title, fontsize=9)
    for label in labels:
        for mask, colour, style in ((panel.prediction, _rgb(label), "solid"), (panel.truth, "white", "dashed")):
            if (inside := mask == label.value).any() and min(inside.shape) > 1:  # else there is no contour to draw
                axes.contour(inside, levels=[0.5], colors=[colour], linestyles=style, linewidths=1.1)


def _rgb(label: Label) -> tuple[float, float, float]:
    red, green, blue = (part / 255 for part in label.colour)
    return red, green, blue
