"""The TensorRT-RTX engine in INT8, built ahead of time from the quantised ONNX graph."""

from __future__ import annotations

from cdal_sdk.engines import tensorrt_rtx
from cdal_sdk.engines.base import Precision, Target
from cdal_sdk.engines.onnx_int8 import write_int8_graph
from cdal_sdk.network import Generator

__all__ = ["BUILDER"]


class _Int8Builder(tensorrt_rtx.Builder):
    name = "tensorrt-rtx-int8"
    suffix = ".tensorrt-rtx-int8.engine"
    offers: tuple[Precision, ...] = ("int8",)
    takes_islands = False

    def precisions(self, device: str) -> tuple[Precision, ...]:
        return ("int8",) if super().precisions(device) else ()

    def graph(self, generator: Generator, target: Target) -> bytes:
        return write_int8_graph(generator, target)


BUILDER = _Int8Builder()
