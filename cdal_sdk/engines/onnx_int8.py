"""The ONNX graph in INT8, for TensorRT: quantised after training by ONNX Runtime, on images that an export has at hand.

Inputs and weights of convolutions are rounded to eight bits by pairs of QuantizeLinear and DequantizeLinear, as
TensorRT wants them: symmetric, with a scale for each output channel of a weight. The rest is the graph in FP16.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from cdal_sdk.engines.base import Target, fold_for
from cdal_sdk.engines.onnx_graph import GraphOptions, write_graph
from cdal_sdk.errors import EngineError, MissingExtraError
from cdal_sdk.network import Generator

__all__ = ["quantised_layer", "write_int8_graph"]

_QUANTISED = (".conv1", ".conv2")  # of every block
_PREPARED = {"onnx.quant.pre_process": "onnxruntime.quant"}  # there is nothing that its preparation would fold


def quantised_layer(name: str) -> bool:
    """Whether a layer, named as in the graph, computes in INT8: a convolution that a norm precedes.

    Nearly all operations are in these. What comes out of a norm has one range whatever the image. The others carry the
    stream past the norms (shortcuts, resampling, pyramid), or a few channels in and out, whose error goes straight into
    the label.
    """
    return name.endswith(_QUANTISED)


def write_int8_graph(generator: Generator, target: Target) -> bytes:
    """The fused graph of a target as serialised ONNX, its convolutions in INT8.

    Raises:
        EngineError: without images to calibrate with, or if ONNX Runtime cannot quantise it.
        MissingExtraError: if ONNX Runtime is not installed.
    """
    images = target.calibration_images()
    try:
        from onnxruntime import quantization
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "onnx") from error

    class Images(quantization.CalibrationDataReader):  # type: ignore[misc]
        inputs = iter([{"image": image[None]} for image in images])

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(self.inputs, None)

    graph = write_graph(fold_for(generator, target), replace(GraphOptions.of(target), precision="fp16"))
    onnx.helper.set_model_props(graph, _PREPARED)
    chosen = [node.name for node in graph.graph.node if node.op_type == "Conv" and quantised_layer(node.name)]
    with tempfile.TemporaryDirectory() as folder:
        given, quantised = Path(folder) / "given.onnx", Path(folder) / "quantised.onnx"
        onnx.save(graph, given)
        try:
            quantization.quantize_static(
                given,
                quantised,
                Images(),
                op_types_to_quantize=["Conv"],
                nodes_to_quantize=chosen,
                per_channel=True,
                extra_options={
                    "ActivationSymmetric": True,
                    "QuantizeBias": False,
                    "OpTypesToExcludeOutputQuantization": ["Conv"],
                },
            )
        except Exception as error:
            raise EngineError(f"ONNX Runtime cannot quantise this ({error})", remedy="export without --int8") from error
        return quantised.read_bytes()
