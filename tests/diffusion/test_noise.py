"""Noise as data: a function of (seed, vote, step), normal, and never to change."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import stats

from cdal_sdk.diffusion import SamplerNoise, draw_noise
from cdal_sdk.diffusion.noise import counter_normal


def draw(seed: int = 0, *, votes: int = 3, steps: int = 2, **changes) -> SamplerNoise:
    settings = {"label_shape": (2, 8, 8), "latent_size": 5} | changes
    return draw_noise(seed, steps=steps, votes=votes, **settings)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ((0, 0, 0, 0), [2.4515905, 1.5866777, 1.6325012, -0.21525854, -0.046858992]),
        ((7, 1, 2, 2), [-1.5505987, 0.42549443, 0.2038794, 0.15289199, -0.31473002]),
        ((2**40, 29, 4, 1), [0.71419686, -1.1133937, -1.3189149, -0.99350893, 0.15524241]),
    ],
)
def test_the_numbers_never_change(key, expected):
    """Models in use were measured with these numbers; other ones would change their results."""
    np.testing.assert_allclose(counter_normal(*key, 5), expected, rtol=1e-6)


def test_shapes():
    noise = draw(votes=3, steps=4)
    assert noise.x_T.shape == (3, 2, 8, 8)
    assert noise.z.shape == (4, 3, 5)
    assert noise.posterior.shape == (4, 3, 2, 8, 8)
    assert {noise.x_T.dtype, noise.z.dtype, noise.posterior.dtype} == {torch.float32}
    assert draw(posterior_noise=False).posterior is None


def test_the_same_seed_gives_the_same_noise_whatever_torch_s_seed():
    torch.manual_seed(1)
    first = draw(5)
    torch.manual_seed(2)
    again = draw(5)
    assert torch.equal(first.x_T, again.x_T)
    assert torch.equal(first.z, again.z)
    assert torch.equal(first.posterior, again.posterior)


def test_more_votes_leave_the_first_ones_as_they_were():
    few, many = draw(votes=2), draw(votes=6)
    assert torch.equal(many.x_T[:2], few.x_T)
    assert torch.equal(many.z[:, :2], few.z)
    assert torch.equal(many.posterior[:, :2], few.posterior)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_any_count_can_be_drawn(count):
    values = counter_normal(0, 1, 2, 0, count)
    assert values.shape == (count,)
    assert np.isfinite(values).all()


def test_any_other_seed_vote_step_or_purpose_is_independent():
    """Correlations of 4,000 numbers stay within five standard errors."""
    keys = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (1, 1, 0, 0), (0, 1, 1, 0)]
    draws = [counter_normal(*key, 4000) for key in keys]
    for a, b in combinations(draws, 2):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(4000)


def test_nothing_is_drawn_twice():
    noise = draw(votes=3, steps=3)
    values = torch.cat([noise.x_T.flatten(), noise.z.flatten(), noise.posterior.flatten()]).numpy()
    assert len(np.unique(values)) > 0.999 * len(values)


@pytest.mark.parametrize("key", [(0, 0, 0, 0), (123, 4, 1, 2)], ids=str)
def test_the_numbers_are_standard_normal(key):
    values = counter_normal(*key, 20_000).astype(np.float64)
    assert stats.kstest(values, "norm").pvalue > 0.01
    assert abs(values.mean()) < 4 / np.sqrt(20_000)
    assert abs(values.var() - 1) < 4 * np.sqrt(2 / 20_000)
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 4 / np.sqrt(20_000)
    pairs = values.reshape(-1, 2)  # the two numbers that share a radius must not show it
    assert abs(np.corrcoef(pairs[:, 0] ** 2, pairs[:, 1] ** 2)[0, 1]) < 4 / np.sqrt(10_000)
