"""Noise as data: every random number of the sampler is a function of (seed, vote, step) and nothing else.

So a result depends on the image, the model, the seed and the votes, but not on engine, device, batch or order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["SamplerNoise", "counter_normal", "draw_noise"]

_START, _LATENT, _POSTERIOR = range(3)


@dataclass(frozen=True)
class SamplerNoise:
    """All noise of one sampling, the same for every image.

    Attributes:
        x_T: where each vote starts, float32 [vote, label, h, w].
        z: latent of each step and vote, float32 [step, vote, latent_size].
        posterior: noise of each step's draw, float32 [step, vote, label, h, w]; None for the posterior mean.
            Step 0 is never used, as the last step adds no noise.
    """

    x_T: Tensor  # noqa: N815 - the method's symbol
    z: Tensor
    posterior: Tensor | None


def counter_normal(seed: int, vote: int, step: int, purpose: int, count: int) -> NDArray[np.float32]:
    """Standard normal numbers [count] from the Philox counter keyed by all other arguments.

    Raw Philox words are fixed by numpy's compatibility guarantee, its normal distribution is not; hence Box-Muller
    here, in float64.
    """
    key = np.random.SeedSequence([seed, vote, step, purpose]).generate_state(2, np.uint64)
    words = np.random.Philox(key=key).random_raw(2 * ((count + 1) // 2)).reshape(2, -1)
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53  # strictly inside (0, 1)
    radius, angle = np.sqrt(-2 * np.log(uniform[0])), 2 * np.pi * uniform[1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()[:count].astype(np.float32)


def draw_noise(
    seed: int,
    *,
    steps: int,
    votes: int,
    label_shape: tuple[int, int, int],
    latent_size: int,
    posterior_noise: bool = True,
) -> SamplerNoise:
    """Draw the noise of one sampling.

    Args:
        seed: non-negative.
        steps: T.
        votes: K; the first votes do not change when more are asked for.
        label_shape: (label, h, w) of the canvas. Smaller images see its top left corner.
        latent_size: entries of z.
        posterior_noise: whether steps draw from the posterior or take its mean.
    """

    def normal(vote: int, step: int, purpose: int, shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(counter_normal(seed, vote, step, purpose, int(np.prod(shape))).reshape(shape))

    def each(purpose: int, shape: tuple[int, ...]) -> Tensor:
        return torch.stack([torch.stack([normal(v, s, purpose, shape) for v in range(votes)]) for s in range(steps)])

    return SamplerNoise(
        x_T=torch.stack([normal(v, steps, _START, label_shape) for v in range(votes)]),
        z=each(_LATENT, (latent_size,)),
        posterior=each(_POSTERIOR, label_shape) if posterior_noise else None,
    )
