"""The reference engine: PyTorch, eager, float32."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from cdal_sdk.diffusion import Sampling
from cdal_sdk.engines.base import Precision, VoteMaps, exact_float32, fuse
from cdal_sdk.network import Generator

__all__ = ["TorchEngine"]


class TorchEngine:
    """Runs the fused sampler as it is. Every other engine is compared with this one."""

    name = "torch"
    precision: Precision = "fp32"

    def __init__(self, generator: Generator, sampling: Sampling, device: str) -> None:
        self.device = device
        self._sampler = fuse(generator, sampling).to(device)

    @torch.inference_mode()
    def run(self, images: NDArray[np.float32]) -> VoteMaps:
        """See `Engine.run`."""
        with exact_float32():
            mean, spread = self._sampler(torch.from_numpy(images).to(self.device))
        return VoteMaps(mean.cpu().numpy(), spread.cpu().numpy())
