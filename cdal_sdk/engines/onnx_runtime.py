"""The ONNX engine: a plain, self-contained ONNX file, run by ONNX Runtime on CPU or CUDA."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from cdal_sdk.engines.base import Precision, Target, VoteMaps
from cdal_sdk.engines.folded import FoldedSampler
from cdal_sdk.engines.onnx_graph import GraphOptions, write_graph
from cdal_sdk.engines.onnx_writer import OPSET
from cdal_sdk.errors import EngineError
from cdal_sdk.network import Generator

__all__ = ["BUILDER", "OnnxEngine"]

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxEngine:
    """Runs an ONNX file.

    Args:
        model: a file, or a serialised model.
        device: "cpu" or "cuda".
        precision: in which the graph convolves.
        outputs: names of further outputs for `probe`.

    Raises:
        EngineError: if ONNX Runtime refuses it.
    """

    name = "onnx"

    def __init__(self, model: Path | bytes, device: str, precision: Precision) -> None:
        self.device, self.precision = device, precision
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; its warnings speak of shapes that a Resize leaves open
        try:
            source = model if isinstance(model, bytes) else str(model)
            self._session = onnxruntime.InferenceSession(source, options, providers=[_PROVIDERS[device]])
        except Exception as error:
            where = None if isinstance(model, bytes) else model
            raise EngineError(
                f"ONNX Runtime does not open this ({error})", where=where, remedy="export it again"
            ) from error

    def run(self, images: NDArray[np.float32]) -> VoteMaps:
        """See `Engine.run`."""
        mean, spread = self._session.run(["mean", "spread"], {"image": images})
        return VoteMaps(mean, spread)

    def probe(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Every output of a graph that was written with probes."""
        names = [output.name for output in self._session.get_outputs()]
        return {
            n: np.asarray(v, np.float32)
            for n, v in zip(names, self._session.run(names, {"image": images}), strict=True)
        }


class _OnnxBuilder:
    suffix = ".onnx"
    needs_device = False
    takes_islands = True

    def precisions(self, device: str) -> tuple[Precision, ...]:
        if _PROVIDERS[device] not in onnxruntime.get_available_providers():
            return ()
        return ("fp32",) if device == "cpu" else ("fp16", "fp32")  # a CPU has no fast half in ONNX Runtime

    def environment(self, device: str) -> Mapping[str, str]:  # noqa: ARG002 - the file runs anywhere
        return {"opset": str(OPSET), "onnxruntime": onnxruntime.__version__}

    def build(self, generator: Generator, target: Target, path: Path) -> None:
        sampling = target.sampling
        sampler = FoldedSampler(generator, sampling.schedule, sampling.noise())
        size = target.canvas if target.fixed_size else None
        options = GraphOptions(size=size, precision=target.precision, islands=target.islands)
        path.write_bytes(write_graph(sampler, options).SerializeToString())

    def load(self, path: Path, target: Target) -> OnnxEngine:
        return OnnxEngine(path, target.device, target.precision)


BUILDER = _OnnxBuilder()
