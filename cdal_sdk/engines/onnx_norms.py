"""Group norm with scale and shift, and the SiLU after it, as ONNX: in float32, whatever comes in.

Three forms. "instance" has InstanceNormalization over groups, which ONNX Runtime and TensorRT have as one kernel. The
other two have means over pixels and groups and then one scale and shift, which needs no change of layout:

- "centred": the variance is that of centred values, so that nothing cancels;
- "moments": the variance is the mean square less the squared mean, which saves writing the centred values. It is for
  bfloat16, whose own rounding is coarser than what cancels.

What there is one value of for a channel is computed apart from the maps, as [n, group, member]: the Reshape at its end
keeps a compiler from computing it once more for every pixel.
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
    by_vote = (graph.votes, -1) if norm.steered else (-1,)  # each vote's values meet all of its images
    normal = out.node("Reshape", normal, graph.shape(*by_vote, h.channels, halvings=h.halvings))
    shape = out.constant([-1, *[1] * (len(by_vote) - 1), h.channels, 1, 1])
    scale, shift = (out.node("Reshape", value, shape) for value in values)
    result = out.node("Add", out.node("Mul", normal, scale), shift)
    return out.node("Reshape", result, graph.shape(-1, h.channels, halvings=h.halvings)) if norm.steered else result


def _by_statistics(graph: LayerWriter, norm: FoldedNorm, h: Map, values: tuple[str, str]) -> str:
    out, members = graph.out, h.channels // norm.groups
    grouped, maps = out.constant([-1, norm.groups, members]), out.constant([-1, h.channels, 1, 1])

    def by_group(values: str) -> str:  # [n, c] as [n, group, member]
        return out.node("Reshape", values, grouped)

    def over_group(values: str) -> str:  # mean of [n, c] over the group's channels: [n, group, 1]
        return out.node("ReduceMean", by_group(values), last)

    last = out.constant([2])
    mean = over_group(_over_pixels(graph, "ReduceMean", h))
    if graph.options.norm == "moments":
        length = by_group(_over_pixels(graph, "ReduceL2", h))
        power = out.node("ReduceMean", out.node("Mul", length, length), last)
        power = out.node("Div", power, graph.pixels(h.halvings))
        variance = out.node("Relu", out.node("Sub", power, out.node("Mul", mean, mean)))
    else:
        each = out.node("Add", mean, out.constant(np.zeros((1, 1, members), np.float32)))
        centred = out.node("Sub", h.name, out.node("Reshape", each, maps))
        squares = replace(h, name=out.node("Mul", centred, centred))
        variance = over_group(_over_pixels(graph, "ReduceMean", squares))
    deviation = out.node("Sqrt", out.node("Add", variance, out.constant(np.array(norm.epsilon, np.float32))))
    if norm.steered:
        scale, shift = (graph.for_each_image(value, 2, grouped) for value in values)
    else:
        scale, shift = (by_group(value) for value in values)
    scale = out.node("Div", scale, deviation)
    shift = out.node("Sub", shift, out.node("Mul", mean, scale))
    return out.node("Add", out.node("Mul", h.name, out.node("Reshape", scale, maps)), out.node("Reshape", shift, maps))


def _over_pixels(graph: LayerWriter, operator: str, h: Map) -> str:
    """A reduction of each channel, [n, c]: of joined maps part by part, since skips have theirs already."""
    out = graph.out
    if h.name in graph.joined:
        return out.node("Concat", *(_over_pixels(graph, operator, part) for part in graph.joined[h.name]), axis=1)
    return graph.once(operator, h.name, write=lambda: out.node(operator, h.name, out.constant([2, 3]), keepdims=0))
