"""The schedule against closed forms, in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cdal_sdk.diffusion import Schedule, paper_betas, published_betas
from cdal_sdk.errors import ModelError

STEPS = [1, 2, 4, 8]
EXACT = {"rtol": 1e-12, "atol": 1e-14}


@pytest.fixture(params=STEPS, ids=lambda steps: f"T={steps}")
def schedule(request) -> Schedule:
    return Schedule.of(paper_betas(request.param))


@pytest.mark.parametrize("steps", STEPS)
def test_paper_betas(steps):
    low, high = 0.2, 15.0
    expected = [1 - math.exp(-low / steps - (high - low) * (2 * t - 1) / (2 * steps**2)) for t in range(1, steps + 1)]
    betas = paper_betas(steps, low, high)
    assert betas.dtype == torch.float64
    np.testing.assert_allclose(betas.numpy(), expected, **EXACT)


@pytest.mark.parametrize("steps", STEPS)
def test_published_betas_are_ratios_of_alpha_bars(steps):
    low, high = 0.1, 20.0

    def alpha_bar(s: float) -> float:
        return math.exp(2 * (-(high - low) * s**2 / 4 - low * s / 2))

    s = [i / steps * (1 - 1e-3) + 1e-3 for i in range(steps + 1)]
    expected = [1 - alpha_bar(s[i]) / alpha_bar(s[i - 1]) for i in range(1, steps + 1)]
    betas = published_betas(steps, low, high)
    assert betas.dtype == torch.float32
    np.testing.assert_allclose(betas.numpy(), expected, rtol=1e-6)


def test_both_schedules_differ_only_by_the_offset():
    paper, published = paper_betas(4), published_betas(4).double()
    assert 1e-4 < (paper - published).abs().max() < 0.01


@pytest.mark.parametrize("steps", STEPS)
def test_all_of_the_paper_s_noise_is_added_however_many_steps(steps):
    """abar_T is exp(-bmin - (bmax - bmin)/2) whatever T is."""
    np.testing.assert_allclose(Schedule.of(paper_betas(steps)).alpha_bars[-1], math.exp(-0.1 - 19.9 / 2), rtol=1e-10)


def test_alpha_bars_are_cumulative_products(schedule):
    product = 1.0
    for beta, alpha_bar in zip(schedule.betas, schedule.alpha_bars, strict=True):
        product *= 1 - beta
        np.testing.assert_allclose(alpha_bar, product, **EXACT)


def test_posterior_is_bayes_rule_on_gaussians(schedule):
    """q(x_{t-1} | x_t, x0) combines the prior N(sqrt(abar_{t-1}) x0, 1 - abar_{t-1}) with what x_t tells.

    Read as a likelihood of x_{t-1}, x_t says N(x_t / sqrt(alpha_t), beta_t / alpha_t). Precisions add.
    """
    for t in range(1, schedule.steps):
        alpha, before = 1 - schedule.betas[t], schedule.alpha_bars[t - 1]
        prior_precision, seen_precision = 1 / (1 - before), alpha / schedule.betas[t]
        variance = 1 / (prior_precision + seen_precision)
        np.testing.assert_allclose(schedule.posterior_std[t] ** 2, variance, **EXACT)
        np.testing.assert_allclose(schedule.posterior_x0[t], variance * prior_precision * math.sqrt(before), **EXACT)
        np.testing.assert_allclose(schedule.posterior_xt[t], variance * seen_precision / math.sqrt(alpha), **EXACT)


def test_the_last_step_returns_the_clean_label(schedule):
    np.testing.assert_allclose(schedule.posterior_x0[0], 1, **EXACT)
    assert schedule.posterior_xt[0] == 0
    assert schedule.posterior_std[0] == 0


def test_forward_steps_compose_to_diffuse(schedule):
    """Follow the weight of x0 and the variance of the noise through t single steps."""
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    weight, variance = one, zero
    for t in range(schedule.steps):
        weight = schedule.forward_step(weight, t, zero)
        variance = schedule.forward_step(variance.sqrt(), t, zero) ** 2 + schedule.forward_step(zero, t, one) ** 2
        torch.testing.assert_close(schedule.diffuse(one, t, zero), weight)
        torch.testing.assert_close(schedule.diffuse(zero, t, one) ** 2, variance)


def test_posterior_undoes_the_forward_process(schedule):
    """Drawing x_t from q(x_t | x0), then x_{t-1} from the posterior, must give q(x_{t-1} | x0)."""
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for t in range(1, schedule.steps):
        weight = schedule.posterior(one, schedule.diffuse(one, t, zero), t)
        torch.testing.assert_close(weight, schedule.diffuse(one, t - 1, zero))
        from_x_t = schedule.posterior(zero, schedule.diffuse(zero, t, one), t) ** 2
        from_draw = schedule.posterior(zero, zero, t, one) ** 2
        torch.testing.assert_close(from_x_t + from_draw, schedule.diffuse(zero, t - 1, one) ** 2)


def test_a_step_each_equals_one_step_for_all():
    schedule = Schedule.of(paper_betas(4))
    rng = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 4, 3, 5, 5, generator=rng)
    steps = torch.tensor([3, 0, 2, 1])
    for process in (schedule.diffuse, schedule.forward_step, lambda *a: schedule.posterior(a[0], 2 * a[0], *a[1:])):
        each = process(x, steps, noise)
        assert each.dtype == torch.float32
        for i, step in enumerate(steps.tolist()):
            torch.testing.assert_close(each[i], process(x[i], step, noise[i]))


@pytest.mark.parametrize("betas", [(), (0.0,), (1.0,), (0.5, -0.1), (0.5, math.nan), (math.inf,)], ids=str)
def test_impossible_betas_are_refused(betas):
    with pytest.raises(ModelError, match="no schedule"):
        Schedule(betas)
