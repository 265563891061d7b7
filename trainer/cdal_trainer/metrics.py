"""How good a mask is: overlap and distance per label, by MONAI's metrics, and whether two models differ."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

with warnings.catch_warnings():  # MONAI warns of optional packages on import
    warnings.simplefilter("ignore")
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.meandice import compute_dice
    from monai.metrics.meaniou import compute_iou

__all__ = ["METRICS", "Difference", "Score", "Summary", "compare_paired", "score_mask", "summarise"]

_RESAMPLES = 10_000


@dataclass(frozen=True)
class Score:
    """One label in one case.

    Where truth and prediction are both empty every share is 1 and the distance 0; where one of them is, the shares
    are 0 and the distance is not defined (NaN).

    Attributes:
        dice: 2 |A and B| / (|A| + |B|).
        iou: |A and B| / |A or B|.
        precision: share of the prediction that is true.
        recall: share of the truth that is found.
        hd95: 95th percentile Hausdorff distance, the larger of both directions; in mm, or in pixels where the spacing
            is unknown.
    """

    dice: float
    iou: float
    precision: float
    recall: float
    hd95: float


METRICS = tuple(field.name for field in fields(Score))


def score_mask(prediction: NDArray[np.bool_], truth: NDArray[np.bool_], spacing: Sequence[float] | None) -> Score:
    """Score one label.

    Args:
        prediction: bool [i, j] or [i, j, k].
        truth: shaped alike.
        spacing: mm between the voxels of each axis, or None for voxels.
    """
    a, b = (torch.from_numpy(np.ascontiguousarray(mask))[None, None].float() for mask in (prediction, truth))
    both, found, true = int((prediction & truth).sum()), int(prediction.sum()), int(truth.sum())
    neither = not found and not true
    return Score(
        dice=float(compute_dice(a, b, ignore_empty=False)),
        iou=float(compute_iou(a, b, ignore_empty=False)),
        precision=both / found if found else float(neither),
        recall=both / true if true else float(neither),
        hd95=_hd95(a, b, spacing) if found and true else (0.0 if neither else math.nan),
    )


def _hd95(a: torch.Tensor, b: torch.Tensor, spacing: Sequence[float] | None) -> float:
    step = None if spacing is None else [float(s) for s in spacing]
    with warnings.catch_warnings():  # of a deprecation inside MONAI
        warnings.simplefilter("ignore", FutureWarning)
        return float(compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=step))


@dataclass(frozen=True)
class Summary:
    """One metric of one label over the cases where it is defined.

    Attributes:
        mean: over cases.
        std: sample standard deviation.
        median: over cases.
        cases: how many count.
    """

    mean: float
    std: float
    median: float
    cases: int


def summarise(scores: Sequence[Score]) -> dict[str, Summary]:
    """Summaries by metric."""
    summaries = {}
    for name in METRICS:
        values = np.array([asdict(score)[name] for score in scores], float)
        values = values[np.isfinite(values)]
        if len(values):
            std = float(values.std(ddof=1)) if len(values) > 1 else 0.0
            summaries[name] = Summary(float(values.mean()), std, float(np.median(values)), len(values))
    return summaries


@dataclass(frozen=True)
class Difference:
    """The paired comparison of two models on the same cases.

    Attributes:
        mean: of the first model's value minus the second's.
        interval: 95 % bootstrap interval of that mean; patients are drawn, with all their cases. None where there is
            one patient alone, who says nothing of others.
        p_value: two-sided Wilcoxon signed-rank test of the patients' means; 1 where nothing differs.
        cases: number of pairs.
        patients: that they are of, who alone are independent of each other.
    """

    mean: float
    interval: tuple[float, float] | None
    p_value: float
    cases: int
    patients: int


def compare_paired(
    first: Sequence[float], second: Sequence[float], patients: Sequence[str] | None = None
) -> Difference:
    """Compare two models case by case.

    Args:
        first: a value a case.
        second: the other model's, of the same cases.
        patients: whose cases they are; None where each is of another.
    """
    differences = np.asarray(first, float) - np.asarray(second, float)
    _, owner = np.unique(range(len(differences)) if patients is None else patients, return_inverse=True)
    sums, counts = np.bincount(owner, differences), np.bincount(owner)
    p_value = float(stats.wilcoxon(sums / counts).pvalue) if sums.any() else 1.0
    interval = None if len(sums) < 2 else _bootstrap(sums, counts)
    return Difference(float(differences.mean()), interval, p_value, len(differences), len(sums))


def _bootstrap(sums: NDArray[Any], counts: NDArray[Any]) -> tuple[float, float]:
    """The interval of the mean over all cases, from each patient's sum and number of them."""
    drawn = np.random.default_rng(0).integers(len(sums), size=(_RESAMPLES, len(sums)))
    low, high = np.percentile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), (2.5, 97.5))
    return float(low), float(high)
