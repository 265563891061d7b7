"""The deployment form of a generator: everything that noise, time and weights fix is computed once and stored.

The U-Net's walk stays that of `Generator.denoise`; its blocks are replaced by ones that hold, for each step and vote,
the finished scales, shifts and biases; where the noise stays free, scales and shifts are still computed from the
latent. On top of that come rewrites that are exact up to float32 rounding:

- the time embedding is part of the first convolution's bias, the factor 1/sqrt(2) part of weights and biases;
- norm, scale, shift and SiLU are one module, so that an exporter can choose their form;
- FIR up-sampling, the kernel (1, 3, 3, 1) after zero insertion, is nearest-neighbour doubling and a depthwise kernel
  (1, 2, 1), since (1, 3, 3, 1) = (1, 1) * (1, 2, 1); with zero padding this holds at the border, too;
- a 1x1 shortcut goes before the up-sampling, where it has a quarter of the pixels; its bias stays behind.

Every module with arithmetic of its own is one that `cdal_sdk.engines.onnx_graph` knows how to write.
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdal_sdk.diffusion import SamplerNoise, Schedule
from cdal_sdk.network import Generator
from cdal_sdk.network.blocks import AdaptiveGroupNorm, EncoderBlock, ResidualBlock, SelfAttention
from cdal_sdk.network.embedding import LatentMapping
from cdal_sdk.network.resample import FirDownsample, FirUpsample, PyramidDownsample

__all__ = ["CONVOLUTIONS", "Attention", "Doubling", "FoldedNorm", "FoldedSteering", "StepConv", "fold"]

_SQRT_HALF = math.sqrt(0.5)


class FoldedSteering(NamedTuple):
    """Takes the place of `Steering` where blocks are folded: they look their constants up.

    The style [vote, latent_width] of a step is only there where the noise is free.
    """

    step: int
    images: int
    style: Tensor | None = None


class FoldedNorm(nn.Module):
    """Group norm with scale and shift, and a SiLU where one follows.

    Args:
        groups: of the norm.
        epsilon: under the root.
        values: finished scale and shift, [1, 1, c] for all steps and votes or [step, vote, c]; or the layer that makes
            both of a style.
        activate: whether a SiLU follows.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self, groups: int, epsilon: float, values: tuple[Tensor, Tensor] | nn.Linear, *, activate: bool
    ) -> None:
        super().__init__()
        self.groups, self.epsilon, self.activate = groups, epsilon, activate
        self.style: nn.Linear | None = None
        if isinstance(values, nn.Linear):
            self.style = values
        else:
            for name, value in zip(("scale", "shift"), values, strict=True):
                self.register_buffer(name, value.detach().clone())

    @classmethod
    def of(cls, norm: nn.GroupNorm, *, activate: bool = True) -> FoldedNorm:
        """The same for every step and vote."""
        return cls(norm.num_groups, norm.eps, (norm.weight[None, None], norm.bias[None, None]), activate=activate)

    @classmethod
    def adaptive(cls, norm: AdaptiveGroupNorm, styles: Tensor | None) -> FoldedNorm:
        """With the scale and shift of each step and vote, styles [step, vote, latent_width]; or free."""
        if styles is None:
            return cls(norm.groups, norm.eps, norm.style, activate=True)
        scale, shift = norm.style(styles).chunk(2, dim=-1)
        return cls(norm.groups, norm.eps, (scale, shift), activate=True)

    @property
    def steered(self) -> bool:
        """Whether scale and shift differ from step to step and vote to vote."""
        return self.style is not None or self.scale.shape[:2] != (1, 1)

    def forward(self, h: Tensor, step: int = 0, images: int = 1, style: Tensor | None = None) -> Tensor:
        """Normalise, scale and shift h, then activate it."""
        scale, shift = (
            values[:, None].expand(-1, images, -1).flatten(0, 1)[:, :, None, None]
            if self.steered
            else values[:, :, None, None]
            for values in self._values(step, style)
        )
        h = torch.addcmul(shift, scale, F.group_norm(h, self.groups, eps=self.epsilon))
        return F.silu(h) if self.activate else h

    def _values(self, step: int, style: Tensor | None) -> tuple[Tensor, Tensor]:
        """Scale and shift [vote, c] of a step, or [1, c]."""
        if self.style is not None:
            scale, shift = self.style(style).chunk(2, dim=-1)
            return scale, shift
        step = step if self.steered else 0
        return self.scale[step], self.shift[step]


class StepConv(nn.Module):
    """A convolution whose bias [step, out] depends on the step."""

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d, bias: Tensor) -> None:
        super().__init__()
        self.padding = cast("tuple[int, int]", conv.padding)
        self.register_buffer("weight", conv.weight.detach())
        self.register_buffer("bias", bias.detach())

    def forward(self, h: Tensor, step: int) -> Tensor:
        """Convolve with the bias of a step."""
        return F.conv2d(h, self.weight, self.bias[step], padding=self.padding)


class Doubling(nn.Module):
    """FIR up-sampling [n, c, h, w] -> [n, c, 2h, 2w] as nearest-neighbour doubling and a 3x3 depthwise kernel."""

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("kernel", (torch.outer(taps, taps) / 16).expand(channels, 1, 3, 3).contiguous())

    def forward(self, h: Tensor) -> Tensor:
        """Double and smooth."""
        doubled = F.interpolate(h, scale_factor=2.0, mode="nearest")
        return F.conv2d(doubled, self.kernel, padding=1, groups=len(self.kernel))


class FoldedResidualBlock(nn.Module):
    """A residual block under finished constants; see `ResidualBlock`.

    Args:
        block: to be folded.
        times: time embedding of each step [step, time_width].
        styles: style of each step and vote [step, vote, latent_width]; None where the noise is free.
    """

    def __init__(self, block: ResidualBlock, times: Tensor, styles: Tensor | None) -> None:
        super().__init__()
        out = block.conv2.out_channels
        self.norm1 = FoldedNorm.adaptive(block.norm1, styles)
        self.norm2 = FoldedNorm.adaptive(block.norm2, styles)
        self.conv1 = StepConv(block.conv1, _bias(block.conv1) + block.time(F.silu(times)))
        self.conv2 = _scaled(block.conv2, _SQRT_HALF)
        self.up = isinstance(block.resample, FirUpsample)
        self.resample: nn.Module = Doubling(block.conv1.in_channels) if self.up else block.resample
        self.shortcut: nn.Module | None = None
        if isinstance(block.shortcut, nn.Conv2d):
            self.shortcut = _scaled(block.shortcut, _SQRT_HALF)
            self.conv2.bias = nn.Parameter(_bias(self.conv2) + _bias(self.shortcut), requires_grad=False)
            self.shortcut.bias = None
            if self.up:
                self.raise_shortcut = Doubling(out)

    def forward(self, h: Tensor, step: int, images: int, style: Tensor | None) -> Tensor:
        """Residual branch plus shortcut, over sqrt(2)."""
        branch = self.conv1(self.resample(self.norm1(h, step, images, style)), step)
        branch = self.conv2(self.norm2(branch, step, images, style))
        if self.shortcut is None:
            return cast("Tensor", h * _SQRT_HALF + branch)
        shortcut = self.raise_shortcut(self.shortcut(h)) if self.up else self.shortcut(self.resample(h))
        return cast("Tensor", shortcut + branch)


class FoldedEncoderBlock(nn.Module):
    """See `EncoderBlock`."""

    def __init__(self, block: EncoderBlock) -> None:
        super().__init__()
        self.norm1, self.norm2 = FoldedNorm.of(block.norm1), FoldedNorm.of(block.norm2)
        self.conv1, self.conv2 = block.conv1, block.conv2

    def forward(self, h: Tensor) -> Tensor:
        """Residual branch plus identity."""
        return cast("Tensor", h + self.conv2(self.norm2(self.conv1(self.norm1(h)))))


class Attention(nn.Module):
    """Self-attention with query, key and value as one product; see `SelfAttention`.

    The scale c^-1/2 is part of the query's weights, 1/sqrt(2) part of the output's.
    """

    weight_in: Tensor
    bias_in: Tensor
    weight_out: Tensor
    bias_out: Tensor

    def __init__(self, attention: SelfAttention) -> None:
        super().__init__()
        self.norm = FoldedNorm.of(attention.norm, activate=False)
        scale = attention.query.in_features**-0.5
        query, key, value, out = (getattr(attention, name) for name in ("query", "key", "value", "out"))
        self.register_buffer("weight_in", torch.cat([query.weight * scale, key.weight, value.weight]).T.contiguous())
        self.register_buffer("bias_in", torch.cat([query.bias * scale, key.bias, value.bias]))
        self.register_buffer("weight_out", out.weight.T.contiguous() * _SQRT_HALF)
        self.register_buffer("bias_out", out.bias * _SQRT_HALF)

    def forward(self, h: Tensor) -> Tensor:
        """Attend and add, over sqrt(2)."""
        tokens = self.norm(h).flatten(2).transpose(1, 2)  # [n, h * w, c]
        query, key, value = _plus(tokens @ self.weight_in, self.bias_in).chunk(3, dim=-1)
        attended = (query @ key.transpose(1, 2)).softmax(dim=-1) @ value
        update = _plus(attended @ self.weight_out, self.bias_out).transpose(1, 2).reshape(h.shape)
        result: Tensor = h * _SQRT_HALF + update
        return result


def _plus(product: Tensor, bias: Tensor) -> Tensor:
    """The sum in the product's type: a bias in float32 would make all that follows float32."""
    return product + bias.to(product.dtype)


def fold(generator: Generator, schedule: Schedule, noise: SamplerNoise, *, free_noise: bool = False) -> Generator:
    """A copy of the generator whose blocks take a `FoldedSteering`; the original stays as it is.

    Args:
        generator: in eval mode.
        schedule: the model's own.
        noise: that is folded in.
        free_noise: leave the latent out, so that scales and shifts follow from each step's style.
    """
    with torch.no_grad():
        steering = [
            generator.steer(torch.tensor([step], device=noise.z.device), noise.z[step])
            for step in range(schedule.steps)
        ]
        times = torch.cat([s.time for s in steering])
        styles = None if free_noise else torch.stack([s.style for s in steering])
        folded = copy.deepcopy(generator)
        folded.time_embedding = nn.Identity()  # type: ignore[assignment]
        if not free_noise:
            folded.latent_mapping = nn.Identity()  # type: ignore[assignment]
        _fold_children(folded, times, styles)
    return folded.eval().requires_grad_(False)


def _fold_children(module: nn.Module, times: Tensor, styles: Tensor | None) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, ResidualBlock):
            setattr(module, name, FoldedResidualBlock(child, times, styles))
        elif isinstance(child, EncoderBlock):
            setattr(module, name, FoldedEncoderBlock(child))
        elif isinstance(child, SelfAttention):
            setattr(module, name, Attention(child))
        elif isinstance(child, nn.GroupNorm):
            setattr(module, name, FoldedNorm.of(child, activate=False))
        elif not isinstance(child, LatentMapping):
            _fold_children(child, times, styles)


def _bias(conv: nn.Conv2d) -> Tensor:
    return torch.zeros_like(conv.weight[:, 0, 0, 0]) if conv.bias is None else conv.bias.detach()


def _scaled(conv: nn.Conv2d, factor: float) -> nn.Conv2d:
    """A copy whose output is multiplied by a factor."""
    scaled = copy.deepcopy(conv).requires_grad_(False)
    for values in scaled.parameters():
        values.mul_(factor)
    return scaled


CONVOLUTIONS = (nn.Conv2d, StepConv, Doubling, FirDownsample, PyramidDownsample)
"""Modules of a folded generator that convolve: half precision is about them, and they can be its float32 islands."""
