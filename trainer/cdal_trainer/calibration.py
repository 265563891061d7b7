"""What a model's spread is worth, found on labelled cases that did not train it: `cdal calibrate` as a function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from math import ceil, isfinite, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from cdal_sdk.confidence import Confidence, at_border, conformal_quantile, needed_scale, parts_of
from cdal_sdk.errors import TrainingError
from cdal_sdk.masks import certainty, dice
from cdal_sdk.segmenter import Segmenter
from cdal_trainer.cases import LabelledCase
from cdal_trainer.prepared import read_image_of, read_label

__all__ = ["Calibration", "CaseFigures", "Coverage", "LabelFigures", "calibrate", "figures_of", "figures_of_all"]

_FLAGGED = 0.1  # share of unseen cases that the spread alone sends to review
_USUAL = 0.95  # what holds for this share of the true masks is expected of a result
_MOST_PARTS = 4  # a label that has more as a rule may have any number
_WIDEST = 64.0  # spreads; a factor beyond it is none
_FOLDS = 5
_Z = 1.96  # of a 95 % interval


@dataclass(frozen=True)
class LabelFigures:
    """What one label of a case contributes.

    Attributes:
        claimed: voxels in the mask.
        certain: voxels that win by more than any factor of use.
        certainty: of the voxels that neither win nor lose by so much.
        needed: factor on the spread with which the interval holds the true size.
    """

    claimed: int
    certain: int
    certainty: NDArray[np.float32]
    needed: float

    def width(self, scale: float) -> float:
        """Width of the interval at a factor, as a share of the size."""
        return float((np.abs(self.certainty) < scale).sum()) / max(1, self.claimed)


@dataclass(frozen=True)
class CaseFigures:
    """What one labelled case tells.

    Attributes:
        name: of the case.
        labels: a label each.
        mean_spread: as in reports.
        dice: mean over the labels.
        parts: the most parts that a label has in the true mask.
        at_border: whether the true mask reaches the border.
    """

    name: str
    labels: tuple[LabelFigures, ...]
    mean_spread: float
    dice: float
    parts: int
    at_border: bool

    @property
    def needed(self) -> float:
        """Factor on the spread with which the intervals of all labels hold the true sizes."""
        return max(label.needed for label in self.labels)


@dataclass(frozen=True)
class Coverage:
    """In how many of the cases all true sizes lay in their intervals, with a 95 % interval (Wilson's) for the share."""

    held: int
    cases: int
    on: str

    @property
    def share(self) -> float:
        """Of the cases."""
        return self.held / self.cases

    @property
    def interval(self) -> tuple[float, float]:
        """For the share among all such cases."""
        n, p = self.cases, self.share
        middle, half = p + _Z**2 / (2 * n), _Z * sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
        return max(0.0, (middle - half) / (1 + _Z**2 / n)), min(1.0, (middle + half) / (1 + _Z**2 / n))


@dataclass(frozen=True)
class Calibration:
    """The outcome.

    Attributes:
        confidence: for the manifest.
        chosen: the cases, in words.
        covered: what the intervals cover on cases that did not calibrate them; None where there are too few to tell.
        width: median width of an interval, as a share of the size.
        rank_correlation: Spearman's, of mean spread and Dice; None where one is constant.
        flagged_dice: mean Dice of the cases with a high spread and of the others, of all cases; None where there is no
            such case.
        trained_on: how many of the cases that calibrate trained the model, or are of patients that did; None where that
            is not known.
        checked_trained_on: the same of the further cases.
    """

    confidence: Confidence
    chosen: str
    covered: Coverage | None
    width: float
    rank_correlation: float | None
    flagged_dice: tuple[float | None, float | None]
    trained_on: int | None = None
    checked_trained_on: int | None = None

    def to_data(self) -> dict[str, Any]:
        """For JSON."""
        data = asdict(self)
        if self.covered is not None:
            data["covered"] |= {"share": self.covered.share, "interval": self.covered.interval}
        return data


def figures_of(segmenter: Segmenter, case: LabelledCase) -> CaseFigures:
    """Segment a labelled case and compare.

    Raises:
        TrainingError: naming the file that cannot be used.
    """
    manifest = segmenter.manifest
    study = read_image_of(case, manifest.plan)
    truth = read_label(case, study, {label.value for label in manifest.labels})
    mean, spread, segmentation = segmenter.votes_of(study)
    labels, parts, border = [], 0, False
    for channel, label in enumerate(manifest.labels, start=1 if manifest.decision == "argmax" else 0):
        inside = truth == label.value
        lead = certainty(mean, spread, channel, manifest.decision, manifest.polarity)
        open_ = lead[np.abs(lead) < _WIDEST]
        certain, claimed = int((lead >= _WIDEST).sum()), int((lead > 0).sum())
        labels.append(LabelFigures(claimed, certain, open_, needed_scale(open_, int(inside.sum()) - certain)))
        parts, border = max(parts, parts_of(inside)), border or at_border(inside)
    scores = [dice(segmentation.mask, truth, label.value) for label in manifest.labels]
    return CaseFigures(case.name, tuple(labels), segmentation.mean_spread, float(np.mean(scores)), parts, border)


def figures_of_all(
    segmenter: Segmenter, cases: Iterable[LabelledCase], on_case: Callable[[], None] = lambda: None
) -> list[CaseFigures]:
    """`figures_of` case after case."""
    found = []
    for case in cases:
        found.append(figures_of(segmenter, case))
        on_case()
    return found


def calibrate(
    cases: Sequence[CaseFigures],
    coverage: float = 0.9,
    *,
    chosen: str = "all",
    others: Sequence[CaseFigures] = (),
    trained_on: int | None = None,
    checked_trained_on: int | None = None,
    patient: Callable[[str], str] = lambda name: name,
) -> Calibration:
    """What the spread is worth.

    Args:
        cases: that did not train the model.
        coverage: share of unseen cases whose true sizes shall all lie in their intervals.
        chosen: the cases, in words.
        others: further cases, on which the coverage is measured; without them, it is by cross-fitting.
        trained_on: how many of `cases` trained the model after all, or are of patients that did; None where that is not
            known.
        checked_trained_on: the same of `others`.
        patient: whose a case of a name is; cross-fitting keeps a patient's cases together.

    Raises:
        TrainingError: if there are too few cases for the share.
    """
    needed = [case.needed for case in cases]
    scale = conformal_quantile(needed, coverage)
    if not isfinite(scale):
        raise _impossible(needed, coverage)
    scale = ceil(scale * 1000) / 1000
    spreads = [case.mean_spread for case in cases]
    limit = min(conformal_quantile(spreads, 1 - _FLAGGED), max(spreads))
    usual = _usual([case.parts for case in cases])
    confidence = Confidence(
        interval_scale=scale,
        coverage=coverage,
        cases=len(cases),
        high_spread=ceil(limit * 10_000) / 10_000,
        whole=_usual([int(case.at_border) for case in cases]) == 0,
        components=usual if usual <= _MOST_PARTS else 0,
    )
    if others:
        held = sum(case.needed <= scale for case in others)
        covered: Coverage | None = Coverage(held, len(others), "other cases")
    else:
        covered = _cross_fitted(needed, [patient(case.name) for case in cases], coverage)
    told = [*cases, *others]
    high = [case.dice for case in told if case.mean_spread >= confidence.high_spread]
    low = [case.dice for case in told if case.mean_spread < confidence.high_spread]
    return Calibration(
        confidence,
        chosen,
        covered,
        float(np.median([label.width(scale) for case in cases for label in case.labels])),
        _rank_correlation(told),
        (float(np.mean(high)) if high else None, float(np.mean(low)) if low else None),
        trained_on,
        checked_trained_on,
    )


def _impossible(needed: Sequence[float], coverage: float) -> TrainingError:
    """What to say where no factor will do."""
    finite = sum(map(isfinite, needed))
    what = f"{len(needed)} case(s) are too few for intervals that cover {coverage:.0%}"
    if finite < len(needed):
        what = f"no factor covers {coverage:.0%}: the votes agree on wrong sizes in {len(needed) - finite} case(s)"
    possible = int(100 * finite / (len(needed) + 1)) / 100
    return TrainingError(what, remedy=f"give more cases, or --coverage {possible:g} or less")


def _usual(values: Sequence[int]) -> int:
    """What most values do not exceed."""
    return sorted(values)[ceil(_USUAL * len(values)) - 1]


def _cross_fitted(needed: Sequence[float], patients: Sequence[str], coverage: float) -> Coverage | None:
    """Each case held against the factor that other patients' give, in five parts; None where they are too few."""
    numbers = {patient: number for number, patient in enumerate(dict.fromkeys(patients))}
    held = 0
    for fold in range(_FOLDS):
        sides: tuple[list[float], list[float]] = ([], [])
        for value, patient in zip(needed, patients, strict=True):
            sides[numbers[patient] % _FOLDS == fold].append(value)
        scale = conformal_quantile(sides[0], coverage)
        if not isfinite(scale):
            return None
        held += sum(value <= scale for value in sides[1])
    return Coverage(held, len(needed), "cross-fitting")


def _rank_correlation(cases: Iterable[CaseFigures]) -> float | None:
    pairs = [(case.mean_spread, case.dice) for case in cases]
    if any(len({pair[side] for pair in pairs}) < 2 for side in (0, 1)):
        return None
    return float(spearmanr(*zip(*pairs, strict=True)).statistic)
