"""Metrics against values worked out by hand, with their conventions for empty masks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cdal_trainer.metrics import Score, compare_paired, score_mask, summarise

EMPTY = np.zeros((8, 8), bool)
LEFT, LOWER = EMPTY.copy(), EMPTY.copy()
LEFT[:, :4], LOWER[4:] = True, True


def test_shares_are_those_of_the_definition():
    wide = EMPTY.copy()
    wide[:, :6] = True
    score = score_mask(LEFT, wide, None)
    assert score.dice == pytest.approx(2 * 32 / (32 + 48))
    assert score.iou == pytest.approx(32 / 48)
    assert (score.precision, score.recall) == (1, pytest.approx(32 / 48))


def test_dice_is_twice_iou_over_one_plus_iou():
    score = score_mask(LEFT, LOWER, None)
    assert score.dice == pytest.approx(2 * score.iou / (1 + score.iou))


@pytest.mark.parametrize(("spacing", "expected"), [(None, 2.0), ((1.0, 1.0), 2.0), ((1.0, 2.5), 5.0)])
def test_distance_is_in_millimetres_where_the_spacing_is_known(spacing, expected):
    moved = np.roll(LEFT, 2, axis=1)
    assert score_mask(LEFT, moved, spacing).hd95 == pytest.approx(expected)


def test_distance_of_volumes_takes_all_three_spacings():
    one, other = np.zeros((2, 6, 6, 6), bool)
    one[2, 2, 1], other[2, 2, 4] = True, True
    assert score_mask(one, other, (1, 1, 0.5)).hd95 == pytest.approx(1.5)


def test_a_perfect_mask():
    assert score_mask(LEFT, LEFT, None) == Score(1, 1, 1, 1, 0)


def test_nothing_found_where_nothing_is():
    assert score_mask(EMPTY, EMPTY, None) == Score(1, 1, 1, 1, 0)


@pytest.mark.parametrize(("prediction", "truth"), [(EMPTY, LEFT), (LEFT, EMPTY)])
def test_one_side_empty(prediction, truth):
    score = score_mask(prediction, truth, None)
    assert (score.dice, score.iou, score.precision, score.recall) == (0, 0, 0, 0)
    assert math.isnan(score.hd95)


def test_a_summary_leaves_out_what_is_not_defined():
    scores = [Score(0.5, 0, 0, 0, 1.0), Score(0.7, 0, 0, 0, math.nan), Score(0.9, 0, 0, 0, 3.0)]
    summary = summarise(scores)
    assert summary["dice"].mean == pytest.approx(0.7)
    assert summary["dice"].std == pytest.approx(0.2)
    assert (summary["hd95"].mean, summary["hd95"].cases) == (2.0, 2)


class TestComparison:
    def test_a_clear_difference_is_significant(self):
        rng = np.random.default_rng(0)
        second = rng.uniform(0.7, 0.9, 30)
        difference = compare_paired(second + rng.uniform(0.005, 0.02, 30), second)
        assert 0.005 < difference.interval[0] < difference.mean < difference.interval[1] < 0.02
        assert difference.p_value < 1e-4
        assert difference.cases == 30

    def test_noise_is_not(self):
        rng = np.random.default_rng(1)
        second = rng.uniform(0.7, 0.9, 30)
        difference = compare_paired(second + rng.normal(0, 0.01, 30), second)
        assert difference.interval[0] < 0 < difference.interval[1]
        assert difference.p_value > 0.05

    def test_the_cases_of_a_patient_are_one_observation(self):
        """Every case written twice adds nothing, once it is said whose they are."""
        rng = np.random.default_rng(2)
        first, second = rng.uniform(0.7, 0.9, (2, 12))
        once = compare_paired(first, second)
        names = [f"p{number}" for number in range(12)]
        twice = compare_paired([*first, *first], [*second, *second], [*names, *names])
        assert (twice.cases, twice.patients) == (24, 12)
        assert twice.p_value == pytest.approx(once.p_value)
        assert twice.mean == pytest.approx(once.mean)
        assert twice.interval == pytest.approx(once.interval, abs=0.01)
        assert compare_paired([*first, *first], [*second, *second]).p_value < once.p_value

    def test_one_patient_gives_no_interval(self):
        alone = compare_paired([0.5, 0.7], [0.4, 0.5], ["p", "p"])
        assert (alone.mean, alone.interval, alone.p_value) == (pytest.approx(0.15), None, 1)
        assert compare_paired([0.5], [0.4]).interval is None

    def test_equal_models_do_not_differ(self):
        difference = compare_paired([0.5, 0.6], [0.5, 0.6])
        assert (difference.mean, difference.p_value, difference.interval) == (0, 1, (0, 0))
