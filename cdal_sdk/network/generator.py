"""The generator x_theta(x_t, t, z, I) -> x0_hat: a conditional U-Net that predicts the clean label.

Hejrati et al., MICCAI 2024. An input pyramid of the noisy label is summed into the way down, the image enters once,
encoded, after the first convolution, the latent scales and shifts every norm, the time step biases every block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdal_sdk.errors import ModelError
from cdal_sdk.network.blocks import (
    NORM_EPSILON,
    EncoderBlock,
    ResidualBlock,
    SelfAttention,
    group_count,
    initialise,
)
from cdal_sdk.network.config import GeneratorConfig
from cdal_sdk.network.embedding import LatentMapping, TimeEmbedding
from cdal_sdk.network.resample import PyramidDownsample

__all__ = ["Generator", "Level", "Steering", "levels"]


class Steering(NamedTuple):
    """What steers a denoising step besides the image: it depends on neither image nor noisy label."""

    time: Tensor  # [1 or n, 4 * width]
    style: Tensor  # [n, latent_width]


class ConditionEncoder(nn.Module):
    """Image [n, image_channels, h, w] -> features [n, width, h, w], computed once an image."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.conv = nn.Conv2d(config.image_channels, config.width, 3, padding=1)
        initialise(self.conv)
        self.blocks = nn.Sequential(*(EncoderBlock(config.width, config.dropout) for _ in range(config.encoder_blocks)))

    def forward(self, image: Tensor) -> Tensor:
        """Encode the image."""
        result: Tensor = self.blocks(self.conv(image))
        return result


class Level(nn.Module):
    """Residual blocks at one resolution, on the way down (attention after each) or up (attention after the last)."""

    def __init__(self, blocks: list[ResidualBlock], attentions: list[SelfAttention]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attentions = nn.ModuleList(attentions)
        self.resample: ResidualBlock | None = None
        self.pyramid: PyramidDownsample | None = None


def levels(modules: nn.ModuleList) -> Iterator[Level]:
    """The entries of a list of levels, whose type the list does not keep."""
    return (module for module in modules if isinstance(module, Level))


class Generator(nn.Module):
    """The conditional U-Net. Height and width must be multiples of `config.divisor`."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        width, time_width, style_width = config.width, 4 * config.width, config.latent_width
        widths = [config.width * m for m in config.multipliers]
        last = len(widths) - 1

        def block(in_channels: int, out_channels: int, resample: Literal["up", "down"] | None = None) -> ResidualBlock:
            return ResidualBlock(
                in_channels, out_channels, time_width, style_width, resample=resample, dropout=config.dropout
            )

        self.time_embedding = TimeEmbedding(width)
        self.latent_mapping = LatentMapping(config)
        self.encoder = ConditionEncoder(config)
        self.label_conv = nn.Conv2d(config.label_channels, width, 3, padding=1)
        initialise(self.label_conv)

        self.down = nn.ModuleList()
        skips = [width]
        channels, pyramid_channels = width, config.label_channels
        for i, out in enumerate(widths):
            blocks = []
            for _ in range(config.blocks_per_level):
                blocks.append(block(channels, out))
                channels = out
                skips.append(channels)
            level = Level(blocks, [SelfAttention(out) for _ in blocks] if config.attends(i) else [])
            if i != last:
                level.resample = block(out, out, "down")
                level.pyramid = PyramidDownsample(pyramid_channels, out)
                initialise(level.pyramid.conv)
                pyramid_channels = out
                skips.append(out)
            self.down.append(level)

        self.middle = nn.ModuleList([block(channels, channels), SelfAttention(channels), block(channels, channels)])

        self.up = nn.ModuleList()
        for i in range(last, -1, -1):
            blocks = []
            for _ in range(config.blocks_per_level + 1):
                blocks.append(block(channels + skips.pop(), widths[i]))
                channels = widths[i]
            level = Level(blocks, [SelfAttention(channels)] if config.attends(i) else [])
            if i != 0:
                level.resample = block(channels, channels, "up")
            self.up.append(level)

        self.norm = nn.GroupNorm(group_count(channels), channels, eps=NORM_EPSILON)
        self.out = nn.Conv2d(channels, config.label_channels, 3, padding=1)
        initialise(self.out, 1e-10)

    def forward(self, x_t: Tensor, time_index: Tensor, image: Tensor, z: Tensor) -> Tensor:
        """Predict the clean label.

        Args:
            x_t: noisy label [n, label, h, w].
            time_index: [n], 0 (last, cleanest step) to T - 1.
            image: condition [n, channel, h, w].
            z: latent [n, latent_size].

        Returns:
            x0_hat [n, label, h, w] in [-1, 1].
        """
        return self.denoise(x_t, self.encode(image), self.steer(time_index, z))

    def encode(self, image: Tensor) -> Tensor:
        """Features of the condition image, [n, channel, h, w] -> [n, width, h, w]; independent of t and z."""
        divisor = self.config.divisor
        if image.shape[2] % divisor or image.shape[3] % divisor:
            raise ModelError(
                f"an image of {image.shape[2]}x{image.shape[3]} pixels does not fit the network",
                remedy=f"pad height and width to multiples of {divisor}",
            )
        result: Tensor = self.encoder(image)
        return result

    def steer(self, time_index: Tensor, z: Tensor) -> Steering:
        """Embed the time index [1 or n] and the latent [n, latent_size]."""
        return Steering(self.time_embedding(time_index), self.latent_mapping(z))

    def denoise(self, x_t: Tensor, condition: Tensor, steering: Steering) -> Tensor:
        """Predict the clean label from the noisy one, the encoded image and the steering."""
        h = self.label_conv(x_t) + condition
        pyramid = x_t
        skips = [h]
        for level in levels(self.down):
            for i, block in enumerate(level.blocks):
                h = block(h, *steering)
                if level.attentions:
                    h = level.attentions[i](h)
                skips.append(h)
            if level.resample is not None and level.pyramid is not None:
                pyramid = (level.pyramid(pyramid) + level.resample(h, *steering)) * math.sqrt(0.5)
                h = pyramid
                skips.append(h)

        first, attention, second = self.middle
        h = second(attention(first(h, *steering)), *steering)

        for level in levels(self.up):
            for block in level.blocks:
                h = block(torch.cat([h, skips.pop()], dim=1), *steering)
            for attention in level.attentions:
                h = attention(h)
            if level.resample is not None:
                h = level.resample(h, *steering)

        label: Tensor = self.out(F.silu(self.norm(h)))
        return label.tanh() if self.config.tanh else label
