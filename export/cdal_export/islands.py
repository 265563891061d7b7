"""Which layers do not stand half precision: found by running the graph in both precisions with every layer exposed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cdal_sdk.engines import Target
from cdal_sdk.engines.folded import FoldedSampler
from cdal_sdk.errors import MissingExtraError
from cdal_sdk.network import Generator

__all__ = ["find_islands"]

_LARGEST_HALF = float(np.finfo(np.float16).max)
_HEADROOM = 4.0  # an activation this close to the largest half is one that another image may overflow
_JUMP = 4.0  # times the median error of all layers


def find_islands(generator: Generator, target: Target, images: NDArray[np.float32]) -> tuple[str, ...]:
    """Names of convolutions, as in the graph, that overflow in half precision or stand out by their error.

    Runs on the CPU through ONNX Runtime, which emulates float16, so no GPU is needed. Empty where nothing stands out,
    or ONNX Runtime is not installed.

    Args:
        generator: in eval mode.
        target: sampling and half precision.
        images: [n, channel, h, w]; the first is used.
    """
    try:
        exact, half = (_layers(generator, target, precision, images[:1]) for precision in ("fp32", "fp16"))
    except MissingExtraError:
        return ()
    overflowing, errors = [], {}
    for name, values in exact.items():
        largest = float(np.abs(values).max())
        if largest * _HEADROOM > _LARGEST_HALF:
            overflowing.append(name)
        elif np.isfinite(half[name]).all():
            scale = float(np.sqrt(np.square(values).mean())) or 1.0
            errors[name] = float(np.sqrt(np.square(half[name] - values).mean())) / scale
    if overflowing:
        return tuple(overflowing)  # later layers only inherit their infinities
    typical = float(np.median(list(errors.values()))) if errors else 0.0
    return tuple(name for name, error in errors.items() if error > _JUMP * typical > 0)


def _layers(
    generator: Generator, target: Target, precision: str, images: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    """The output of every convolution."""
    from importlib.util import find_spec

    if find_spec("onnxruntime") is None or find_spec("onnx") is None:
        raise MissingExtraError("onnxruntime", "onnx")
    from cdal_sdk.engines.onnx_graph import GraphOptions, write_graph
    from cdal_sdk.engines.onnx_runtime import OnnxEngine

    sampler = FoldedSampler(generator, target.sampling.schedule, target.sampling.noise())
    options = GraphOptions(precision=precision, probes="layers")  # type: ignore[arg-type]
    engine = OnnxEngine(write_graph(sampler, options).SerializeToString(), "cpu", "fp32")
    return {name: values for name, values in engine.probe(images).items() if name.startswith(("step", "encoder."))}
