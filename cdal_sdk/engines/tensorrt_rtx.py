"""The TensorRT-RTX engine: built ahead of time from the ONNX graph, on any machine; it opens only on an RTX GPU.

The network is strongly typed: what the graph says is half precision is half precision, and nothing else is. A build
also proves that TensorRT takes every operator; `describe_network` tells what became of the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorrt_rtx_bindings as trt
import torch
from numpy.typing import NDArray

from cdal_sdk.engines.base import BatchProfile, Precision, Target, Turns, VoteMaps, fold_for, in_parts
from cdal_sdk.engines.onnx_graph import GraphOptions, write_graph
from cdal_sdk.errors import EngineError
from cdal_sdk.network import Generator

__all__ = ["BUILDER", "Builder", "NetworkLayer", "TensorRtEngine", "build_plan", "describe_network"]


_ERRORS_KEPT = 5  # the cause comes first, its consequences after it


class _Errors(trt.ILogger):  # type: ignore[misc]
    """Keeps TensorRT's first errors for ours, where its own logger would print them; a process has one for all."""

    def __init__(self) -> None:
        super().__init__()
        self._errors: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        """Called by TensorRT, from any thread."""
        if severity <= trt.ILogger.Severity.ERROR and len(self._errors) < _ERRORS_KEPT:
            self._errors.append(" ".join(message.split()))

    def forget(self) -> None:
        """What comes now is about something else."""
        self._errors.clear()

    def error(self, what: str, remedy: str) -> EngineError:
        """Our error with TensorRT's words."""
        words = "; ".join(dict.fromkeys(self._errors)) or "it gives no reason"
        return EngineError(f"{what}: {words}", remedy=remedy)


_LOGGER = _Errors()


class _Network:
    """A parsed ONNX graph; holds what its parts must outlive."""

    def __init__(self, graph: bytes) -> None:
        _LOGGER.forget()
        self.builder = trt.Builder(_LOGGER)
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self.definition = self.builder.create_network(flags)
        self.parser = trt.OnnxParser(self.definition, _LOGGER)
        if not self.parser.parse(graph):
            errors = (self.parser.get_error(i) for i in range(self.parser.num_errors))
            problems = "; ".join(dict.fromkeys(f"{error.node_operator()}: {error.desc()}" for error in errors))
            raise EngineError(f"TensorRT refuses the graph: {problems}", remedy="export with --fp32 and compare")


class NetworkLayer(NamedTuple):
    """A layer of TensorRT's network definition: name as in the graph, kind, and type of its result."""

    name: str
    kind: str
    precision: str


def describe_network(graph: bytes) -> list[NetworkLayer]:
    """The layers that TensorRT makes of an ONNX graph.

    Raises:
        EngineError: if it refuses an operator.
    """
    network = _Network(graph)
    layers = (network.definition.get_layer(i) for i in range(network.definition.num_layers))
    return [NetworkLayer(layer.name, layer.type.name, layer.get_output(0).dtype.name) for layer in layers]


def build_plan(
    graph: bytes,
    batch: BatchProfile,
    smallest: tuple[int, int],
    largest: tuple[int, int],
    architectures: Sequence[str] = (),
) -> bytes:
    """Build a serialised engine; no GPU is needed.

    Args:
        graph: serialised ONNX.
        batch: images at once.
        smallest: height and width.
        largest: height and width; also what the engine is tuned for.
        architectures: of GPUs that it shall run on, such as "SM89"; every one where there are none. Building takes
            time in proportion.

    Raises:
        EngineError: if TensorRT refuses the graph or cannot build it.
    """
    network = _Network(graph)
    config = network.builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # it is on by default, and what the graph calls float32 would be less
    profile = network.builder.create_optimization_profile()
    channels = network.definition.get_input(0).shape[1]
    shapes = [(n, channels, *size) for n, size in zip(batch, (smallest, largest, largest), strict=True)]
    profile.set_shape("image", *shapes)
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = len(architectures)
    for index, name in enumerate(architectures):
        config.set_compute_capability(trt.ComputeCapability.__members__[name], index)
    plan = network.builder.build_serialized_network(network.definition, config)
    if plan is None:
        raise _LOGGER.error("TensorRT could not build the engine", "choose another engine or precision")
    return bytes(plan)


class TensorRtEngine:
    """Runs a serialised engine on tensors of PyTorch.

    Args:
        plan: from `build_plan`.
        precision: of its graph.
        most: images at once.
        name: of the engine.

    Raises:
        EngineError: if it does not open on this GPU.
    """

    device = "cuda"

    def __init__(self, plan: bytes, precision: Precision, most: int, *, name: str) -> None:
        self.name, self.precision, self._most = name, precision, most
        self._turns = Turns()
        _LOGGER.forget()
        self._runtime = trt.Runtime(_LOGGER)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        self._context: Any = None if self._engine is None else self._engine.create_execution_context()
        if self._context is None:
            raise _LOGGER.error("TensorRT does not open this engine here", "export it again, or use another one")

    def run(self, images: NDArray[np.float32]) -> VoteMaps:
        """See `Engine.run`."""
        with self._turns:
            return in_parts(self._run, images, self._most)

    def _run(self, images: NDArray[np.float32]) -> VoteMaps:
        _LOGGER.forget()
        tensors: dict[str, Any] = {"image": torch.from_numpy(np.ascontiguousarray(images)).cuda()}
        if not self._context.set_input_shape("image", tuple(images.shape)):
            raise _LOGGER.error(f"TensorRT refuses images of shape {images.shape}", "use another engine")
        for name in ("mean", "spread"):
            shape = tuple(self._context.get_tensor_shape(name))
            tensors[name] = torch.empty(shape, dtype=torch.float32, device="cuda")
        for name, tensor in tensors.items():
            self._context.set_tensor_address(name, tensor.data_ptr())
        stream = torch.cuda.current_stream()
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise _LOGGER.error("TensorRT failed to run the engine", "use another engine")
        stream.synchronize()
        return VoteMaps(tensors["mean"].cpu().numpy(), tensors["spread"].cpu().numpy())


def _opens_here() -> bool:
    """Whether this machine's GPU is one that engines are built for: from Ampere on, without data centres' later ones.

    Turing, which TensorRT for RTX knows too, would need engines of its own.
    """
    if not torch.cuda.is_available():
        return False
    major, minor = capability = torch.cuda.get_device_capability()
    known = f"SM{major}{minor}" in trt.ComputeCapability.__members__
    return capability > (12, 0) or (capability >= (8, 0) and known)


class Builder:
    """Builds and opens engines; see `base.Builder`."""

    name = "tensorrt-rtx"
    suffix = ".tensorrt-rtx.engine"
    offers: tuple[Precision, ...] = ("fp16", "fp32")
    needs_device = False
    takes_islands = True
    takes_free_noise = takes_probes = False

    def precisions(self, device: str) -> tuple[Precision, ...]:
        """See `base.Builder`."""
        return ("fp16", "fp32") if device == "cuda" and _opens_here() else ()

    def environment(self, device: str) -> Mapping[str, str]:  # noqa: ARG002 - one engine runs on every RTX GPU
        """See `base.Builder`."""
        return {"tensorrt-rtx": trt.__version__}

    def graph(self, generator: Generator, target: Target) -> bytes:
        """What the engine is built from, as serialised ONNX."""
        return bytes(write_graph(fold_for(generator, target), GraphOptions.of(target)).SerializeToString())

    def build(self, generator: Generator, target: Target, path: Path) -> None:
        """See `base.Builder`."""
        smallest = target.canvas if target.fixed_size else (generator.config.divisor,) * 2
        path.write_bytes(build_plan(self.graph(generator, target), target.batch, smallest, target.canvas))

    def load(self, path: Path, target: Target) -> TensorRtEngine:
        """See `base.Builder`."""
        try:
            plan = path.read_bytes()
        except OSError as error:
            raise EngineError("the TensorRT file cannot be read", where=path, remedy="export it again") from error
        return TensorRtEngine(plan, target.precision, target.batch.most, name=self.name)


BUILDER = Builder()
