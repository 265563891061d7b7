"""Decisions, probabilities and sizes from vote means and spreads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cdal_sdk.masks import decide, measure, probabilities
from cdal_sdk.study import Code, Label, Source, Study

HEAD = Label("Head", 3, Code("1", "Head"))
TAIL = Label("Tail", 7, Code("2", "Tail"))


def volume(grid: tuple[int, int, int], spacing: tuple[float, float, float] = (1, 1, 1)) -> Study:
    return Study("case", np.zeros((1, *grid), np.float32), np.diag([*spacing, 1.0]), Source("nifti"))


def row(*values: float) -> np.ndarray:
    """Values of one channel along the first axis, [i, 1, 1]."""
    return np.array(values, np.float32).reshape(-1, 1, 1)


def test_threshold_is_zero_and_polarity_says_which_side():
    mean = row(-1, -0.1, 0, 0.1, 1)[None]
    assert decide(mean, (HEAD,), "threshold", 1).ravel().tolist() == [0, 0, 0, 3, 3]
    assert decide(mean, (HEAD,), "threshold", -1).ravel().tolist() == [3, 3, 0, 0, 0]


def test_argmax_gives_the_labels_own_values_and_ties_go_to_the_background():
    mean = np.stack([row(0.9, -1, -1, 0.5), row(0, 0.1, -1, 0.5), row(0, 0, 0.2, 0.4)])
    mask = decide(mean, (HEAD, TAIL), "argmax", 1)
    assert mask.dtype == np.uint8
    assert mask.ravel().tolist() == [0, 3, 7, 0]


def test_probabilities_of_a_threshold_follow_its_polarity():
    mean, spread = row(-1, 0, 0.5)[None], row(0, 1, 0.5)[None]
    for polarity, expected in ((1, [0, 0.5, 0.75]), (-1, [1, 0.5, 0.25])):
        probability, deviation = probabilities(mean, spread, "threshold", polarity)
        np.testing.assert_allclose(probability.ravel(), expected)
        np.testing.assert_allclose(deviation.ravel(), [0, 0.5, 0.25])
        assert probability.dtype == deviation.dtype == np.float32


def test_probabilities_leave_the_background_out_and_stay_in_range():
    mean = np.stack([row(1), row(1.0001), row(-1.2)])
    probability, spread = probabilities(mean, np.abs(mean), "argmax", 1)
    assert probability.ravel().tolist() == [1, 0]
    assert spread.shape == (2, 1, 1, 1)


def test_volume_is_counted_on_the_source_s_voxels():
    study = volume((4, 1, 1), (2.0, 0.5, 3.0))
    mean = row(1, 1, 1, -1)[None]
    mask = decide(mean, (HEAD,), "threshold", 1)
    size = measure(mean, 0 * mean, mask, (HEAD,), study, "threshold", 1)["Head"]
    assert size.volume_ml == pytest.approx(3 * 3.0 / 1000)
    assert size.volume_ml_interval == pytest.approx((0.009, 0.009))
    assert size.area_px is None


@pytest.mark.parametrize(
    "axes", [[[2, 0, 0], [0, 0.6, -0.8], [0, 0.8, 0.6]], [[2, 0, 0], [0, 1, 0.5], [0, 0, 1]]], ids=["turned", "sheared"]
)
def test_volume_of_an_oblique_grid_is_that_of_its_boxes(axes):
    affine = np.eye(4)
    affine[:3, :3] = axes
    study = replace(volume((1, 1, 1)), affine=affine)
    size = measure(row(1)[None], row(0)[None], np.full((1, 1, 1), 3, np.uint8), (HEAD,), study, "threshold", 1)
    assert size["Head"].volume_ml == pytest.approx(0.002)


def test_a_threshold_s_interval_runs_from_surely_to_possibly():
    study = volume((5, 1, 1))
    mean, spread = row(0.9, 0.2, -0.2, -0.9, 0.3)[None], row(0.5, 0.5, 0.5, 0.5, 0)[None]
    mask = decide(mean, (HEAD,), "threshold", 1)
    size = measure(mean, spread, mask, (HEAD,), study, "threshold", 1)["Head"]
    assert size.volume_ml == pytest.approx(0.003)
    assert size.volume_ml_interval == pytest.approx((0.002, 0.004))
    turned = measure(-mean, spread, mask, (HEAD,), study, "threshold", -1)["Head"]
    assert turned == size


def test_an_argmax_s_interval_weighs_a_label_against_its_rivals():
    study = volume((3, 1, 1))
    background, head, tail = row(0.0, 0.0, 0.0), row(0.8, 0.2, -0.1), row(-1, -1, -1)
    mean = np.stack([background, head, tail])
    spread = np.full_like(mean, 0.15)
    mask = decide(mean, (HEAD, TAIL), "argmax", 1)
    sizes = measure(mean, spread, mask, (HEAD, TAIL), study, "argmax", 1)
    assert sizes["Head"].volume_ml == pytest.approx(0.002)
    assert sizes["Head"].volume_ml_interval == pytest.approx((0.001, 0.003))
    assert sizes["Tail"].volume_ml_interval == (0, 0)


@settings(max_examples=40, deadline=None)
@given(arrays(np.float32, (3, 4, 1, 2), elements=st.floats(-1, 1, width=16)), st.floats(0, 1, width=16))
def test_the_interval_always_holds_the_size(mean, spread):
    mask = decide(mean, (HEAD, TAIL), "argmax", 1)
    sizes = measure(mean, np.full_like(mean, spread), mask, (HEAD, TAIL), volume((4, 1, 2)), "argmax", 1)
    for size in sizes.values():
        assert size.volume_ml_interval[0] <= size.volume_ml <= size.volume_ml_interval[1]


def test_a_picture_has_an_area_and_in_mm2_only_where_its_spacing_is_known():
    mean = row(1, 1, -1)[None]
    mask = decide(mean, (HEAD,), "threshold", 1)
    study = Study("case", np.zeros((1, 3, 1, 1), np.float32), None, Source("image"))
    size = measure(mean, 0 * mean, mask, (HEAD,), study, "threshold", 1)["Head"]
    assert (size.area_px, size.area_px_interval, size.area_mm2, size.volume_ml) == (2, (2, 2), None, None)
    size = measure(mean, 0 * mean, mask, (HEAD,), replace(study, pixel_spacing=(0.5, 0.2)), "threshold", 1)["Head"]
    assert size.area_mm2 == pytest.approx(0.2)
