"""The reference engine: PyTorch, eager, float32."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from cdal_sdk.diffusion import SamplerNoise, Sampling
from cdal_sdk.engines.base import Precision, VoteMaps, exact_float32, fuse, named_outputs
from cdal_sdk.network import Generator

__all__ = ["TorchEngine"]


class TorchEngine:
    """Runs the fused sampler as it is. Every other engine is compared with this one."""

    name = "torch"
    precision: Precision = "fp32"

    def __init__(self, generator: Generator, sampling: Sampling, device: str, *, probes: bool = False) -> None:
        self.device = device
        self._sampler = fuse(generator, sampling, probes=probes).to(device)

    def run(self, images: NDArray[np.float32], noise: SamplerNoise | None = None) -> VoteMaps:
        """See `Engine.run`; with other noise, where some is given."""
        outputs = self._run(images, noise)
        return VoteMaps(outputs["mean"], outputs["spread"])

    def probe(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """See `ProbingEngine.probe`."""
        return self._run(images, None)

    @torch.inference_mode()
    def _run(self, images: NDArray[np.float32], noise: SamplerNoise | None) -> dict[str, NDArray[np.float32]]:
        given = () if noise is None else (noise.x_T, noise.z, noise.posterior)
        inputs = [None if values is None else values.to(self.device) for values in given]
        with exact_float32(self.device):
            outputs = self._sampler(torch.from_numpy(images).to(self.device), *inputs)
        return named_outputs(tuple(outputs))
