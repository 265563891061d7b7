"""SegDiff's network: it predicts the noise in a label from the noisy label, the time and an encoded image."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdal_bench.segdiff.blocks import (
    Attention,
    Downsample,
    ResidualBlock,
    TimeEmbedding,
    Upsample,
    normalisation,
    zeroed,
)
from cdal_bench.segdiff.config import SegDiffConfig
from cdal_bench.segdiff.encoder import ImageEncoder
from cdal_sdk.errors import ModelError

__all__ = ["SegDiff"]

_EMBEDDED_STEPS = 1000.0  # the scale on which times are embedded, however many steps there are


class Stage(nn.Module):
    """A residual block and, at some resolutions, the attention after it."""

    def __init__(self, block: ResidualBlock, attention: Attention | None) -> None:
        super().__init__()
        self.block = block
        self.attention = attention

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        """Block, then attention."""
        h = self.block(h, time)
        return h if self.attention is None else cast("Tensor", self.attention(h))


class SegDiff(nn.Module):
    """The conditional U-Net. Height and width must be multiples of `config.divisor`."""

    def __init__(self, config: SegDiffConfig) -> None:
        super().__init__()
        self.config = config
        self.schedule = config.schedule
        width, time_width = config.width, 4 * config.width
        widths = [width * m for m in config.multipliers]
        last = len(widths) - 1

        def stage(level: int, in_channels: int, out_channels: int) -> Stage:
            block = ResidualBlock(in_channels, out_channels, time_width, config.dropout)
            return Stage(block, Attention(out_channels, config.heads) if config.attends(level) else None)

        self.time_embedding = TimeEmbedding(width)
        self.encoder = ImageEncoder(
            config.image_channels, width, config.encoder_blocks, config.encoder_width, config.encoder_growth
        )
        self.label_conv = nn.Conv2d(config.label_channels, width, 3, padding=1)

        self.down = nn.ModuleList()
        skips, channels = [width], width
        for level, out in enumerate(widths):
            for _ in range(config.blocks_per_level):
                self.down.append(stage(level, channels, out))
                channels = out
                skips.append(channels)
            if level != last:
                self.down.append(Downsample(channels))
                skips.append(channels)

        self.middle1 = ResidualBlock(channels, channels, time_width, config.dropout)
        self.middle_attention = Attention(channels, config.heads)
        self.middle2 = ResidualBlock(channels, channels, time_width, config.dropout)

        self.up = nn.ModuleList()
        for level in range(last, -1, -1):
            for _ in range(config.blocks_per_level + 1):
                self.up.append(stage(level, channels + skips.pop(), widths[level]))
                channels = widths[level]
            if level:
                self.up.append(Upsample(channels))

        self.norm = normalisation(channels)
        self.out = zeroed(nn.Conv2d(channels, config.label_channels, 3, padding=1))

    def forward(self, x_t: Tensor, step: Tensor, image: Tensor) -> Tensor:
        """Predict the noise, with the encoder, as the published code does at every step.

        Args:
            x_t: noisy label [n, label, h, w].
            step: [1 or n], 0 (cleanest) to T - 1.
            image: condition [n, channel, h, w].

        Returns:
            eps_hat [n, label, h, w].
        """
        return self.denoise(x_t, step, self.encode(image))

    def encode(self, image: Tensor) -> Tensor:
        """Features of the image [n, width, h, w]; they depend on neither time nor label.

        Raises:
            ModelError: if the image's size does not fit.
        """
        divisor = self.config.divisor
        if image.shape[2] % divisor or image.shape[3] % divisor:
            raise ModelError(
                f"an image of {image.shape[2]}x{image.shape[3]} pixels does not fit the network",
                remedy=f"pad height and width to multiples of {divisor}",
            )
        result: Tensor = self.encoder(image)
        return result

    def denoise(self, x_t: Tensor, step: Tensor, condition: Tensor) -> Tensor:
        """Predict the noise from the noisy label, the step and the encoded image."""
        time = self.time_embedding(step.float() * (_EMBEDDED_STEPS / self.config.steps))
        h = self.label_conv(x_t) + condition
        skips = [h]
        for module in self.down:
            h = module(h, time) if isinstance(module, Stage) else module(h)
            skips.append(h)
        h = self.middle2(self.middle_attention(self.middle1(h, time)), time)
        for module in self.up:
            h = module(torch.cat([h, skips.pop()], dim=1), time) if isinstance(module, Stage) else module(h)
        result: Tensor = self.out(F.silu(self.norm(h)))
        return result
