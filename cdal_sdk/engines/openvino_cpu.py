"""The OpenVINO engine for CPUs: the same graph as ONNX, in bfloat16 where the CPU has instructions for it.

OpenVINO is fastest for one fixed shape, and compiling for it takes a second or two. So images run one by one or in
fours, the last four filled up, and the shapes used last stay compiled. That an image always runs in one of two shapes
also keeps its result the same, whatever it is batched with.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from cdal_sdk.diffusion import SamplerNoise
from cdal_sdk.engines.base import Precision, Target, Turns, VoteMaps, cpu_threads, fold_for, noise_inputs
from cdal_sdk.engines.onnx_graph import GraphOptions, write_graph
from cdal_sdk.engines.onnx_maps import NormForm
from cdal_sdk.errors import EngineError
from cdal_sdk.network import Generator

__all__ = ["BUILDER", "OpenVinoEngine", "openvino_core", "openvino_graph", "openvino_request"]

_HINTS = {"fp32": "f32", "bf16": "bf16"}
_SHAPES_KEPT = 8
_BATCH = 4


@cache
def openvino_core() -> openvino.Core:
    """The only one of the process, kept to its end.

    The CPU plug-in of each core gives the thread another stack for signals, and takes its own away when it goes. Two
    that do not go in the reverse order of their coming leave the thread with a stack that is gone: the next signal that
    Python handles (Ctrl-C, a child that ends) would then kill the process.
    """
    return openvino.Core()


def cpu_precisions() -> tuple[Precision, ...]:
    """In what this CPU computes with floating point, fastest first.

    Raises:
        EngineError: if OpenVINO does not start.
    """
    try:
        capabilities = openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except RuntimeError as error:
        raise EngineError(f"OpenVINO does not start here ({error})", remedy="use another engine") from error
    return ("bf16", "fp32") if "BF16" in capabilities else ("fp32",)


def openvino_request(model: openvino.Model, precision: Precision) -> Any:
    """A model, compiled for the CPU and ready to infer. Its shapes should be fixed.

    Args:
        model: that states itself where it computes in eight bits.
        precision: "int8" takes the CPU's fastest for the rest.
    """
    settings = {
        "INFERENCE_PRECISION_HINT": _HINTS[_floating(precision)],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": cpu_threads(),
    }
    return openvino_core().compile_model(model, "CPU", settings).create_infer_request()


def openvino_graph(generator: Generator, target: Target) -> bytes:
    """The graph of a target as serialised ONNX, in float32: OpenVINO rounds by itself."""
    norm: NormForm = "moments" if _floating(target.precision) == "bf16" else "centred"
    options = replace(GraphOptions.of(target), precision="fp32", norm=norm)
    graph: bytes = write_graph(fold_for(generator, target), options).SerializeToString()
    return graph


def _floating(precision: Precision) -> Precision:
    """What it computes in, where a graph does not say eight bits."""
    return cpu_precisions()[0] if precision == "int8" else precision


class OpenVinoEngine:
    """Runs the ONNX graph through OpenVINO's CPU plug-in.

    Args:
        model: a file, a serialised model, or one that was read.
        precision: "bf16" or "fp32"; "int8" for a model that states it.
        noise: what a graph with free noise is given; None for any other graph.
        name: of the engine.

    Raises:
        EngineError: if OpenVINO refuses it.
    """

    device = "cpu"

    def __init__(
        self,
        model: Path | bytes | openvino.Model,
        precision: Precision,
        noise: SamplerNoise | None = None,
        *,
        name: str = "openvino",
    ) -> None:
        self.name, self.precision, self._noise = name, precision, noise
        self._requests: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self._turns = Turns()
        if isinstance(model, openvino.Model):
            self._model = model
            return
        try:
            self._model = openvino_core().read_model(model if isinstance(model, bytes) else str(model))
        except RuntimeError as error:
            where = None if isinstance(model, bytes) else model
            raise EngineError("OpenVINO does not open this", where=where, remedy="export it again") from error

    def run(self, images: NDArray[np.float32], noise: SamplerNoise | None = None) -> VoteMaps:
        """See `Engine.run`; with other noise, where some is given and the graph has it free."""
        outputs = self._run(images, noise or self._noise)
        return VoteMaps(outputs["mean"], outputs["spread"])

    def probe(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """See `ProbingEngine.probe`."""
        return self._run(images, self._noise)

    def _run(self, images: NDArray[np.float32], noise: SamplerNoise | None) -> dict[str, NDArray[np.float32]]:
        given = noise_inputs(noise, *images.shape[2:])
        if len(images) == 1:
            return self._infer({"image": images, **given})
        parts = []
        for start in range(0, len(images), _BATCH):
            chunk = images[start : start + _BATCH]
            filled = np.concatenate([chunk, np.repeat(chunk[-1:], _BATCH - len(chunk), axis=0)])
            parts.append(
                {name: values[: len(chunk)] for name, values in self._infer({"image": filled, **given}).items()}
            )
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _infer(self, inputs: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        with self._turns:
            request = self._request({name: values.shape for name, values in inputs.items()})
            request.infer(inputs)
            return {o.any_name: np.array(request.get_tensor(o).data, np.float32) for o in request.model_outputs}

    def _request(self, shapes: dict[str, tuple[int, ...]]) -> Any:
        """A compiled model of one image shape."""
        shape = shapes["image"]
        if shape not in self._requests:
            model = self._model.clone()
            model.reshape({name: list(sides) for name, sides in shapes.items()})
            self._requests[shape] = openvino_request(model, self.precision)
            if len(self._requests) > _SHAPES_KEPT:
                self._requests.popitem(last=False)
        self._requests.move_to_end(shape)
        return self._requests[shape]


class _OpenVinoBuilder:
    suffix = ".openvino.onnx"
    offers: tuple[Precision, ...] = ("bf16", "fp32")
    needs_device = False
    takes_islands = False
    takes_free_noise = takes_probes = True

    def precisions(self, device: str) -> tuple[Precision, ...]:
        return cpu_precisions() if device == "cpu" else ()

    def environment(self, device: str) -> Mapping[str, str]:
        version = openvino.get_version().split("-")[0]
        return {"openvino": version, "cpu_precisions": " ".join(self.precisions(device))}

    def build(self, generator: Generator, target: Target, path: Path) -> None:
        path.write_bytes(openvino_graph(generator, target))

    def load(self, path: Path, target: Target) -> OpenVinoEngine:
        return OpenVinoEngine(path, target.precision, target.noise)


BUILDER = _OpenVinoBuilder()
