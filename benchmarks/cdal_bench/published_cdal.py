"""cDAL as its authors' release runs it, to be compared with.

The condition encoder runs at every step and vote, and every FIR resampling goes in general steps (insert zeros, pad,
convolve each channel as an image of its own, drop samples), in the residual blocks and in the input pyramid.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cdal_bench.runners import Part, maps_of
from cdal_sdk.diffusion import Sampling, sample
from cdal_sdk.engines import Precision, VoteMaps
from cdal_sdk.network import Generator
from cdal_sdk.network.resample import FirDownsample, FirUpsample, PyramidDownsample

__all__ = ["PublishedCdal", "make_generic"]


class PublishedCdal:
    """As the published code runs it: eager, float32, one vote after the other. Takes the generator over."""

    name = "cdal-published"
    precision: Precision = "fp32"

    def __init__(self, generator: Generator, sampling: Sampling, device: str) -> None:
        self.device = device
        make_generic(generator)
        self._generator, self._sampling = generator.to(device), sampling
        self._noise = sampling.noise()

    @torch.inference_mode()
    def run(self, images: NDArray[np.float32]) -> VoteMaps:
        """See `Engine.run`."""
        image = torch.from_numpy(images).to(self.device)
        votes = torch.stack([self._vote(image, vote) for vote in range(self._sampling.votes)])
        return maps_of(votes, images.shape[2:])

    def parts(self, images: NDArray[np.float32]) -> tuple[Part, ...]:
        """One vote."""
        image = torch.from_numpy(images).to(self.device)

        @torch.inference_mode()
        def vote() -> None:
            self._vote(image, 0)
            if self.device == "cuda":
                torch.cuda.synchronize()

        return (Part("vote", vote, self._sampling.votes),)

    def _vote(self, image: Tensor, vote: int) -> Tensor:
        height, width = image.shape[2:]

        def seen(canvas: Tensor) -> Tensor:
            """One vote's noise for every image, [..., vote, label, H, W] to [..., n, label, h, w]."""
            chosen = canvas[..., vote : vote + 1, :, :height, :width].to(self.device)
            return chosen.expand(*canvas.shape[:-4], len(image), *chosen.shape[-3:])

        def denoise(x: Tensor, step: int) -> Tensor:
            z = self._noise.z[step, vote][None].to(self.device).expand(len(image), -1)
            label: Tensor = self._generator(x, torch.full((len(image),), step, device=self.device), image, z)
            return label

        noise, posterior = self._noise, self._noise.posterior
        mine = type(noise)(seen(noise.x_T), noise.z, None if posterior is None else seen(posterior))
        return sample(denoise, mine, self._sampling.schedule)


def make_generic(module: nn.Module) -> None:
    """Replace every FIR resampling below a module by general steps."""
    for name, child in list(module.named_children()):
        if isinstance(child, FirDownsample):
            setattr(module, name, _GenericFir(up=1, down=2, padding=(1, 1), gain=1.0))
        elif isinstance(child, FirUpsample):
            setattr(module, name, _GenericFir(up=2, down=1, padding=(2, 1), gain=4.0))
        elif isinstance(child, PyramidDownsample):
            setattr(module, name, _GenericPyramid(child))
        else:
            make_generic(child)


class _GenericFir(nn.Module):
    """FIR resampling in general steps: insert zeros, pad, convolve, drop samples.

    Args:
        up: samples after insertion of zeros, an old one.
        down: of so many samples one is kept.
        padding: before and after.
        gain: of the filter.
    """

    def __init__(self, *, up: int, down: int, padding: tuple[int, int], gain: float) -> None:
        super().__init__()
        self.up, self.down, self.padding = up, down, padding
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("kernel", torch.outer(taps, taps)[None, None] * (gain / 64))

    def forward(self, x: Tensor) -> Tensor:
        """Resample every channel as an image of its own."""
        n, channels, height, width = x.shape
        x, gap = x.reshape(n * channels, 1, height, 1, width, 1), self.up - 1
        x = F.pad(x, (0, gap, 0, 0, 0, gap)).reshape(n * channels, 1, self.up * height, self.up * width)
        x = F.conv2d(F.pad(x, self.padding * 2), self.kernel)  # type: ignore[arg-type]
        x = x[:, :, :: self.down, :: self.down]
        return x.reshape(n, channels, *x.shape[2:])


class _GenericPyramid(nn.Module):
    """See `PyramidDownsample`."""

    def __init__(self, pyramid: PyramidDownsample) -> None:
        super().__init__()
        self.blur, self.conv = _GenericFir(up=1, down=1, padding=(2, 2), gain=1.0), pyramid.conv

    def forward(self, x: Tensor) -> Tensor:
        """Blur, then convolve with a stride."""
        result: Tensor = self.conv(self.blur(x))
        return result
