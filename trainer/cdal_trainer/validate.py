"""Segmenting held-out cases with the model in training, and their Dice."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from cdal_sdk.bundle import Manifest
from cdal_sdk.engines import fuse
from cdal_sdk.masks import decide, dice
from cdal_sdk.network import Generator
from cdal_sdk.slicing import tile
from cdal_trainer.prepared import PreparedCase

__all__ = ["validate"]


@torch.inference_mode()
def validate(
    generator: Generator, manifest: Manifest, cases: Iterable[PreparedCase], votes: int, batch: int = 16
) -> dict[str, float]:
    """Mean Dice over cases by label name, each case scored as a whole on the network's grid."""
    device = next(generator.parameters()).device
    sampler = fuse(generator, manifest.sampling(votes)).to(device)
    scores: dict[str, list[float]] = {label.name: [] for label in manifest.labels}
    for case in cases:
        tiling = tile(case.images, manifest.plan)
        chunks = torch.split(torch.from_numpy(tiling.cut(case.images)), batch)
        mean = tiling.blend(torch.cat([sampler(chunk.to(device)).mean.cpu() for chunk in chunks]).numpy())
        mask = decide(mean.transpose(1, 0, 2, 3), manifest.labels, manifest.decision, manifest.polarity)
        for label in manifest.labels:
            scores[label.name].append(dice(mask, case.labels, label.value))
    return {name: float(np.mean(values)) for name, values in scores.items()}
