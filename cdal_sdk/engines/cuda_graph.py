"""The CUDA-graph engine: PyTorch in half precision, recorded once a shape and replayed without any Python.

Autocast keeps norms and softmax in float32; the sampler's arithmetic is float32 as its tensors are. The stored file is
the TorchScript trace of the same sampler.

A recording of a new shape takes 11 to 19 s on an H100, most of it TorchScript's own compiler. So a batch goes in parts
of the largest power of two in it, the last one filled up: volumes with other numbers of slices share recordings.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cdal_sdk.engines import torchscript
from cdal_sdk.engines.base import HALF_TYPES, Precision, Target, Turns, VoteMaps, in_parts
from cdal_sdk.engines.torchscript import TorchScriptEngine
from cdal_sdk.network import Generator

__all__ = ["BUILDER", "CudaGraphEngine"]

_SHAPES_KEPT = 4
_WARM_UP = 3  # runs before a recording, in which libraries choose algorithms and allocate


class _Recording:
    """One shape's graph with its own input and output."""

    def __init__(self, module: torch.jit.ScriptModule, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.image = torch.zeros(shape, device="cuda")
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

    def __call__(self, images: NDArray[np.float32]) -> VoteMaps:
        """Maps of no more images than were recorded; what fills the batch up does not matter."""
        count = len(images)
        self.image[:count].copy_(torch.from_numpy(images))
        self.graph.replay()
        return VoteMaps(self.mean[:count].float().cpu().numpy(), self.spread[:count].float().cpu().numpy())


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
        self._dtype = HALF_TYPES[precision]
        self._recordings: OrderedDict[tuple[int, ...], _Recording] = OrderedDict()
        self._turns = Turns()

    @torch.inference_mode()
    def run(self, images: NDArray[np.float32]) -> VoteMaps:
        """See `Engine.run`."""
        most = 1 << (len(images).bit_length() - 1)
        shape = (most, *images.shape[1:])
        with self._turns:
            if shape not in self._recordings:
                self._recordings[shape] = _Recording(self._module, shape, self._dtype)
                if len(self._recordings) > _SHAPES_KEPT:
                    self._recordings.popitem(last=False)
            self._recordings.move_to_end(shape)
            return in_parts(self._recordings[shape], images, most)


class _CudaGraphBuilder:
    suffix = ".cuda-graph.pt"
    offers: tuple[Precision, ...] = ("fp16", "bf16")
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
