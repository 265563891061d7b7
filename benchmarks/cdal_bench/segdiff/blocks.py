"""The building blocks of the improved-DDPM U-Net. h stands for feature maps [n, channels, height, width]."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdal_sdk.network.blocks import group_count

__all__ = ["Attention", "Downsample", "ResidualBlock", "TimeEmbedding", "Upsample", "normalisation", "zeroed"]

_LONGEST_PERIOD = 10000.0


def normalisation(channels: int) -> nn.GroupNorm:
    """32 groups from 128 channels on, groups of four below."""
    return nn.GroupNorm(group_count(channels), channels)


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer with all its weights 0, so that its block starts as the identity."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class TimeEmbedding(nn.Module):
    """Time [n], on the scale of 1000 steps, to an embedding [n, 4 * width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frequencies = width // 2
        self.hidden = nn.Linear(width, 4 * width)
        self.out = nn.Linear(4 * width, 4 * width)

    def forward(self, time: Tensor) -> Tensor:
        """Cosines and sines of frequencies exp(-ln(10000) k / half), then two layers."""
        steps = torch.arange(self.frequencies, dtype=torch.float32, device=time.device)
        phases = time.float()[:, None] * torch.exp(steps * (-math.log(_LONGEST_PERIOD) / self.frequencies))[None]
        embedding = torch.cat([phases.cos(), phases.sin()], dim=1).to(self.hidden.weight.dtype)
        result: Tensor = self.out(F.silu(self.hidden(embedding)))
        return result


class ResidualBlock(nn.Module):
    """Two convolutions; the time embedding scales and shifts the second norm. Called with h and time [1 or n, wide]."""

    def __init__(self, in_channels: int, out_channels: int, time_width: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = normalisation(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = nn.Linear(time_width, 2 * out_channels)
        self.norm2 = normalisation(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        changes = in_channels != out_channels
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if changes else nn.Identity()

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        """Residual branch plus shortcut."""
        branch = self.conv1(F.silu(self.norm1(h)))
        scale, shift = self.time(F.silu(time))[:, :, None, None].chunk(2, dim=1)
        branch = self.norm2(branch) * (1 + scale) + shift
        result: Tensor = self.shortcut(h) + self.conv2(self.dropout(F.silu(branch)))
        return result


class Attention(nn.Module):
    """Multi-head self-attention over all positions of h."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = normalisation(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, h: Tensor) -> Tensor:
        """Attend and add."""
        n, channels, height, width = h.shape
        qkv = self.qkv(self.norm(h)).reshape(n, 3, self.heads, channels // self.heads, height * width)
        query, key, value = qkv.transpose(3, 4).unbind(dim=1)
        attended = F.scaled_dot_product_attention(query, key, value)  # [n, heads, positions, channels per head]
        result: Tensor = h + self.out(attended.transpose(2, 3).reshape(h.shape))
        return result


class Downsample(nn.Conv2d):
    """Halves height and width by a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2, padding=1)


class Upsample(nn.Sequential):
    """Doubles height and width: nearest neighbour, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.Upsample(scale_factor=2.0, mode="nearest"), nn.Conv2d(channels, channels, 3, padding=1))
