"""Group norm with scale and shift, and the SiLU after it, as ONNX: in float32, whatever comes in.

Two forms. "instance" has InstanceNormalization over groups, which ONNX Runtime and TensorRT have as one kernel.
"statistics" has means over pixels, averaged over each group's channels by a 1x1 convolution, and one scale and shift;
it needs no change of layout, and its variance is that of centred values, so that nothing cancels.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cdal_sdk.engines.folded import FoldedNorm
from cdal_sdk.engines.onnx_maps import FLOAT, LayerWriter, Map

__all__ = ["write_norm"]


def write_norm(
    graph: LayerWriter,
    norm: FoldedNorm,
    h: Map,
    step: int = 0,
    images: int = 1,  # noqa: ARG001 - the batch is open
    style: str | None = None,
) -> Map:
    """The result is in the stream's type."""
    write = _by_instance if graph.options.norm == "instance" else _by_statistics
    values = write(graph, norm, graph.cast(h, FLOAT), _values(graph, norm, step, style))
    if norm.activate:
        values = graph.out.node("Mul", values, graph.out.node("Sigmoid", values))
    return graph.cast(replace(h, name=values, kind=FLOAT), graph.stream)


def _values(graph: LayerWriter, norm: FoldedNorm, step: int, style: str | None) -> tuple[str, str]:
    """Scale and shift [vote, c], or [1, c] where they are the same for all."""
    out = graph.out
    if norm.style is None:
        step = step if norm.steered else 0
        return out.constant(norm.scale[step]), out.constant(norm.shift[step])
    product = out.node("MatMul", str(style), out.constant(norm.style.weight.T))
    both = out.node("Add", product, out.constant(norm.style.bias))
    scale, shift = out.nodes("Split", both, axis=-1, num_outputs=2, outputs=2)
    return scale, shift


def _by_instance(graph: LayerWriter, norm: FoldedNorm, h: Map, values: tuple[str, str]) -> str:
    out = graph.out
    grouped = out.node("Reshape", h.name, out.constant([0, norm.groups, -1]))
    one, zero = (out.constant(np.full(norm.groups, value, np.float32)) for value in (1, 0))
    normal = out.node("InstanceNormalization", grouped, one, zero, epsilon=norm.epsilon)
    channels = h.channels * (graph.votes if norm.steered else 1)  # the votes of an image side by side
    normal = out.node("Reshape", normal, graph.shape(-1, channels, halvings=h.halvings))
    scale, shift = (out.node("Reshape", value, out.constant([1, channels, 1, 1])) for value in values)
    result = out.node("Add", out.node("Mul", normal, scale), shift)
    if channels == h.channels:
        return result
    return out.node("Reshape", result, graph.shape(-1, h.channels, halvings=h.halvings))


def _by_statistics(graph: LayerWriter, norm: FoldedNorm, h: Map, values: tuple[str, str]) -> str:
    out = graph.out
    members = h.channels // norm.groups
    group = np.arange(h.channels) // members
    same = ((group[:, None] == group[None]) / members).astype(np.float32)
    average, pixels = out.constant(same[:, :, None, None]), out.constant([2, 3])

    def mean_of(values: str) -> str:  # over pixels, then over each channel's group: [n, c, 1, 1]
        return out.node("Conv", out.node("ReduceMean", values, pixels), average)

    scale, shift = (out.node("Reshape", value, out.constant([-1, h.channels, 1, 1])) for value in values)
    if norm.steered:
        scale, shift = graph.for_each_image(scale), graph.for_each_image(shift)
    mean = mean_of(h.name)
    centred = out.node("Sub", h.name, mean)
    variance = mean_of(out.node("Mul", centred, centred))
    deviation = out.node("Sqrt", out.node("Add", variance, out.constant(np.array(norm.epsilon, np.float32))))
    scale = out.node("Div", scale, deviation)
    shift = out.node("Sub", shift, out.node("Mul", mean, scale))
    return out.node("Add", out.node("Mul", h.name, scale), shift)
