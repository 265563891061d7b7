"""The CUDA-graph engine: PyTorch in half precision, recorded once a shape and replayed without any Python.

Autocast keeps norms and softmax in float32; the sampler's arithmetic is float32 as its tensors are. The stored file is
the TorchScript trace of the same sampler.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdal_sdk.engines import torchscript
from cdal_sdk.engines.base import Precision, Target, VoteMaps
from cdal_sdk.engines.torchscript import TorchScriptEngine
from cdal_sdk.network import Generator

__all__ = ["BUILDER", "CudaGraphEngine"]

_SHAPES_KEPT = 4
_WARM_UP = 3  # runs before a recording, in which libraries choose algorithms and allocate


class _Recording:
    """One shape's graph with its own input and output."""

    def __init__(self, module: torch.jit.ScriptModule, example: Tensor, dtype: torch.dtype) -> None:
        self.image = example.clone()
        self.graph = torch.cuda.CUDAGraph()
        with torch.autocast("cuda", dtype=dtype, cache_enabled=False):
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(_WARM_UP):
                    module(self.image)
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.graph(self.graph):
                self.mean, self.spread = module(self.image)

    def __call__(self, images: Tensor) -> VoteMaps:
        self.image.copy_(images)
        self.graph.replay()
        return VoteMaps(self.mean.float().cpu().numpy(), self.spread.float().cpu().numpy())


class CudaGraphEngine:
    """Replays recordings of a traced sampler.

    Args:
        module: traced for CUDA.
        precision: "fp16" or "bf16".
    """

    name = "cuda-graph"
    device = "cuda"

    def __init__(self, module: torch.jit.ScriptModule, precision: Precision) -> None:
        self.precision = precision
        self._module = module
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float16
        self._recordings: OrderedDict[tuple[int, ...], _Recording] = OrderedDict()

    @torch.inference_mode()
    def run(self, images: NDArray[np.float32]) -> VoteMaps:
        """See `Engine.run`."""
        tensor = torch.from_numpy(images).cuda()
        if images.shape not in self._recordings:
            self._recordings[images.shape] = _Recording(self._module, tensor, self._dtype)
            if len(self._recordings) > _SHAPES_KEPT:
                self._recordings.popitem(last=False)
        self._recordings.move_to_end(images.shape)
        return self._recordings[images.shape](tensor)


class _CudaGraphBuilder:
    suffix = ".cuda-graph.pt"
    needs_device = True
    takes_islands = takes_free_noise = takes_probes = False

    def precisions(self, device: str) -> tuple[Precision, ...]:
        return ("fp16", "bf16") if device == "cuda" and torch.cuda.is_available() else ()

    def environment(self, device: str) -> Mapping[str, str]:
        return torchscript.BUILDER.environment(device)

    def build(self, generator: Generator, target: Target, path: Path) -> None:
        torchscript.BUILDER.build(generator, target, path)

    def load(self, path: Path, target: Target) -> CudaGraphEngine:
        scripted: TorchScriptEngine = torchscript.BUILDER.load(path, target)
        return CudaGraphEngine(scripted.module, target.precision)


BUILDER = _CudaGraphBuilder()
