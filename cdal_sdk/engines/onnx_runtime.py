"""The ONNX engine: a plain, self-contained ONNX file, run by ONNX Runtime on CPU or CUDA."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from cdal_sdk.diffusion import SamplerNoise
from cdal_sdk.engines.base import Precision, Target, VoteMaps, cpu_threads, fold_for, noise_inputs
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
        noise: what a graph with free noise is given; None for any other graph.

    Raises:
        EngineError: if ONNX Runtime refuses it.
    """

    name = "onnx"

    def __init__(
        self, model: Path | bytes, device: str, precision: Precision, noise: SamplerNoise | None = None
    ) -> None:
        self.device, self.precision, self._noise = device, precision, noise
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; its warnings speak of shapes that a Resize leaves open
        options.intra_op_num_threads = cpu_threads()
        try:
            source = model if isinstance(model, bytes) else str(model)
            provider = (_PROVIDERS[device], {"use_tf32": "0"} if device == "cuda" else {})  # float32 is float32
            self._session = onnxruntime.InferenceSession(source, options, providers=[provider])
        except Exception as error:
            where = None if isinstance(model, bytes) else model
            raise EngineError(
                f"ONNX Runtime does not open this ({error})", where=where, remedy="export it again"
            ) from error
        if _PROVIDERS[device] not in self._session.get_providers():
            raise EngineError(f"ONNX Runtime does not reach {device} here", remedy="use --device cpu")

    def run(self, images: NDArray[np.float32], noise: SamplerNoise | None = None) -> VoteMaps:
        """See `Engine.run`; with other noise, where some is given and the graph has it free."""
        inputs = {"image": images, **noise_inputs(noise or self._noise, *images.shape[2:])}
        mean, spread = self._session.run(["mean", "spread"], inputs)
        return VoteMaps(mean, spread)

    def probe(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """See `ProbingEngine.probe`."""
        names = [output.name for output in self._session.get_outputs()]
        inputs = {"image": images, **noise_inputs(self._noise, *images.shape[2:])}
        return dict(zip(names, self._session.run(names, inputs), strict=True))


class _OnnxBuilder:
    suffix = ".onnx"
    offers: tuple[Precision, ...] = ("fp16", "fp32")
    needs_device = False
    takes_islands = takes_free_noise = takes_probes = True

    def precisions(self, device: str) -> tuple[Precision, ...]:
        if _PROVIDERS[device] not in onnxruntime.get_available_providers():
            return ()
        return ("fp32",) if device == "cpu" else ("fp16", "fp32")  # a CPU has no fast half in ONNX Runtime

    def environment(self, device: str) -> Mapping[str, str]:  # noqa: ARG002 - the file runs anywhere
        return {"opset": str(OPSET), "onnxruntime": onnxruntime.__version__}

    def build(self, generator: Generator, target: Target, path: Path) -> None:
        graph = write_graph(fold_for(generator, target), GraphOptions.of(target))
        path.write_bytes(graph.SerializeToString())

    def load(self, path: Path, target: Target) -> OnnxEngine:
        return OnnxEngine(path, target.device, target.precision, target.noise)


BUILDER = _OnnxBuilder()
