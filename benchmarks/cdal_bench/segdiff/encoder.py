"""The image encoder: residual-in-residual dense blocks at full resolution (ESRGAN, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ImageEncoder"]

_RESIDUAL_SCALE = 0.2
_SLOPE = 0.2


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees the outputs of all before it; [n, width, h, w] to the same."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.growing = nn.ModuleList(nn.Conv2d(width + i * growth, growth, 3, padding=1) for i in range(4))
        self.fuse = nn.Conv2d(width + 4 * growth, width, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        """Grow, fuse, add a fifth of it."""
        seen = [h]
        for conv in self.growing:
            seen.append(F.leaky_relu(conv(torch.cat(seen, dim=1)), _SLOPE))
        update: Tensor = self.fuse(torch.cat(seen, dim=1))
        return h + _RESIDUAL_SCALE * update


class ResidualDenseBlock(nn.Module):
    """Three dense blocks with a residual around them."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(DenseBlock(width, growth) for _ in range(3)))

    def forward(self, h: Tensor) -> Tensor:
        """Add a fifth of what the blocks make of h."""
        update: Tensor = self.blocks(h)
        return h + _RESIDUAL_SCALE * update


class ImageEncoder(nn.Module):
    """Image [n, image_channels, h, w] to features [n, out_channels, h, w]."""

    def __init__(self, image_channels: int, out_channels: int, blocks: int, width: int, growth: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(image_channels, width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualDenseBlock(width, growth) for _ in range(blocks)))
        self.trunk = nn.Conv2d(width, width, 3, padding=1)
        self.hidden = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, out_channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Encode."""
        first = self.first(image)
        h = first + self.trunk(self.blocks(first))
        result: Tensor = self.last(F.leaky_relu(self.hidden(h), _SLOPE))
        return result
