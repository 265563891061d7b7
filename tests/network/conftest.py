"""Small generators whose every weight matters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from cdal_sdk.network import Generator
from tests.tiny_model import VOLUME, enliven

TINY = replace(VOLUME.network, image_channels=1, label_channels=2, multipliers=(1, 2), latent_size=5)
"""The configuration that tests vary."""


@pytest.fixture
def make() -> Callable[..., Generator]:
    """A function that makes a generator in eval mode: TINY with changes, all weights random."""

    def build(**changes: Any) -> Generator:
        return enliven(Generator(replace(TINY, **changes)).eval())

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
