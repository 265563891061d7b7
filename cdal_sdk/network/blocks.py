"""The generator's building blocks. h stands for feature maps [n, channels, height, width]."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdal_sdk.errors import ModelError
from cdal_sdk.network.resample import FirDownsample, FirUpsample

__all__ = [
    "NORM_EPSILON",
    "AdaptiveGroupNorm",
    "EncoderBlock",
    "ResidualBlock",
    "SelfAttention",
    "group_count",
    "initialise",
]

NORM_EPSILON = 1e-6  # of every group norm

_SQRT_HALF = math.sqrt(0.5)
_NEAR_ZERO = 1e-10  # a layer that starts as (almost) nothing, so that its block starts as the identity


def group_count(channels: int) -> int:
    """Groups of a group norm over so many channels.

    Raises:
        ModelError: if the channels cannot be shared out to the groups.
    """
    groups = min(channels // 4, 32)
    if channels % groups:
        raise ModelError(
            f"{channels} channels cannot form {groups} groups of equal size",
            where="generator config",
            remedy="use a width that is a multiple of 32",
        )
    return groups


def initialise(layer: nn.Conv2d | nn.Linear, scale: float = 1.0) -> None:
    """Variance scaling over the average of fan-in and fan-out, uniform; zero bias."""
    weight = layer.weight
    receptive = weight[0, 0].numel() if weight.dim() > 2 else 1
    fan_average = (weight.shape[0] + weight.shape[1]) * receptive / 2
    bound = math.sqrt(3 * scale / fan_average)
    nn.init.uniform_(weight, -bound, bound)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _conv3x3(in_channels: int, out_channels: int, scale: float = 1.0) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    initialise(conv, scale)
    return conv


class AdaptiveGroupNorm(nn.Module):
    """Group norm whose scale and shift come from the latent's style [n, latent_width]."""

    def __init__(self, channels: int, style_width: int) -> None:
        super().__init__()
        self.groups, self.eps = group_count(channels), NORM_EPSILON
        self.style = nn.Linear(style_width, 2 * channels)
        initialise(self.style)
        nn.init.ones_(self.style.bias[:channels])

    def forward(self, h: Tensor, style: Tensor) -> Tensor:
        """Normalise h, then scale and shift it."""
        gamma, beta = self.style(style)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(beta, gamma, F.group_norm(h, self.groups, eps=self.eps))


class ResidualBlock(nn.Module):
    """The workhorse: two convolutions under adaptive norms, the time embedding as a bias, optional resampling.

    Called with h, the time embedding [1 or n, time_width] and the style [n, style_width].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        time_width: int,
        style_width: int,
        *,
        resample: Literal["up", "down"] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = AdaptiveGroupNorm(in_channels, style_width)
        self.conv1 = _conv3x3(in_channels, out_channels)
        self.time = nn.Linear(time_width, out_channels)
        initialise(self.time)
        self.norm2 = AdaptiveGroupNorm(out_channels, style_width)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = _conv3x3(out_channels, out_channels, _NEAR_ZERO)
        self.resample = {"up": FirUpsample, "down": FirDownsample}[resample]() if resample else nn.Identity()
        self.shortcut: nn.Module = nn.Identity()
        if resample or in_channels != out_channels:
            shortcut = nn.Conv2d(in_channels, out_channels, 1)
            initialise(shortcut)
            self.shortcut = shortcut

    def forward(self, h: Tensor, time: Tensor, style: Tensor) -> Tensor:
        """Residual branch plus shortcut, over sqrt(2) to keep the variance."""
        branch = self.conv1(self.resample(F.silu(self.norm1(h, style))))
        branch = branch + self.time(F.silu(time))[:, :, None, None]
        branch = self.conv2(self.dropout(F.silu(self.norm2(branch, style))))
        result: Tensor = (self.shortcut(self.resample(h)) + branch) * _SQRT_HALF
        return result


class SelfAttention(nn.Module):
    """Single-head self-attention over all positions of h."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(group_count(channels), channels, eps=NORM_EPSILON)
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)
        for projection in (self.query, self.key, self.value):
            initialise(projection, 0.1)
        initialise(self.out, _NEAR_ZERO)

    def forward(self, h: Tensor) -> Tensor:
        """Attend and add, over sqrt(2)."""
        tokens = self.norm(h).flatten(2).transpose(1, 2).unsqueeze(1)  # [n, 1 head, h * w, c]
        attended = F.scaled_dot_product_attention(self.query(tokens), self.key(tokens), self.value(tokens))
        update = self.out(attended).squeeze(1).transpose(1, 2).reshape(h.shape)
        result: Tensor = (h + update) * _SQRT_HALF
        return result


class EncoderBlock(nn.Module):
    """Residual block of the condition encoder: it knows neither time nor latent."""

    def __init__(self, channels: int, dropout: float = 0.0) -> None:
        super().__init__()
        groups = 32 if channels % 32 == 0 else group_count(channels)
        self.norm1 = nn.GroupNorm(groups, channels)
        self.conv1 = _conv3x3(channels, channels)
        self.norm2 = nn.GroupNorm(groups, channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = _conv3x3(channels, channels, _NEAR_ZERO)

    def forward(self, h: Tensor) -> Tensor:
        """Residual branch plus identity."""
        branch = self.conv1(F.silu(self.norm1(h)))
        result: Tensor = h + self.conv2(self.dropout(F.silu(self.norm2(branch))))
        return result
