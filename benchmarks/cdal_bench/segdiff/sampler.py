"""SegDiff's samplers: all the ancestral steps, as published, and DDIM with few.

Both are functions over any denoiser, with the noise given, so that they can be held against closed forms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from cdal_bench.segdiff.config import SegDiffConfig
from cdal_sdk.diffusion import Schedule
from cdal_sdk.errors import UsageError

__all__ = [
    "Denoiser",
    "NoisePredictor",
    "ancestral",
    "ancestral_step",
    "ddim",
    "ddim_steps",
    "predictor",
    "sample",
    "vote_noise",
]

NoisePredictor = Callable[[Tensor, int], Tensor]
"""(x_t [n, label, h, w], step) -> eps_hat of the same shape."""

NoiseSource = Callable[[], Tensor]
"""The next standard normal draw, shaped as x_t."""


class Denoiser(Protocol):
    """What is sampled from: the network, or the same compiled. See `SegDiff` for shapes."""

    config: SegDiffConfig
    schedule: Schedule

    def encode(self, image: Tensor, /) -> Tensor:
        """Features of the image."""
        ...

    def denoise(self, x_t: Tensor, step: Tensor, condition: Tensor, /) -> Tensor:
        """The noise in a label."""
        ...


def clean_label(x_t: Tensor, eps: Tensor, alpha_bar: float) -> Tensor:
    """x0_hat = (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t), clipped to the label's range [-1, 1]."""
    return ((x_t - math.sqrt(1 - alpha_bar) * eps) / math.sqrt(alpha_bar)).clamp(-1, 1)


def ancestral_step(predict: NoisePredictor, x: Tensor, step: int, schedule: Schedule, noise: NoiseSource) -> Tensor:
    """One step of DDPM (Algorithm 2) with clipping; the last adds no noise."""
    x0 = clean_label(x, predict(x, step), float(schedule.alpha_bars[step]))
    return schedule.posterior(x0, x, step, noise() if step else None)


def ancestral(predict: NoisePredictor, x: Tensor, schedule: Schedule, noise: NoiseSource) -> Tensor:
    """All T steps from x_T to x_0, shaped as x."""
    for step in reversed(range(schedule.steps)):
        x = ancestral_step(predict, x, step, schedule, noise)
    return x


def ddim_steps(steps: int, count: int) -> tuple[int, ...]:
    """`count` of the steps 0 to `steps` - 1, evenly spread from the first to the last, in the order of sampling.

    Raises:
        UsageError: if there are not so many.
    """
    if not 1 <= count <= steps:
        raise UsageError(f"{count} steps cannot be chosen of {steps}", remedy=f"give 1 to {steps}")
    chosen = np.linspace(0, steps - 1, count).round().astype(int) if count > 1 else np.array([steps - 1])
    return tuple(int(step) for step in chosen[::-1])


def ddim(
    predict: NoisePredictor,
    x: Tensor,
    schedule: Schedule,
    chosen: Sequence[int],
    noise: NoiseSource | None = None,
    eta: float = 0.0,
) -> Tensor:
    """DDIM (eqs. 12 and 16) over some of the steps, with clipping.

    Args:
        predict: the noise predictor.
        x: x_T.
        schedule: of all T steps.
        chosen: steps in falling order, the first being where x stands.
        noise: needed where eta is not 0.
        eta: 0 is deterministic; 1 with all steps is `ancestral`.
    """
    for step, following in zip(chosen, [*chosen[1:], None], strict=True):
        alpha_bar = float(schedule.alpha_bars[step])
        x0 = clean_label(x, predict(x, step), alpha_bar)
        if following is None:
            return x0
        before = float(schedule.alpha_bars[following])
        eps = (x - math.sqrt(alpha_bar) * x0) / math.sqrt(1 - alpha_bar)  # of the clipped label
        sigma = eta * math.sqrt((1 - before) / (1 - alpha_bar) * (1 - alpha_bar / before))
        x = math.sqrt(before) * x0 + math.sqrt(1 - before - sigma**2) * eps
        if eta and noise is not None:
            x = x + sigma * noise()
    return x


def vote_noise(seed: int, vote: int, like: tuple[int, ...]) -> NoiseSource:
    """Draws of shape [1, ...] that depend on seed and vote alone: the same for every image, whatever its batch."""
    rng = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, vote]).generate_state(1)[0]))
    return lambda: torch.randn(1, *like, generator=rng)


def predictor(model: Denoiser, image: Tensor, condition: Tensor | None) -> NoisePredictor:
    """The model on images, for x_t in float32 whatever the model's precision.

    Args:
        model: in eval mode.
        image: [n, channel, h, w] in the model's precision.
        condition: the encoded image; None encodes it at every step, as published.
    """

    def predict(x: Tensor, step: int) -> Tensor:
        encoded = model.encode(image) if condition is None else condition
        return model.denoise(x.to(encoded.dtype), torch.tensor([step], device=x.device), encoded).float()

    return predict


@torch.inference_mode()
def sample(
    model: Denoiser,
    image: Tensor,
    *,
    votes: int = 9,
    seed: int = 0,
    few_steps: int | None = None,
    hoist_encoder: bool = True,
    votes_at_once: int = 1,
) -> Tensor:
    """Segment images.

    Args:
        model: in eval mode.
        image: [n, channel, h, w] in the model's precision.
        votes: instances, 9 as published.
        seed: of all noise.
        few_steps: of DDIM; None takes all T ancestral steps.
        hoist_encoder: encode an image once, instead of at every step of every vote as published; the result is the
            same.
        votes_at_once: votes in one batch.

    Returns:
        x_0 of each vote, float32 [vote, n, label, h, w] on the label scale [-1, 1].
    """
    n, shape = len(image), (model.config.label_channels, *image.shape[2:])
    condition = model.encode(image) if hoist_encoder else None

    def some(first: int, count: int) -> Tensor:
        sources = [vote_noise(seed, vote, shape) for vote in range(first, first + count)]

        def noise() -> Tensor:
            return torch.cat([source().to(image.device).expand(n, *shape) for source in sources])

        encoded = None if condition is None else condition.repeat(count, 1, 1, 1)
        predict = predictor(model, image.repeat(count, 1, 1, 1), encoded)
        if few_steps is None:
            x = ancestral(predict, noise(), model.schedule, noise)
        else:
            x = ddim(predict, noise(), model.schedule, ddim_steps(model.config.steps, few_steps))
        return x.reshape(count, n, *shape)

    return torch.cat([some(first, min(votes_at_once, votes - first)) for first in range(0, votes, votes_at_once)])
