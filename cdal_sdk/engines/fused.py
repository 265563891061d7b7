"""The whole inference as one module: image in, vote mean and spread out.

Condition encoder once an image, the votes as one batch, the reverse process unrolled, and time, latent and noise as
constants, so that a compiler can fold whatever depends on them alone. Run eagerly it is the reference; traced or
exported it is every other engine.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cdal_sdk.diffusion import SamplerNoise, Schedule, VoteStatistics, sample, vote_statistics
from cdal_sdk.network import Generator

__all__ = ["FusedSampler"]


class FusedSampler(nn.Module):
    """Generator, schedule and noise fused.

    Args:
        generator: in eval mode.
        schedule: the model's own.
        noise: for the canvas (label, H, W); images of up to H x W see its top left corner.
    """

    x_T: Tensor  # noqa: N815 - the method's symbol
    z: Tensor
    posterior: Tensor | None

    def __init__(self, generator: Generator, schedule: Schedule, noise: SamplerNoise) -> None:
        super().__init__()
        self.generator = generator
        self.schedule = schedule
        self.register_buffer("x_T", noise.x_T)
        self.register_buffer("z", noise.z)
        self.register_buffer("posterior", noise.posterior)

    def forward(self, image: Tensor) -> VoteStatistics:
        """Image [n, channel, h, w] to mean and spread over votes, [n, label, h, w] each."""
        votes, (n, _, height, width) = len(self.x_T), image.shape
        condition = self.generator.encode(image).repeat(votes, 1, 1, 1)  # vote-major: all images of vote 0 first

        def for_each_image(canvas: Tensor) -> Tensor:
            seen = canvas[:, None, :, :height, :width]
            return seen.expand(-1, n, -1, -1, -1).flatten(0, 1)

        def denoise(x: Tensor, step: int) -> Tensor:
            steering = self.generator.steer(torch.tensor([step], device=x.device), self.z[step])
            style = steering.style[:, None].expand(-1, n, -1).flatten(0, 1)
            return self.generator.denoise(x, condition, steering._replace(style=style))

        posterior = self.posterior
        noise = SamplerNoise(
            x_T=for_each_image(self.x_T),
            z=self.z,
            posterior=None if posterior is None else torch.stack([for_each_image(step) for step in posterior]),
        )
        samples = sample(denoise, noise, self.schedule)
        return vote_statistics(samples.reshape(votes, -1, *samples.shape[1:]))
