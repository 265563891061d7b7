"""The whole inference as one module: image in, vote mean and spread out.

Condition encoder once an image, the votes as one batch, the reverse process unrolled, and time, latent and noise as
constants, so that a compiler can fold whatever depends on them alone. `FusedSampler`, run eagerly, is the reference;
`FoldedSampler`, traced or exported, is every other engine.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from cdal_sdk.diffusion import SamplerNoise, Schedule, sample, vote_statistics
from cdal_sdk.engines.folded import FoldedSteering, fold
from cdal_sdk.network import Generator
from cdal_sdk.network.generator import Steering

__all__ = ["FoldedSampler", "FusedSampler"]


class FusedSampler(nn.Module):
    """Generator, schedule and noise fused.

    Args:
        generator: in eval mode.
        schedule: the model's own.
        noise: for the canvas (label, H, W); images of up to H x W see its top left corner.
        probes: whether the vote mean of each step's clean label is returned, too.
    """

    x_T: Tensor  # noqa: N815 - the method's symbol
    z: Tensor
    posterior: Tensor | None

    def __init__(self, generator: Generator, schedule: Schedule, noise: SamplerNoise, *, probes: bool = False) -> None:
        super().__init__()
        self.generator, self.schedule, self.probes = generator, schedule, probes
        self.register_buffer("x_T", noise.x_T)
        self.register_buffer("z", noise.z)
        self.register_buffer("posterior", noise.posterior)

    def forward(
        self,
        image: Tensor,
        x_T: Tensor | None = None,  # noqa: N803 - the method's symbol
        z: Tensor | None = None,
        posterior: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Image [n, channel, h, w] to mean and spread over votes, [n, label, h, w] each.

        Args:
            image: network input.
            x_T: other noise than the sampler's own, shaped as in `SamplerNoise`, for the canvas or the image's size.
            z: goes with it.
            posterior: goes with it.

        Returns:
            Mean and spread; with probes also the vote mean of each step's clean label, the step that runs first first.
        """
        noise = SamplerNoise(self.x_T, self.z, self.posterior)
        if x_T is not None and z is not None:
            noise = SamplerNoise(x_T, z, posterior)
        votes, (images, _, height, width) = len(noise.x_T), image.shape
        condition = self.generator.encode(image).repeat(votes, 1, 1, 1)  # vote-major: all images of vote 0 first
        labels: list[Tensor] = []

        def for_each_image(canvas: Tensor) -> Tensor:
            seen = canvas[:, None, :, :height, :width]
            return seen.expand(-1, images, -1, -1, -1).flatten(0, 1)

        def denoise(x: Tensor, step: int) -> Tensor:
            label = self._denoise(x, condition, step, noise.z[step], images)
            if self.probes:
                labels.append(label.reshape(votes, -1, *label.shape[1:]).mean(dim=0))
            return label

        draws = () if noise.posterior is None else tuple(noise.posterior)
        own = SamplerNoise(
            x_T=for_each_image(noise.x_T),
            z=noise.z,
            posterior=torch.stack([for_each_image(draw) for draw in draws]) if draws else None,
        )
        samples = sample(denoise, own, self.schedule)
        statistics = vote_statistics(samples.reshape(votes, -1, *samples.shape[1:]))
        return (*statistics, *labels) if self.probes else statistics

    def _denoise(self, x: Tensor, condition: Tensor, step: int, z: Tensor, images: int) -> Tensor:
        """The generator at a step, with the latents [vote, latent_size] of that step."""
        steering = self.generator.steer(torch.tensor([step], device=x.device), z)
        style = steering.style[:, None].expand(-1, images, -1).flatten(0, 1)
        return self.generator.denoise(x, condition, steering._replace(style=style))


class FoldedSampler(FusedSampler):
    """The same over a folded generator: the same results, less work.

    Args:
        generator: in eval mode; it is copied.
        schedule: the model's own.
        noise: as in `FusedSampler`.
        free_noise: whether other noise may be given; without it the latents are folded in.
        probes: as in `FusedSampler`.
    """

    def __init__(
        self,
        generator: Generator,
        schedule: Schedule,
        noise: SamplerNoise,
        *,
        free_noise: bool = False,
        probes: bool = False,
    ) -> None:
        folded = fold(generator, schedule, noise, free_noise=free_noise)
        super().__init__(folded, schedule, noise, probes=probes)
        self.free_noise = free_noise

    def _denoise(self, x: Tensor, condition: Tensor, step: int, z: Tensor, images: int) -> Tensor:
        style = self.generator.latent_mapping(z) if self.free_noise else None
        steering = FoldedSteering(step, images, style)
        return self.generator.denoise(x, condition, cast("Steering", steering))
