"""The sampler: the reverse process as one function over any denoiser.

The eager model, every exported graph and the tests use this one; export unrolls it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from cdal_sdk.diffusion.noise import SamplerNoise
from cdal_sdk.diffusion.schedule import Schedule

__all__ = ["Denoiser", "VoteStatistics", "sample", "vote_statistics"]

Denoiser = Callable[[Tensor, int], Tensor]
"""(x_t [n, label, h, w], step) -> x0_hat of the same shape; latent and image are the caller's."""


class VoteStatistics(NamedTuple):
    """What an engine returns: mean and spread (standard deviation) over the votes, float32 [n, label, h, w]."""

    mean: Tensor
    spread: Tensor


def sample(denoise: Denoiser, noise: SamplerNoise, schedule: Schedule) -> Tensor:
    """Ancestral sampling from x_T to x_0 (paper, Algorithm 2, with the standard DDPM posterior).

    Args:
        denoise: predicts the clean label.
        noise: its x_T and posterior noise are shaped for the denoiser's batch.
        schedule: the model's own.

    Returns:
        x_0, shaped as x_T. The last step returns the posterior mean.
    """
    x = noise.x_T
    for step in reversed(range(schedule.steps)):
        draw = noise.posterior[step] if noise.posterior is not None and step > 0 else None
        x = schedule.posterior(denoise(x, step), x, step, draw)
    return x


def vote_statistics(samples: Tensor) -> VoteStatistics:
    """Mean and population standard deviation over votes, [vote, n, label, h, w] -> two times [n, label, h, w]."""
    mean = samples.mean(dim=0)
    return VoteStatistics(mean, (samples - mean).square().mean(dim=0).sqrt())
