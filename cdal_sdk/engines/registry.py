"""The one place that knows the engines: names, order of preference, and what has to be installed for them."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from cdal_sdk.engines.base import Builder
from cdal_sdk.errors import EngineError, MissingExtraError, UsageError

__all__ = ["ENGINES", "EngineKind", "builder_of", "candidates", "check_engine_name", "engine_kind", "engine_names"]


@dataclass(frozen=True)
class EngineKind:
    """An engine that there is.

    Attributes:
        name: as users type it.
        module: that holds its `BUILDER`, below `cdal_sdk.engines`.
        devices: that it runs on.
        extra: that installs its packages; "" where every installation has it.
        packages: that it needs, by import name.
        automatic: whether `auto` considers it.
        describes: half a sentence for people.
    """

    name: str
    module: str
    devices: tuple[str, ...]
    extra: str = ""
    packages: tuple[str, ...] = ()
    automatic: bool = True
    describes: str = ""


# Fastest first: on CPUs as `cdal_bench.engine_speed` measured them, on GPUs as their makers say.
# The reference, last, is no choice of `auto`.
ENGINES = (
    EngineKind(
        "tensorrt-rtx-int8",
        "tensorrt_rtx_int8",
        ("cuda",),
        "tensorrt-rtx",
        ("tensorrt_rtx_bindings", "onnx"),
        automatic=False,
        describes="TensorRT for RTX, quantised after training; made by an export only",
    ),
    EngineKind(
        "tensorrt", "torch_trt", ("cuda",), "tensorrt", ("torch_tensorrt",), describes="compiled by TensorRT, FP16"
    ),
    EngineKind(
        "tensorrt-rtx",
        "tensorrt_rtx",
        ("cuda",),
        "tensorrt-rtx",
        ("tensorrt_rtx_bindings", "onnx"),
        describes="TensorRT for RTX; built without a GPU, opened on one",
    ),
    EngineKind("cuda-graph", "cuda_graph", ("cuda",), describes="PyTorch in half precision, replayed as a CUDA graph"),
    EngineKind(
        "openvino-int8",
        "openvino_int8",
        ("cpu",),
        "openvino",
        ("openvino", "onnx"),
        automatic=False,
        describes="OpenVINO, quantised after training; made by an export only",
    ),
    EngineKind(
        "openvino", "openvino_cpu", ("cpu",), "openvino", ("openvino", "onnx"), describes="OpenVINO, bf16 if possible"
    ),
    EngineKind(
        "onnx", "onnx_runtime", ("cuda", "cpu"), "onnx", ("onnxruntime", "onnx"), describes="ONNX Runtime; a plain file"
    ),
    EngineKind("torchscript", "torchscript", ("cpu", "cuda"), describes="PyTorch without Python; always there"),
    EngineKind("torch", "eager", ("cpu", "cuda"), automatic=False, describes="the float32 reference"),
)


def engine_names() -> tuple[str, ...]:
    """Every engine's name, and "auto"."""
    return ("auto", *(kind.name for kind in ENGINES))


def check_engine_name(name: str) -> str:
    """Raises UsageError for a name that is no engine."""
    if name not in engine_names():
        raise UsageError(f"there is no engine '{name}'", remedy=f"choose one of: {', '.join(engine_names())}")
    return name


def engine_kind(name: str) -> EngineKind:
    """The engine of a name (not "auto"), see `check_engine_name`."""
    return next(kind for kind in ENGINES if kind.name == check_engine_name(name))


def candidates(device: str, stored: Iterable[str] = ()) -> tuple[EngineKind, ...]:
    """What `auto` tries on a device, fastest first: also what it would not build, where it is among stored files."""
    files = [name.removeprefix("engines/") for name in stored]

    def came(kind: EngineKind) -> bool:
        return any(name.startswith(f"{kind.name}-{device}-") for name in files)

    return tuple(kind for kind in ENGINES if device in kind.devices and (kind.automatic or came(kind)))


def builder_of(kind: EngineKind) -> Builder:
    """The engine's builder.

    Raises:
        MissingExtraError: naming the extra, if a package that it needs is not installed.
        EngineError: if one is installed and does not load.
    """
    for package in kind.packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, kind.extra)
    try:
        module = importlib.import_module(f"cdal_sdk.engines.{kind.module}")
    except Exception as error:  # whatever a broken installation raises: another engine may do
        again = f"install cdal-sdk[{kind.extra}] again, or " if kind.extra else ""
        raise EngineError(
            f"the library of '{kind.name}' does not load here ({error})", remedy=f"{again}use another engine"
        ) from error
    return cast("Builder", module.BUILDER)
