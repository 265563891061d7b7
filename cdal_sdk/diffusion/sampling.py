"""Everything but the image and the weights that a result depends on."""

from __future__ import annotations

from dataclasses import dataclass

from cdal_sdk.diffusion.noise import SamplerNoise, draw_noise
from cdal_sdk.diffusion.schedule import Schedule

__all__ = ["Sampling"]


@dataclass(frozen=True)
class Sampling:
    """What fixes a model's result besides the image; an engine is built for one of these.

    Attributes:
        schedule: the model's own.
        label_shape: (label, H, W) of the canvas, the extent of the noise.
        latent_size: entries of z.
        votes: K.
        seed: of all noise.
        posterior_noise: whether steps draw from the posterior or take its mean.
    """

    schedule: Schedule
    label_shape: tuple[int, int, int]
    latent_size: int
    votes: int
    seed: int
    posterior_noise: bool = True

    def noise(self) -> SamplerNoise:
        """All noise of the sampler."""
        return draw_noise(
            self.seed,
            steps=self.schedule.steps,
            votes=self.votes,
            label_shape=self.label_shape,
            latent_size=self.latent_size,
            posterior_noise=self.posterior_noise,
        )
