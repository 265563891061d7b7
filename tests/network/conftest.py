"""Small generators whose every weight matters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from cdal_sdk.network import Generator, GeneratorConfig

TINY = GeneratorConfig(
    image_channels=1,
    label_channels=2,
    image_size=16,
    width=8,
    multipliers=(1, 2),
    blocks_per_level=1,
    attention_resolutions=(8,),
    encoder_blocks=1,
    latent_size=5,
    latent_width=8,
    latent_layers=1,
)
"""The configuration that tests vary."""


@pytest.fixture
def make() -> Callable[..., Generator]:
    """A function that makes a generator in eval mode: TINY with changes, all weights random.

    A fresh generator is nearly the identity (its last layers start at almost zero), which would hide mistakes.
    """

    def build(**changes: Any) -> Generator:
        generator = Generator(replace(TINY, **changes)).eval()
        rng = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in generator.parameters():
                scale = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.5
                parameter.copy_(scale * torch.randn(parameter.shape, generator=rng))
        return generator

    return build


@pytest.fixture
def inputs() -> Callable[..., tuple[torch.Tensor, ...]]:
    """A function that draws (x_t, time index, image, z) for a generator."""

    def draw(generator: Generator, n: int = 2, size: tuple[int, int] = (16, 16)) -> tuple[torch.Tensor, ...]:
        rng, config = torch.Generator().manual_seed(1), generator.config

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=rng)

        label, image = normal(n, config.label_channels, *size), normal(n, config.image_channels, *size)
        return label, torch.arange(n) % 2, image, normal(n, config.latent_size)

    return draw
