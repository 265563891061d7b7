"""FIR resampling with the kernel (1, 3, 3, 1), as one depthwise convolution each way."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["FirDownsample", "FirUpsample", "PyramidDownsample"]


def _fir_kernel() -> Tensor:
    """The separable kernel, shape [1, 1, 4, 4], of sum 1."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return (torch.outer(taps, taps) / 64)[None, None]


class _Fir(nn.Module):
    """Holds the kernel, which is no weight: it is neither trained nor saved."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", _fir_kernel(), persistent=False)

    def _depthwise(self, channels: int) -> Tensor:
        return self.kernel.expand(channels, 1, 4, 4)


class FirDownsample(_Fir):
    """Halves height and width: [n, c, h, w] -> [n, c, h/2, w/2]."""

    def forward(self, x: Tensor) -> Tensor:
        """Filter and decimate."""
        channels = x.shape[1]
        return F.conv2d(x, self._depthwise(channels), stride=2, padding=1, groups=channels)


class FirUpsample(_Fir):
    """Doubles height and width: [n, c, h, w] -> [n, c, 2h, 2w].

    Zero insertion, padding (2, 1) and the filter 4k are together a transposed convolution with padding 1.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Insert zeros and filter."""
        channels = x.shape[1]
        return F.conv_transpose2d(x, 4 * self._depthwise(channels), stride=2, padding=1, groups=channels)


class PyramidDownsample(_Fir):
    """Blur, then a strided 3x3 convolution: the way of the input pyramid, [n, in, h, w] -> [n, out, h/2, w/2]."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Blur to side + 1, then decimate without padding."""
        channels = x.shape[1]
        blurred = F.conv2d(x, self._depthwise(channels), padding=2, groups=channels)
        result: Tensor = self.conv(blurred)
        return result
