"""The discriminator D(x_{t-1}, x_t, t). It exists in training only, to give the attention map.

It halves the resolution before its first convolution of any width, so that it costs a fraction of the generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdal_sdk.errors import TrainingError
from cdal_sdk.network.embedding import sinusoidal_embedding
from cdal_sdk.network.resample import FirDownsample, PyramidDownsample

__all__ = ["SMALLEST_SIDE", "Discriminator", "StepDiscriminators", "attention_map"]

_SLOPE = 0.2
_LEVELS = 4  # halvings, the stem's included
SMALLEST_SIDE = 2**_LEVELS


class _DownBlock(nn.Module):
    """Residual block with the time embedding as a bias, [b, in, h, w] -> [b, out, h/2, w/2] or the same size."""

    def __init__(self, in_channels: int, out_channels: int, time_width: int, *, down: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = nn.Linear(time_width, out_channels)
        self.resample = FirDownsample() if down else nn.Identity()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        branch = self.conv1(F.leaky_relu(h, _SLOPE)) + self.time(time)[:, :, None, None]
        branch = self.conv2(self.resample(F.leaky_relu(branch, _SLOPE)))
        result: Tensor = (branch + self.shortcut(self.resample(h))) * math.sqrt(0.5)
        return result


class _Judge(nn.Module):
    """What both kinds of discriminator share."""

    def judge_real(self, x_previous: Tensor, x_t: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [b] of real pairs, and their gradient by x_{t-1} for the R1 penalty, [b, label, h, w].

        One call for both: under mixed precision or on several devices the gradient must be taken inside the module.
        """
        x_previous = x_previous.detach().requires_grad_(True)
        logit = self(x_previous, x_t, step)
        (gradient,) = torch.autograd.grad(logit.sum(), x_previous, create_graph=True)
        return logit, gradient


class Discriminator(_Judge):
    """One time-conditioned network for all steps.

    Args:
        label_channels: channels of a label.
        image_size: side on which attention scales are defined.
        width: channels after the stem; doubled at each later halving up to eight-fold.
        time_width: width of the time embedding.
        attention_scale: side of the feature map that gives attention, for an input of side `image_size`.
    """

    def __init__(
        self, label_channels: int, image_size: int, width: int, time_width: int, attention_scale: int | None
    ) -> None:
        super().__init__()
        scales = [image_size // 2**i for i in range(1, _LEVELS + 1)]
        if attention_scale is not None and attention_scale not in scales:
            raise TrainingError(
                f"attention.scale is {attention_scale}", remedy=f"choose one of {scales} for image_size {image_size}"
            )
        self.attention_level = 0 if attention_scale is None else scales.index(attention_scale)
        self.time_width = time_width
        self.time_hidden = nn.Linear(time_width, time_width)
        self.time_out = nn.Linear(time_width, time_width)
        self.stem = PyramidDownsample(2 * label_channels, width)
        self.first = _DownBlock(width, width, time_width, down=False)
        widths = [width * min(2**i, 8) for i in range(_LEVELS)]
        self.blocks = nn.ModuleList(_DownBlock(a, b, time_width, down=True) for a, b in pairwise(widths))
        self.last = nn.Conv2d(widths[-1] + 1, widths[-1], 3, padding=1)
        self.logit = nn.Linear(widths[-1], 1)

    def forward(self, x_previous: Tensor, x_t: Tensor, step: Tensor) -> Tensor:
        """Logit [b] of the pair being real: x_{t-1} and x_t [b, label, h, w], step [b]."""
        h = self.features(x_previous, x_t, step)[-1]
        h = F.leaky_relu(self.last(torch.cat([h, _minibatch_deviation(h)], dim=1)), _SLOPE)
        result: Tensor = self.logit(h.mean(dim=(2, 3))).squeeze(1)
        return result

    def features(self, x_previous: Tensor, x_t: Tensor, step: Tensor, levels: int = _LEVELS) -> list[Tensor]:
        """Feature maps of the first `levels` levels, finest (half resolution) first."""
        embedding = sinusoidal_embedding(step, self.time_width)
        time = F.leaky_relu(self.time_out(F.leaky_relu(self.time_hidden(embedding), _SLOPE)), _SLOPE)
        maps = [self.first(self.stem(torch.cat([x_previous, x_t], dim=1)), time)]
        for block in self.blocks[: levels - 1]:
            maps.append(block(maps[-1], time))
        return maps

    def attention_features(self, x_previous: Tensor, x_t: Tensor, step: Tensor) -> Tensor:
        """The feature map that gives attention, [b, c, h', w']; nothing deeper is computed."""
        return self.features(x_previous, x_t, step, self.attention_level + 1)[-1]


class StepDiscriminators(_Judge):
    """A separate discriminator for each denoising step (the paper's text; its code has one for all).

    Args:
        members: of step 0, 1, ...
    """

    def __init__(self, members: Iterable[Discriminator]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x_previous: Tensor, x_t: Tensor, step: Tensor) -> Tensor:
        """See `Discriminator.forward`; a pair's logit is that of its step's member."""
        return self._by_step(lambda member, *pair: member(*pair), x_previous, x_t, step)

    def attention_features(self, x_previous: Tensor, x_t: Tensor, step: Tensor) -> Tensor:
        """See `Discriminator.attention_features`."""
        return self._by_step(lambda member, *pair: member.attention_features(*pair), x_previous, x_t, step)

    def _by_step(self, judge: Callable[..., Tensor], x_previous: Tensor, x_t: Tensor, step: Tensor) -> Tensor:
        """Give each member the pairs of its step, and put the answers into the order of the batch."""
        places = [(step == number).nonzero().squeeze(1) for number in range(len(self.members))]
        answers = [
            judge(member, x_previous[place], x_t[place], step[place])
            for member, place in zip(self.members, places, strict=True)
            if len(place)
        ]
        return torch.cat(answers)[torch.argsort(torch.cat(places))]


def _minibatch_deviation(h: Tensor) -> Tensor:
    """Mean over all features of their standard deviation in the batch, as one channel [b, 1, h, w]."""
    deviation = torch.sqrt(h.var(dim=0, unbiased=False) + 1e-8).mean()
    return deviation.expand(len(h), 1, *h.shape[2:])


def attention_map(features: Tensor, size: tuple[int, int], *, unit: bool) -> Tensor:
    """A_D: the channel mean of features [b, c, h', w'], bilinearly up-sampled to `size`: [b, 1, h, w].

    Args:
        features: of the discriminator on real pairs.
        size: height and width of the label.
        unit: map each to [0, 1]; otherwise as it is (the paper).
    """
    mean = features.mean(dim=1, keepdim=True)
    if unit:
        low, high = mean.amin(dim=(2, 3), keepdim=True), mean.amax(dim=(2, 3), keepdim=True)
        mean = (mean - low) / (high - low).clamp_min(1e-6)
    return F.interpolate(mean, size=size, mode="bilinear", align_corners=False)
