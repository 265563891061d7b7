"""From vote mean and spread, on the source grid, to a mask and to sizes with intervals."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cdal_sdk.study import Label, LabelSize, Study

__all__ = ["certainty", "count", "decide", "dice", "measure", "probabilities", "sizes_of"]

Decision = Literal["threshold", "argmax"]
_MM3_PER_ML = 1000.0


def decide(
    mean: NDArray[np.float32], labels: tuple[Label, ...], decision: Decision, polarity: int
) -> NDArray[np.uint8]:
    """The mask of a vote mean on the label scale [-1, 1], [channel, i, j, k] -> uint8 [i, j, k] of label values."""
    if decision == "threshold":
        inside = mean[0] > 0 if polarity > 0 else mean[0] < 0
        painted: NDArray[np.uint8] = np.multiply(inside, labels[0].value, dtype=np.uint8)
        return painted
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


def certainty(
    mean: NDArray[np.float32], spread: NDArray[np.float32], channel: int, decision: Decision, polarity: int
) -> NDArray[np.float32]:
    """How many spreads a channel's lead holds at each voxel: positive where the label wins, negative where it loses.

    At less than that many spreads the label still wins (or loses) although its mean is lowered (raised) by them and
    its rivals' means are raised (lowered); infinite where all votes agree.

    Args:
        mean: vote mean on the label scale [-1, 1], [channel, i, j, k].
        spread: of the votes, shaped like it.
        channel: of the label.
        decision: how labels are chosen.
        polarity: see `Manifest`.

    Returns:
        float32 [i, j, k].
    """

    def ratio(lead: NDArray[np.float32], width: NDArray[np.float32]) -> NDArray[np.float32]:
        agreed = np.where(lead > 0, np.float32(np.inf), np.float32(-np.inf))
        return np.divide(lead, width, out=agreed, where=width > 0)

    if decision == "threshold":
        return ratio(polarity * mean[channel], spread[channel])
    rivals = (other for other in range(len(mean)) if other != channel)
    lead = [ratio(mean[channel] - mean[rival], spread[channel] + spread[rival]) for rival in rivals]
    least: NDArray[np.float32] = np.minimum.reduce(lead)
    return least


def count(
    mean: NDArray[np.float32],
    spread: NDArray[np.float32],
    mask: NDArray[np.uint8],
    labels: tuple[Label, ...],
    decision: Decision,
    polarity: int,
    scale: float = 1.0,
) -> NDArray[np.int64]:
    """How many voxels have each label, and how many surely and possibly belong to it, [label, 3].

    A voxel surely belongs to a label that wins by more than `scale` spreads, and possibly to one that does not lose by
    as many (`certainty`).
    """
    counts = []
    for channel, label in enumerate(labels, start=1 if decision == "argmax" else 0):
        lead = certainty(mean, spread, channel, decision, polarity)
        counts.append([np.count_nonzero(part) for part in (mask == label.value, lead > scale, lead > -scale)])
    return np.array(counts, np.int64)


def measure(
    mean: NDArray[np.float32],
    spread: NDArray[np.float32],
    mask: NDArray[np.uint8],
    labels: tuple[Label, ...],
    study: Study,
    decision: Decision,
    polarity: int,
    scale: float = 1.0,
) -> dict[str, LabelSize]:
    """Size of each label by name, with the interval between surely and possibly labelled voxels; see `count`."""
    return sizes_of(count(mean, spread, mask, labels, decision, polarity, scale), labels, study)


def sizes_of(counts: NDArray[np.int64], labels: tuple[Label, ...], study: Study) -> dict[str, LabelSize]:
    """What was counted, [label, 3], in the units of a study."""
    return {label.name: _size(row, study) for label, row in zip(labels, counts.tolist(), strict=True)}


def _size(counts: list[int], study: Study) -> LabelSize:
    count, sure, possible = counts
    low, high = min(sure, count), max(possible, count)
    spacing = study.spacing
    if study.planar:
        area = None if spacing is None else count * spacing[0] * spacing[1]
        return LabelSize(area_px=count, area_px_interval=(low, high), area_mm2=area)
    ml = float(abs(np.linalg.det(study.affine[:3, :3]))) / _MM3_PER_ML if study.affine is not None else 0.0
    return LabelSize(volume_ml=count * ml, volume_ml_interval=(low * ml, high * ml))
