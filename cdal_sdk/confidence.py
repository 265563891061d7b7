"""How far a result can be trusted: intervals that keep their promise, and reasons to look at a case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cdal_sdk.study import Label, Segmentation

__all__ = [
    "Confidence",
    "at_border",
    "conformal_quantile",
    "needed_scale",
    "parts_of",
    "review_reasons",
]

_EVERYWHERE = 0.9  # share of the image from which a label is more likely a mistake than a structure
_SPECK = 0.01  # share of a label below which a separate part of it is not worth a look


@dataclass(frozen=True)
class Confidence:
    """What a model's spread means and what its results look like; part of the manifest.

    Attributes:
        interval_scale: factor on the spread with which the intervals of the sizes cover `coverage`; 1 where there
            never was a calibration.
        coverage: share of unseen cases, alike those that calibrated it, whose true sizes all lie in their intervals;
            None where it was not calibrated.
        cases: how many calibrated it.
        high_spread: mean spread over labelled voxels from which a case is to be reviewed.
        whole: whether the structures lie inside the image as a rule, so that one at its border is to be reviewed; by
            default they do in a volume.
        components: parts that a label has at most as a rule, 0 for any number; by default one in a volume.
    """

    interval_scale: float = 1.0
    coverage: float | None = None
    cases: int = 0
    high_spread: float = 0.1
    whole: bool | None = None
    components: int | None = None


def review_reasons(
    result: Segmentation, labels: Sequence[Label], confidence: Confidence, mean_spread: float | None = None
) -> list[str]:
    """Why somebody should look at a case, in words; empty where nothing is unusual.

    The mean spread is the result's own, unless another is given, for a result that was shrunk.
    """
    mean_spread = result.mean_spread if mean_spread is None else mean_spread
    planar = result.study.planar
    whole = confidence.whole if confidence.whole is not None else not planar
    most = confidence.components if confidence.components is not None else int(not planar)
    reasons = [*result.study.doubts]
    if mean_spread >= confidence.high_spread:
        reasons.append(f"high spread: {mean_spread:.2g}")
    for label in labels:
        inside = result.mask == label.value
        if not inside.any():
            reasons.append(f"empty: {label.name}")
            continue
        if inside.mean() >= _EVERYWHERE:
            reasons.append(f"all over the image: {label.name}")
        if whole and at_border(inside):
            reasons.append(f"touches the border: {label.name}")
        parts = parts_of(inside) if most else 0
        if parts > most:
            reasons.append(f"several components: {label.name} has {parts}")
    return reasons


def at_border(inside: NDArray[np.bool_]) -> bool:
    """Whether a label reaches an edge of the image, along axes of more than one voxel."""
    axes = [axis for axis, size in enumerate(inside.shape) if size > 1]
    return any(bool(np.take(inside, edge, axis).any()) for axis in axes for edge in (0, -1))


def parts_of(inside: NDArray[np.bool_]) -> int:
    """The number of connected parts, by faces, edges and corners, that are more than specks."""
    box = ndimage.find_objects(inside.astype(np.uint8))
    within = np.atleast_1d(np.squeeze(inside[box[0]] if box else inside))  # a plane costs half of a volume of one slice
    numbered, count = ndimage.label(within, np.ones((3,) * within.ndim))
    sizes = np.bincount(numbered.ravel(), minlength=count + 1)[1:]
    return int((sizes >= _SPECK * sizes.sum()).sum())


def needed_scale(certainty: NDArray[np.float32], true: int) -> float:
    """The smallest factor on the spread with which a size's interval holds the true size.

    Args:
        certainty: how many spreads each voxel is from changing sides, positive where it is labelled; see
            `masks.certainty`. Voxels that are further than any factor of use may be left out, if `true` is lowered by
            the number of those that are labelled.
        true: voxels that belong to the label; below zero where more are left out than there are.

    Returns:
        The factor; infinite where no factor is enough.
    """
    claimed = int((certainty > 0).sum())
    if true == claimed:
        return 0.0
    if not 0 <= true <= certainty.size:
        return float("inf")
    # Below, only so many voxels may be surer than the factor; above, as many must lose by less than it.
    rank = true + 1 if true < claimed else true
    bound = np.partition(certainty, certainty.size - rank, axis=None)[certainty.size - rank]
    return float(bound if true < claimed else np.nextafter(-bound, np.float32(np.inf)))


def conformal_quantile(values: Sequence[float], share: float) -> float:
    """The value that a share of unseen ones does not exceed, if they are exchangeable with these.

    Split conformal prediction: the one of rank ceil((n + 1) share). Of the factors that cases needed, it is the one
    with which the intervals hold the true sizes in that share of cases.

    Returns:
        The value, infinite where there are too few for the share.
    """
    rank = ceil(round((len(values) + 1) * share, 9))
    return float("inf") if rank > len(values) else float(sorted(values)[rank - 1])
