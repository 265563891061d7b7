"""From vote mean and spread, on the source grid, to a mask and to sizes with intervals."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cdal_sdk.study import Label, LabelSize, Study

__all__ = ["decide", "dice", "measure", "probabilities"]

Decision = Literal["threshold", "argmax"]
_MM3_PER_ML = 1000.0


def decide(
    mean: NDArray[np.float32], labels: tuple[Label, ...], decision: Decision, polarity: int
) -> NDArray[np.uint8]:
    """The mask of a vote mean on the label scale [-1, 1], [channel, i, j, k] -> uint8 [i, j, k] of label values."""
    if decision == "threshold":
        return np.where(polarity * mean[0] > 0, labels[0].value, 0).astype(np.uint8)
    values = np.array([0, *(label.value for label in labels)], np.uint8)
    mask: NDArray[np.uint8] = values[mean.argmax(axis=0)]
    return mask


def dice(prediction: NDArray[np.uint8], truth: NDArray[np.uint8], value: int) -> float:
    """2 |A and B| / (|A| + |B|) of one label value; 1 where both are empty."""
    a, b = prediction == value, truth == value
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def probabilities(
    mean: NDArray[np.float32], spread: NDArray[np.float32], decision: Decision, polarity: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and spread of the foreground labels on the scale [0, 1], [label, i, j, k] each."""
    first = 1 if decision == "argmax" else 0
    probability = np.clip((1 + polarity * mean[first:]) / 2, 0, 1)
    return probability.astype(np.float32, copy=False), (spread[first:] / 2).astype(np.float32, copy=False)


def measure(
    mean: NDArray[np.float32],
    spread: NDArray[np.float32],
    mask: NDArray[np.uint8],
    labels: tuple[Label, ...],
    study: Study,
    decision: Decision,
    polarity: int,
) -> dict[str, LabelSize]:
    """Size of each label by name, with the interval between surely and possibly labelled voxels.

    A voxel surely belongs to a label where the label wins although its mean is lowered, and its rivals' means are
    raised, by one spread; it possibly belongs where it wins the other way round.
    """
    sizes = {}
    for channel, label in enumerate(labels, start=1 if decision == "argmax" else 0):
        own, own_spread = polarity * mean[channel], spread[channel]
        if decision == "threshold":
            rival_low = rival_high = np.zeros_like(own)
        else:
            others = np.delete(np.arange(len(mean)), channel)
            rival_low = (mean[others] - spread[others]).max(axis=0)
            rival_high = (mean[others] + spread[others]).max(axis=0)
        sure = int((own - own_spread > rival_high).sum())
        possible = int((own + own_spread > rival_low).sum())
        sizes[label.name] = _size(int((mask == label.value).sum()), (sure, possible), study)
    return sizes


def _size(count: int, interval: tuple[int, int], study: Study) -> LabelSize:
    low, high = min(interval[0], count), max(interval[1], count)
    spacing = study.spacing
    if study.planar:
        area = None if spacing is None else count * spacing[0] * spacing[1]
        return LabelSize(area_px=count, area_px_interval=(low, high), area_mm2=area)
    ml = float(abs(np.linalg.det(study.affine[:3, :3]))) / _MM3_PER_ML if study.affine is not None else 0.0
    return LabelSize(volume_ml=count * ml, volume_ml_interval=(low * ml, high * ml))
