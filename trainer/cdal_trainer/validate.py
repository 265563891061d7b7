"""Segmenting held-out cases with the network in training."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from cdal_sdk.bundle import Manifest
from cdal_sdk.engines import Engine, in_parts
from cdal_sdk.masks import decide, dice
from cdal_sdk.slicing import tile
from cdal_trainer.prepared import PreparedCase

__all__ = ["segment_prepared", "validate"]


def segment_prepared(engine: Engine, manifest: Manifest, case: PreparedCase, batch: int = 8) -> NDArray[np.uint8]:
    """The mask of a prepared case on the network's grid, uint8 [slice, h, w]."""
    tiling = tile(case.images, manifest.plan)
    windows = tiling.cut(case.images)
    mean = tiling.blend(in_parts(engine.run, windows, batch).mean).transpose(1, 0, 2, 3)
    return decide(mean, manifest.labels, manifest.decision, manifest.polarity)


def validate(
    engine: Engine,
    manifest: Manifest,
    cases: Iterable[PreparedCase],
    batch: int = 8,
    on_mask: Callable[[PreparedCase, NDArray[np.uint8]], None] = lambda case, mask: None,  # noqa: ARG005
) -> dict[str, float]:
    """Mean Dice over cases by label name, each case scored as a whole on the network's grid.

    `on_mask` is called with each case and its mask.
    """
    scores: dict[str, list[float]] = {label.name: [] for label in manifest.labels}
    for case in cases:
        mask = segment_prepared(engine, manifest, case, batch)
        on_mask(case, mask)
        for label in manifest.labels:
            scores[label.name].append(dice(mask, case.labels, label.value))
    return {name: float(np.mean(values)) for name, values in scores.items()}
