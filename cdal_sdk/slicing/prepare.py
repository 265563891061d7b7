"""The way from a study to batches of 2-D images and back: orientation, spacing, intensity, slices, pad or tile."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdal_sdk.slicing.intensity import map_intensity
from cdal_sdk.slicing.orientation import Reorientation
from cdal_sdk.slicing.plan import Plan
from cdal_sdk.slicing.resample import resample
from cdal_sdk.slicing.tiles import Tiling
from cdal_sdk.study import Study

__all__ = [
    "Prepared",
    "Slices",
    "cut_slices",
    "padded_size",
    "planar_size",
    "prepare",
    "stack_context",
    "tile",
    "to_working_grid",
]

_SPACING_TOLERANCE = 0.01  # relative; below it the source grid is kept, which is exact
_AS_IS = Reorientation((0, 1, 2), (False, False, False))


@dataclass(frozen=True)
class Slices:
    """A study as whole slices in the network's range.

    Attributes:
        images: float32 [n, channel, h, w], padded at the far edges to what the network takes.
        reorientation: from the source's axes to the working grid's.
        oriented_grid: source grid, reoriented.
        working_grid: height, width and slices on the working grid, before padding.
    """

    images: NDArray[np.float32]
    reorientation: Reorientation
    oriented_grid: tuple[int, int, int]
    working_grid: tuple[int, int, int]


@dataclass(frozen=True)
class Prepared:
    """The network's inputs for one study, and the way back.

    Attributes:
        images: float32 [n, channel, h, w], the windows of each slice side by side.
        reorientation: see `Slices`.
        oriented_grid: see `Slices`.
        working_grid: see `Slices`.
        tiling: windows over the padded slices.
    """

    images: NDArray[np.float32]
    reorientation: Reorientation
    oriented_grid: tuple[int, int, int]
    working_grid: tuple[int, int, int]
    tiling: Tiling

    def restore(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring results of the images to the source grid, [n, label, h, w] -> [label, i, j, k]."""
        height, width, _ = self.working_grid
        slices = self.tiling.blend(values)[:, :, :height, :width]
        volume = np.ascontiguousarray(slices.transpose(1, 2, 3, 0))
        return np.ascontiguousarray(self.reorientation.undo(resample(volume, self.oriented_grid)))


def to_working_grid(study: Study, plan: Plan) -> tuple[Reorientation, tuple[int, int, int], tuple[int, int, int]]:
    """Reorientation, reoriented source grid and working grid (both in target axes) of a study under a plan."""
    reorientation = _AS_IS if study.affine is None else Reorientation.to(plan.orientation, study.affine)
    a, b, c = (study.grid[axis] for axis in reorientation.order)
    grid = (a, b, c)
    if plan.kind == "planar":
        return reorientation, grid, (*planar_size(grid[:2], plan), c)
    x, y, z = grid
    if plan.spacing_mm is not None and study.spacing is not None:
        spacing = (study.spacing[axis] for axis in reorientation.order)
        x, y, z = (
            size if abs(old / new - 1) < _SPACING_TOLERANCE else max(1, round(size * old / new))
            for size, old, new in zip(grid, spacing, plan.spacing_mm, strict=True)
        )
    if plan.fit == "resize":
        x, y = plan.canvas
    return reorientation, grid, (x, y, z)


def planar_size(size: tuple[int, int], plan: Plan) -> tuple[int, int]:
    """Height and width of a planar image of a size on the working grid."""
    if plan.fit == "resize":
        return plan.canvas
    if plan.scale is not None:
        height, width = (max(1, round(side * plan.scale)) for side in size)
        return height, width
    return plan.resize_to or size


def padded_size(size: tuple[int, int], plan: Plan) -> tuple[int, int]:
    """Height and width of slices of a size after padding to what the network takes."""
    height, width = (-(-side // plan.divisor) * plan.divisor for side in size)
    if plan.fit == "tile":  # windows are always whole canvases
        return max(height, plan.canvas[0]), max(width, plan.canvas[1])
    return height, width


def stack_context(slices: NDArray[np.float32], context: int) -> NDArray[np.float32]:
    """Stack each slice with its neighbours as channels, [n, c, h, w] -> [n, (2 context + 1) c, h, w].

    Beyond the first and last slice the outermost is repeated.
    """
    indices = np.arange(len(slices))
    neighbours = [slices[np.clip(indices + o, 0, len(slices) - 1)] for o in range(-context, context + 1)]
    return np.concatenate(neighbours, axis=1)


def cut_slices(study: Study, plan: Plan) -> Slices:
    """Orient, resample and scale a study, and cut it into whole slices."""
    reorientation, oriented, working = to_working_grid(study, plan)
    volume = resample(np.ascontiguousarray(reorientation.apply(study.image)), working)
    volume = map_intensity(volume, plan.intensity)
    slices = stack_context(volume.transpose(3, 0, 1, 2), plan.context)

    height, width = padded_size(working[:2], plan)
    padding = ((0, 0), (0, 0), (0, height - working[0]), (0, width - working[1]))
    slices = np.pad(slices, padding, constant_values=plan.intensity.target[0])
    return Slices(slices, reorientation, oriented, working)


def tile(slices: NDArray[np.float32], plan: Plan) -> Tiling:
    """The windows in which the network sees padded slices [n, channel, h, w]."""
    return Tiling.over((slices.shape[2], slices.shape[3]), plan.canvas, plan.overlap)


def prepare(study: Study, plan: Plan) -> Prepared:
    """Cut a study into network inputs as its model's plan says."""
    whole = cut_slices(study, plan)
    tiling = tile(whole.images, plan)
    return Prepared(tiling.cut(whole.images), whole.reorientation, whole.oriented_grid, whole.working_grid, tiling)
