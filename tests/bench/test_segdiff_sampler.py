"""SegDiff's schedule and samplers against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cdal_bench.segdiff import SegDiff, SegDiffConfig, ancestral, ddim, ddim_steps, linear_betas, sample
from cdal_sdk.diffusion import Schedule
from cdal_sdk.errors import ModelError, UsageError
from tests.bench.test_segdiff_network import TINY
from tests.tiny_model import enliven

SCHEDULE = SegDiffConfig().schedule


def draws(shape: tuple[int, ...], seed: int = 0):
    rng = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(shape, generator=rng, dtype=torch.float64)


def knowing(x0: Tensor, schedule: Schedule = SCHEDULE):
    """The predictor of somebody who knows the clean label."""

    def predict(x: Tensor, step: int) -> Tensor:
        alpha_bar = schedule.alpha_bars[step]
        return (x - math.sqrt(alpha_bar) * x0) / math.sqrt(1 - alpha_bar)

    return predict


def gaussian(std: float, schedule: Schedule = SCHEDULE):
    """The best predictor where labels are N(0, std^2): E[eps | x_t] is linear in x_t."""

    def predict(x: Tensor, step: int) -> Tensor:
        alpha_bar = schedule.alpha_bars[step]
        return x * math.sqrt(1 - alpha_bar) / (alpha_bar * std**2 + 1 - alpha_bar)

    return predict


def test_linear_betas():
    np.testing.assert_allclose(linear_betas(1000), np.linspace(1e-4, 0.02, 1000))
    np.testing.assert_allclose(linear_betas(100), np.linspace(1e-3, 0.2, 100))
    assert SCHEDULE.steps == 100
    np.testing.assert_allclose(SCHEDULE.alpha_bars[-1], np.prod(1 - np.linspace(1e-3, 0.2, 100)))
    with pytest.raises(ModelError, match="too few"):
        linear_betas(20)


@pytest.mark.parametrize("count", [1, 2, 10, 100])
def test_who_knows_the_label_finds_it(count):
    x0 = torch.tensor([-1.0, -0.3, 0.0, 1.0], dtype=torch.float64)
    noise = draws((4,))
    torch.testing.assert_close(ancestral(knowing(x0), noise(), SCHEDULE, noise), x0)
    torch.testing.assert_close(ddim(knowing(x0), noise(), SCHEDULE, ddim_steps(100, count)), x0)


def test_ancestral_sampling_has_the_variance_of_its_recursion():
    """For Gaussian labels every step is linear: Var <- gain^2 Var + posterior variance."""
    std, variance = 0.05, 1.0
    for step in reversed(range(100)):
        alpha_bar = SCHEDULE.alpha_bars[step]
        shrink = math.sqrt(alpha_bar) * std**2 / (alpha_bar * std**2 + 1 - alpha_bar)  # E[x0 | x_t] / x_t
        gain = SCHEDULE.posterior_x0[step] * shrink + SCHEDULE.posterior_xt[step]
        variance = gain**2 * variance + SCHEDULE.posterior_std[step] ** 2
    noise = draws((200_000,))
    drawn = ancestral(gaussian(std), noise(), SCHEDULE, noise)
    assert float(drawn.mean()) == pytest.approx(0, abs=4 * std / 200_000**0.5)
    assert float(drawn.var()) == pytest.approx(variance, rel=0.02)
    assert math.sqrt(variance) == pytest.approx(std, rel=0.35), "a hundred steps come near the labels' spread"


@pytest.mark.parametrize("count", [5, 100])
def test_ddim_is_the_product_of_its_linear_steps(count):
    std, factor = 0.05, 1.0
    chosen = ddim_steps(100, count)
    for step, following in zip(chosen, [*chosen[1:], None], strict=True):
        alpha_bar = SCHEDULE.alpha_bars[step]
        before = 1.0 if following is None else SCHEDULE.alpha_bars[following]
        total = alpha_bar * std**2 + 1 - alpha_bar
        x0, eps = math.sqrt(alpha_bar) * std**2 / total, math.sqrt(1 - alpha_bar) / total
        factor *= math.sqrt(before) * x0 + math.sqrt(1 - before) * eps
    x = draws((1000,))().clamp(-3, 3)
    torch.testing.assert_close(ddim(gaussian(std), x, SCHEDULE, chosen), factor * x)


def test_ddim_with_all_noise_and_all_steps_is_ancestral_sampling():
    def predict(x: Tensor, step: int) -> Tensor:
        return torch.sin(3 * x) + step / 100  # anything; clipping is at work, too

    x = draws((500,), 1)()
    slow = ancestral(predict, x, SCHEDULE, draws((500,)))
    fast = ddim(predict, x, SCHEDULE, ddim_steps(100, 100), draws((500,)), eta=1.0)
    torch.testing.assert_close(fast, slow)


def test_the_predicted_label_is_clipped():
    x = torch.tensor([10.0, -10.0, 0.0], dtype=torch.float64)
    one = Schedule(SCHEDULE.betas[:1])
    result = ancestral(lambda x, _: torch.zeros_like(x), x, one, draws((3,)))
    torch.testing.assert_close(result, torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64))


@pytest.mark.parametrize(
    ("count", "expected"), [(1, (99,)), (2, (99, 0)), (4, (99, 66, 33, 0)), (100, range(99, -1, -1))]
)
def test_ddim_steps(count, expected):
    assert ddim_steps(100, count) == tuple(expected)


@pytest.mark.parametrize("count", [0, 101])
def test_ddim_steps_that_do_not_exist(count):
    with pytest.raises(UsageError, match="cannot be chosen"):
        ddim_steps(100, count)


@pytest.fixture(scope="module")
def model() -> SegDiff:
    return enliven(SegDiff(TINY).eval(), 0.5)


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(5))


def test_the_encoder_runs_at_every_step_as_published_or_once(model, image):
    calls = []
    hook = model.encoder.register_forward_hook(lambda *_: calls.append(1))
    published = sample(model, image, votes=2, hoist_encoder=False)
    assert len(calls) == 2 * TINY.steps
    calls.clear()
    hoisted = sample(model, image, votes=2)
    assert len(calls) == 1
    hook.remove()
    torch.testing.assert_close(published, hoisted)
    torch.testing.assert_close(sample(model, image, votes=2, votes_at_once=5), hoisted)
    assert published.shape == (2, 2, 1, 16, 16)
    assert published.abs().max() <= 1


def test_votes_differ_do_not_depend_on_their_number_and_are_the_same_for_every_image(model, image):
    three = sample(model, image[:1].repeat(2, 1, 1, 1), votes=3, few_steps=5)
    torch.testing.assert_close(three[:, 0], three[:, 1])
    assert (three[0] - three[1]).abs().max() > 0.01
    torch.testing.assert_close(sample(model, image[:1], votes=1, few_steps=5)[0], three[0, :1])
    assert (sample(model, image[:1], votes=1, seed=1, few_steps=5)[0] - three[0, :1]).abs().max() > 0.01
