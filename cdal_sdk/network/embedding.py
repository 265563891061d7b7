"""What steers every residual block: the embedding of the time step and the mapping of the latent."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from cdal_sdk.network.config import GeneratorConfig

__all__ = ["LatentMapping", "TimeEmbedding", "sinusoidal_embedding"]


def sinusoidal_embedding(time_index: Tensor, size: int) -> Tensor:
    """Sines and cosines of the time index, [n] -> float32 [n, size], frequencies exp(-ln(10000) k / (size/2 - 1))."""
    half = size // 2
    steps = torch.arange(half, dtype=torch.float32, device=time_index.device)
    frequencies = torch.exp(steps * (-math.log(10000.0) / (half - 1)))
    phases = time_index.float()[:, None] * frequencies[None]
    return torch.cat([phases.sin(), phases.cos()], dim=1)


class TimeEmbedding(nn.Module):
    """Time index [n] -> embedding [n, 4 * width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.hidden = nn.Linear(width, 4 * width)
        self.out = nn.Linear(4 * width, 4 * width)

    def forward(self, time_index: Tensor) -> Tensor:
        """Sinusoidal embedding through a two-layer perceptron."""
        embedding = sinusoidal_embedding(time_index, self.width).to(self.hidden.weight.dtype)
        result: Tensor = self.out(nn.functional.silu(self.hidden(embedding)))
        return result


class LatentMapping(nn.Module):
    """Latent z [n, latent_size] -> style [n, latent_width], the source of all scales and shifts.

    z is divided by its root mean square, so that only its direction matters.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.latent = config.latent
        sizes = [config.latent_size] + [config.latent_width] * (config.latent_layers + 1)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, z: Tensor) -> Tensor:
        """Normalise and map."""
        z = z if self.latent else torch.zeros_like(z)
        style = z / torch.sqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)
        for layer in self.layers:
            style = nn.functional.silu(layer(style))
        return style
