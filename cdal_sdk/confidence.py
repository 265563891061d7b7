"""How far a result can be trusted: intervals that keep their promise, and reasons to look at a case."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cdal_sdk.study import Label, Segmentation

__all__ = ["Confidence", "calibrated_scale", "review_reasons"]

_SPECK = 0.01  # share of a label below which a separate part of it is not worth a look
_WIDEST = 64.0  # the spread is at most doubled this often before every voxel is possible


@dataclass(frozen=True)
class Confidence:
    """What a model's spread means and what its results look like; part of the manifest.

    Attributes:
        interval_scale: factor on the spread with which the interval of a size covers `coverage`; 1 where it was not
            calibrated.
        coverage: share of unseen cases whose true size lay in the interval; None where it was not calibrated.
        high_spread: mean spread over labelled voxels from which a case is to be reviewed.
        whole: whether the structures lie inside the image as a rule, so that one at its border is to be reviewed; by
            default they do in a volume.
        components: parts that a label has at most as a rule, 0 for any number; by default one in a volume.
    """

    interval_scale: float = 1.0
    coverage: float | None = None
    high_spread: float = 0.1
    whole: bool | None = None
    components: int | None = None


def review_reasons(result: Segmentation, labels: Sequence[Label], confidence: Confidence) -> list[str]:
    """Why somebody should look at a case, in words; empty where nothing is unusual."""
    planar = result.study.planar
    whole = confidence.whole if confidence.whole is not None else not planar
    most = confidence.components if confidence.components is not None else int(not planar)
    reasons = []
    if result.mean_spread >= confidence.high_spread:
        reasons.append(f"high spread: {result.mean_spread:.2f}")
    for label in labels:
        inside = result.mask == label.value
        if not inside.any():
            reasons.append(f"empty: {label.name}")
            continue
        if whole and _at_border(inside):
            reasons.append(f"touches the border: {label.name}")
        parts = _parts(inside) if most else 0
        if parts > most:
            reasons.append(f"several components: {label.name} has {parts}")
    return reasons


def _at_border(inside: NDArray[np.bool_]) -> bool:
    """Whether a label reaches an edge of the image, along axes of more than one voxel."""
    axes = [axis for axis, size in enumerate(inside.shape) if size > 1]
    return any(bool(np.take(inside, edge, axis).any()) for axis in axes for edge in (0, -1))


def _parts(inside: NDArray[np.bool_]) -> int:
    """Connected parts, by faces, edges and corners, that are more than specks."""
    numbered, count = ndimage.label(inside, np.ones((3, 3, 3)))
    sizes = np.bincount(numbered.ravel(), minlength=count + 1)[1:]
    return int((sizes >= _SPECK * sizes.sum()).sum())


def calibrated_scale(
    cases: Iterable[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]], coverage: float = 0.9
) -> float:
    """The factor on the spread with which a size's interval holds the true size in a share of unseen cases.

    Split conformal prediction: of the factors that the cases would have needed, the quantile at
    ceil((n + 1) coverage) / n. It holds for cases that are exchangeable with these.

    Args:
        cases: margin (how far a label's vote mean lies above its strongest rival or threshold), spread of that, and
            the truth, each of one shape.
        coverage: the share.

    Returns:
        The factor, infinite where there are too few cases for the share.
    """
    needed = sorted(_needed(*case) for case in cases)
    rank = ceil((len(needed) + 1) * coverage)
    return float("inf") if rank > len(needed) else needed[rank - 1]


def _needed(margin: NDArray[np.float32], spread: NDArray[np.float32], truth: NDArray[np.bool_]) -> float:
    """The smallest factor with which the interval from surely to possibly labelled voxels holds the true count."""
    true = int(truth.sum())

    def holds(scale: float) -> bool:
        sure, possible = int((margin > scale * spread).sum()), int((margin > -scale * spread).sum())
        return sure <= true <= possible

    if not holds(_WIDEST):
        return float("inf")
    low, high = 0.0, _WIDEST
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
