"""Reasons to review, and intervals that hold what they promise on cases that did not calibrate them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from cdal_sdk.confidence import Confidence, conformal_quantile, needed_scale, review_reasons
from cdal_sdk.masks import certainty, decide, measure
from cdal_sdk.study import Code, Label, Segmentation, Source, Study

LABELS = (Label("Head", 1, Code("1", "Head")), Label("Tail", 2, Code("2", "Tail")))


def result(mask: np.ndarray, spread: float = 0.02) -> Segmentation:
    planar = mask.shape[2] == 1
    study = Study("x", np.zeros((1, *mask.shape), np.float32), None if planar else np.eye(4), Source("array"))
    probability = np.stack([mask == 1, mask == 2]).astype(np.float32)
    return Segmentation(study, mask, probability, np.full_like(probability, spread), {})


def blob() -> np.ndarray:
    mask = np.zeros((20, 20, 10), np.uint8)
    mask[5:10, 5:10, 2:6] = 1
    mask[10:15, 5:10, 2:6] = 2
    return mask


def reasons(mask: np.ndarray, confidence: Confidence | None = None, spread: float = 0.02) -> list[str]:
    return review_reasons(result(mask, spread), LABELS, confidence or Confidence())


def test_nothing_unusual():
    assert reasons(blob()) == []


def test_doubts_of_the_source_are_reasons():
    doubtful = result(blob())
    doubtful = replace(doubtful, study=replace(doubtful.study, doubts=("a slice may be missing",)))
    assert review_reasons(doubtful, LABELS, Confidence()) == ["a slice may be missing"]


def test_each_reason():
    assert reasons(blob(), spread=0.3) == ["high spread: 0.3"]
    mask = blob()
    mask[mask == 2] = 0
    assert reasons(mask) == ["empty: Tail"]
    mask = blob()
    mask[5:10, 5:10, 0:2] = 1
    assert reasons(mask) == ["touches the border: Head"]
    mask = blob()
    mask[5:10, 12:15, 2:6] = 1
    assert reasons(mask) == ["several components: Head has 2"]
    mask = blob()[:, :, :1]
    mask[:19] = 1
    assert reasons(mask) == ["all over the image: Head", "empty: Tail"]
    mask[17:] = 0
    assert reasons(mask) == ["empty: Tail"]


def test_a_speck_and_a_corner_are_no_second_part():
    mask = blob()
    mask[2, 2, 8] = 1
    mask[14, 10, 6] = 2
    assert reasons(mask) == []


def test_a_picture_may_be_full_of_parts_that_touch_its_border():
    mask = np.zeros((30, 30, 1), np.uint8)
    mask[::6, ::6] = 1
    mask[3::6, 3::6] = 2
    assert reasons(mask) == []
    assert len(reasons(mask, Confidence(whole=True, components=2))) == 4 - 1  # the second label lies inside


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_a_calibrated_interval_covers_what_it_promises(coverage):
    """The votes' spread here is a third of the true error; calibration must find that out."""
    rng = np.random.default_rng(1)
    study = Study("x", np.zeros((1, 48, 48, 1), np.float32), None, Source("array"))

    def case() -> tuple[np.ndarray, np.ndarray, int]:
        grid = np.hypot(*np.meshgrid(np.arange(48) - 24, np.arange(48) - 24))
        mean = (14 - grid + gaussian_filter(rng.normal(size=grid.shape), 3) * 3).astype(np.float32) / 10
        truth = mean + rng.normal() * 0.15 > 0  # an error of the whole outline
        return mean[None, :, :, None], np.full((1, 48, 48, 1), 0.05, np.float32), int(truth.sum())

    def needed(mean: np.ndarray, spread: np.ndarray, true: int) -> float:
        return needed_scale(certainty(mean, spread, 0, "threshold", 1), true)

    scale = conformal_quantile([needed(*case()) for _ in range(200)], coverage)
    covered = []
    for _ in range(400):
        mean, spread, true = case()
        mask = decide(mean, LABELS[:1], "threshold", 1)
        size = measure(mean, spread, mask, LABELS[:1], study, "threshold", 1, scale)["Head"]
        assert size.area_px_interval is not None
        covered.append(size.area_px_interval[0] <= true <= size.area_px_interval[1])
    assert coverage - 0.06 < np.mean(covered) < coverage + 0.06
    assert scale > 2


@given(st.integers(0, 30), st.lists(st.sampled_from([-3.0, -1.0, -0.5, 0.5, 0.7, 1.0, 4.0]), max_size=25))
def test_the_needed_factor_is_the_smallest_that_holds(true, values):
    certain = np.array(values, np.float32)

    def holds(scale: float) -> bool:
        count = int((certain > 0).sum())
        return min(count, int((certain > scale).sum())) <= true <= max(count, int((certain > -scale).sum()))

    scale = needed_scale(certain, true)
    if np.isinf(scale):
        assert true > len(values)
    else:
        assert holds(scale)
        assert scale == 0 or not holds(scale * 0.999)


def test_too_few_cases_promise_nothing():
    assert conformal_quantile([1.0] * 5, 0.9) == float("inf")
    assert conformal_quantile([3.0, 1.0, 2.0], 0.75) == 3.0
