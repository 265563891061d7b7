"""Builds `tensorrt` engines where there is no GPU; a program of its own, as it stands in for what only a GPU can do.

torch-tensorrt in its build for TensorRT for RTX lowers and converts graphs as it does for TensorRT, and builds engines
ahead of time. What such an engine would compute is computed here by the lowered graph that it was converted from, for
the tiny model; in half precision that would take a CPU minutes for the others.

    python -m tests.engines.torch_trt_dry_run tiny:fp16 chest-xray:bf16

prints what became of each model, a JSON object a line.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from cdal_sdk.engines import Precision, fuse
from cdal_sdk.errors import EngineError
from tests.engines.conftest import MODEL, shipped
from tests.engines.conftest import target as small_target
from tests.tiny_model import tiny_generator


def pretend_gpu() -> None:
    """Answer what torch-tensorrt asks about the GPU, and keep its C++ runtime out: it wants PyTorch's CUDA library."""
    facts = SimpleNamespace(major=8, minor=9, total_memory=1 << 34)
    answers: dict[str, Callable[..., Any]] = {
        "current_device": lambda: 0,
        "empty_cache": lambda: None,
        "get_device_capability": lambda *_: (facts.major, facts.minor),
        "get_device_name": lambda *_: "none",
        "get_device_properties": lambda *_: facts,
        "mem_get_info": lambda *_: (facts.total_memory, facts.total_memory),
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    torch._C._CudaDeviceProperties = SimpleNamespace  # an annotation names it
    is_file = os.path.isfile
    os.path.isfile = lambda path: "torchtrt" not in str(path) and is_file(path)


pretend_gpu()

import torch_tensorrt  # noqa: E402
from torch_tensorrt.dynamo import _compiler  # noqa: E402
from torch_tensorrt.dynamo.conversion import _conversion  # noqa: E402
from torch_tensorrt.dynamo.conversion._ConverterRegistry import DYNAMO_ATEN_CONVERTERS  # noqa: E402

from cdal_sdk.engines.exported import smallest_image  # noqa: E402
from cdal_sdk.engines.torch_trt import BUILDER  # noqa: E402


class StandIn(nn.Module):
    """Takes the place of an engine, as a single operation like that."""

    def __init__(self, lowered: nn.Module) -> None:
        super().__init__()
        self._number = len(LOWERED)
        LOWERED.append(lowered)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.ops.dry_run.engine(image, self._number))

    def zeros(self, image: Tensor) -> tuple[Tensor, ...]:
        """In place of `forward`, in no time."""
        return image[:, :1] * 0, image[:, :1] * 0

    def set_output_tensors_as_unowned(self, _: bool) -> None:
        """The compiler asks it of engines."""


LOWERED: list[nn.Module] = []
BUILT: list[dict[str, Any]] = []


@torch.library.custom_op("dry_run::engine", mutates_args=())
def engine(image: Tensor, number: int) -> list[Tensor]:
    return list(LOWERED[number](image))


def convert(module: nn.Module, inputs: Sequence[Any], settings: Any, **_: Any) -> StandIn:
    """In place of `convert_module`: convert and build, but open nothing."""
    outputs = _conversion.infer_module_output_dtypes(module, truncate_double=settings.truncate_double)
    interpreter = _conversion.TRTInterpreter(module, inputs, output_dtypes=outputs, compilation_settings=settings)
    interpreter._construct_trt_network_def()
    network, config = interpreter.ctx.net, interpreter._populate_trt_builder_config()
    layers: dict[str, set[str]] = {}
    for layer in map(network.get_layer, range(network.num_layers)):
        layers.setdefault(layer.type.name, set()).add(layer.get_output(0).dtype.name)
    config.num_compute_capabilities = 1  # to save time: else it builds for every architecture
    config.set_compute_capability(sys.modules["tensorrt"].ComputeCapability.SM89, 0)
    if interpreter.builder.build_serialized_network(network, config) is None:
        raise RuntimeError("TensorRT builds no engine of it")
    BUILT.append({"layers": {kind: sorted(types) for kind, types in layers.items()}})
    return StandIn(module)


def build(name: str, precision: Precision, folder: Path) -> dict[str, Any]:
    """What an engine consists of, and for the tiny model how far its file, opened, is from the reference."""
    path = folder / "engine"
    if name != "tiny":
        with patch.object(StandIn, "forward", StandIn.zeros):
            BUILDER.build(*shipped(name, "cpu", precision), path)
        return {"engines": len(BUILT), **BUILT.pop()}
    generator, target = tiny_generator(MODEL), small_target(precision=precision)
    BUILDER.build(generator, target, path)
    engine, reference = BUILDER.load(path, target), fuse(generator, target.sampling)
    differences = []
    for count, size in ((1, target.canvas), (5, smallest_image(generator, target))):
        images = np.random.default_rng(count).normal(size=(count, 2, *size)).astype(np.float32)
        with torch.inference_mode():
            expected = reference(torch.from_numpy(images))
        for found, wanted in zip(engine.run(images), expected, strict=True):
            differences.append(float(np.abs(found - wanted.numpy()).max()))
    return {
        "engines": len(BUILT),
        **BUILT.pop(),
        "difference": max(differences),
        "environment": BUILDER.environment("cuda"),
    }


def tell(facts: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def main() -> None:
    logging.disable()
    _compiler.convert_module = convert
    device = torch_tensorrt.Device
    device.to = lambda self, kind, *_, to=device.to: torch.device("cpu") if kind is torch.device else to(self, kind)
    with tempfile.TemporaryDirectory() as folder:
        for name, precision in (order.split(":") for order in sys.argv[1:]):
            tell(build(name, precision, Path(folder)))
        del DYNAMO_ATEN_CONVERTERS[torch.ops.aten.native_group_norm.default]
        try:
            build("tiny", "fp32", Path(folder))
        except EngineError as error:
            tell({"refusal": str(error)})


if __name__ == "__main__":
    main()
