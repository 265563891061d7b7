"""The sampler over known denoisers, and the statistics of votes."""

from __future__ import annotations

import numpy as np
import torch

from cdal_sdk.diffusion import SamplerNoise, Schedule, draw_noise, paper_betas, sample, vote_statistics

SCHEDULE = Schedule.of(paper_betas(4))
SHAPE = (2, 6, 5)


def noise(*, posterior: bool = True) -> SamplerNoise:
    """For four steps and three votes."""
    return draw_noise(0, steps=4, votes=3, label_shape=SHAPE, latent_size=2, posterior_noise=posterior)


def test_an_oracle_s_label_comes_back_exactly():
    truth = torch.sign(torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(sample(lambda x, step: truth, noise(), SCHEDULE), truth, atol=1e-6, rtol=0)


def test_steps_run_from_the_noisiest_to_the_cleanest():
    seen = []

    def denoise(x, step):
        seen.append((step, x))
        return x

    given = noise()
    sample(denoise, given, SCHEDULE)
    assert [step for step, _ in seen] == [3, 2, 1, 0]
    assert seen[0][1] is given.x_T


def test_it_is_algorithm_2_written_out():
    given = noise()

    def denoise(x, step):
        return torch.tanh(0.3 * x + step)

    x = given.x_T.double().numpy()
    for t in (3, 2, 1, 0):
        x0 = np.tanh(0.3 * x + t)
        x = SCHEDULE.posterior_x0[t] * x0 + SCHEDULE.posterior_xt[t] * x
        if t > 0:
            x = x + SCHEDULE.posterior_std[t] * given.posterior[t].numpy()
    np.testing.assert_allclose(sample(denoise, given, SCHEDULE).numpy(), x, atol=1e-5)


def test_a_denoiser_s_states_have_the_forward_process_s_spread():
    """With the true label known, x_{t-1} on the way is distributed as q(x_{t-1} | x0)."""
    truth = torch.ones(1, 1, 100, 100)
    given = draw_noise(3, steps=4, votes=1, label_shape=(1, 100, 100), latent_size=1)
    seen = {}

    def denoise(x, step):
        seen[step] = x
        return truth

    sample(denoise, given, SCHEDULE)
    for step in (2, 1, 0):
        alpha_bar = SCHEDULE.alpha_bars[step]
        np.testing.assert_allclose(seen[step].mean(), np.sqrt(alpha_bar), atol=0.05)
        np.testing.assert_allclose(seen[step].var(), 1 - alpha_bar, atol=0.05)


def test_the_last_step_adds_no_noise():
    given = noise()
    given.posterior[0] = torch.nan
    assert sample(lambda x, step: x, given, SCHEDULE).isfinite().all()


def test_without_posterior_noise_every_step_takes_the_mean():
    silent = noise()
    silent.posterior.zero_()
    by_mean = sample(lambda x, step: x.tanh(), noise(posterior=False), SCHEDULE)
    torch.testing.assert_close(by_mean, sample(lambda x, step: x.tanh(), silent, SCHEDULE), rtol=0, atol=0)
    assert (by_mean - sample(lambda x, step: x.tanh(), noise(), SCHEDULE)).abs().max() > 0.01


def test_statistics_are_those_of_numpy():
    samples = torch.randn(5, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    mean, spread = vote_statistics(samples)
    np.testing.assert_allclose(mean, samples.numpy().mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(spread, samples.numpy().std(axis=0), atol=1e-6)


def test_a_single_vote_has_no_spread():
    samples = torch.randn(1, 2, 3, 4, 4)
    mean, spread = vote_statistics(samples)
    torch.testing.assert_close(mean, samples[0])
    assert not spread.any()
