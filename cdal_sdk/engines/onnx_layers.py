"""How each module of the folded generator is written as ONNX."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor, nn
from torch.nn import functional as F

from cdal_sdk.engines.folded import Attention, Doubling, FoldedNorm, StepConv
from cdal_sdk.engines.onnx_writer import GraphWriter
from cdal_sdk.network.resample import FirDownsample, PyramidDownsample

__all__ = ["FUNCTIONS", "MODULES", "GraphOptions", "GraphPrecision", "LayerWriter", "Map"]

NormForm = Literal["instance", "statistics"]
GraphPrecision = Literal["fp32", "fp16", "bf16"]

_FLOAT = int(TensorProto.FLOAT)
_TYPES = {"fp32": _FLOAT, "fp16": int(TensorProto.FLOAT16), "bf16": int(TensorProto.BFLOAT16)}


@dataclass(frozen=True)
class GraphOptions:
    """How the graph is written.

    Attributes:
        batch: images at once, or None for any number.
        size: height and width, or None for any multiples of the network's divisor up to the canvas.
        precision: of feature maps, convolutions and matrix products.
        norm: "instance" writes a norm as InstanceNormalization over groups, "statistics" as means over pixels and one
            scale and shift, which needs no change of layout.
        islands: convolutions, named as in the graph, whose arithmetic and result stay in float32.
        probes: whether every step's clean label, and every convolution, is an output, too.
    """

    batch: int | None = None
    size: tuple[int, int] | None = None
    precision: GraphPrecision = "fp32"
    norm: NormForm = "instance"
    islands: frozenset[str] = frozenset()
    probes: Literal["none", "steps", "layers"] = "none"


@dataclass(frozen=True)
class Map:
    """Feature maps in the graph: name, channels, how often their size was halved, and their type."""

    name: str
    channels: int
    halvings: int = 0
    kind: int = _FLOAT


class LayerWriter:
    """Writes layers under options.

    Args:
        options: how.
        votes: K.
    """

    def __init__(self, options: GraphOptions, votes: int) -> None:
        self.options, self.votes = options, votes
        self.out = GraphWriter()
        self.stream = _TYPES[options.precision]  # type of the feature maps
        self._index: str | None = None  # the vote of each entry of a batch of any size

    def index_votes(self) -> None:
        """Compute which vote each entry of a vote-major batch belongs to, where the batch is not known yet."""
        if self.options.batch is not None:
            return
        out = self.out
        n = out.node("Shape", "image", start=0, end=1)
        shape = out.node("Concat", out.constant([self.votes]), n, axis=0)
        each = out.node("Expand", out.constant(np.arange(self.votes)[:, None]), shape)
        self._index = out.node("Reshape", each, out.constant([-1]))

    def for_each_image(self, values: Tensor) -> str:
        """Constants of each vote [vote, ...] for each entry of the batch."""
        if self.options.batch is not None:
            return self.out.constant(values.repeat_interleave(self.options.batch, dim=0))
        return self.each_image_of(self.out.constant(values))

    def each_image_of(self, values: str) -> str:
        """The same for values that are computed, where the batch is not known yet."""
        return values if self._index is None else self.out.node("Gather", values, self._index, axis=0)

    def cast(self, h: Map, kind: int) -> Map:
        """The maps in another type."""
        return replace(h, name=self.out.cast(h.name, kind, h.kind), kind=kind)

    def convolve(
        self,
        h: Map,
        weight: Tensor,
        bias: Tensor | None,
        *,
        padding: int,
        stride: int = 1,
        groups: int = 1,
    ) -> Map:
        """A convolution in the stream's type, or in float32 where the layer is an island."""
        out = self.out
        kind = _FLOAT if out.scope in self.options.islands else self.stream
        inputs = [self.cast(h, kind).name, out.constant(weight, kind)]
        if bias is not None:
            inputs.append(out.constant(bias, kind))
        name = out.node(
            "Conv",
            *inputs,
            name=out.scope,
            kernel_shape=list(weight.shape[2:]),
            strides=[stride] * 2,
            pads=[padding] * 4,
            group=groups,
        )
        return Map(name, weight.shape[0], h.halvings + stride - 1, kind)

    def shape_of(self, h: Map) -> str:
        """The shape [n, c, height, width] of maps, for a Reshape to it."""
        if self.options.size is None:
            return self.out.node("Shape", h.name)
        height, width = (side >> h.halvings for side in self.options.size)
        return self.out.constant([-1, h.channels, height, width])


def _conv(graph: LayerWriter, conv: nn.Conv2d, h: Map) -> Map:
    padding = cast("tuple[int, int]", conv.padding)[0]
    return graph.convolve(h, conv.weight, conv.bias, stride=conv.stride[0], padding=padding)


def _step_conv(graph: LayerWriter, conv: StepConv, h: Map, step: int) -> Map:
    return graph.convolve(h, conv.weight, conv.bias[step], padding=conv.padding[0])


def _norm(graph: LayerWriter, norm: FoldedNorm, h: Map, step: int = 0, images: int = 1) -> Map:  # noqa: ARG001
    """In float32, whatever comes in; the result is in the stream's type."""
    out = graph.out
    scale, shift = (
        graph.for_each_image(values[step][:, :, None, None])
        if norm.steered
        else out.constant(values[0, :1, :, None, None])
        for values in (norm.scale, norm.shift)
    )
    write = _by_instance if graph.options.norm == "instance" else _by_statistics
    values = write(graph, norm, graph.cast(h, _FLOAT), scale, shift)
    if norm.activate:
        values = out.node("Mul", values, out.node("Sigmoid", values))
    return graph.cast(replace(h, name=values, kind=_FLOAT), graph.stream)


def _by_instance(graph: LayerWriter, norm: FoldedNorm, h: Map, scale: str, shift: str) -> str:
    out = graph.out
    grouped = out.node("Reshape", h.name, out.constant([0, norm.groups, -1]))
    one, zero = (out.constant(np.full(norm.groups, value, np.float32)) for value in (1, 0))
    normal = out.node("InstanceNormalization", grouped, one, zero, epsilon=norm.epsilon)
    normal = out.node("Reshape", normal, graph.shape_of(h))
    return out.node("Add", out.node("Mul", normal, scale), shift)


def _by_statistics(graph: LayerWriter, norm: FoldedNorm, h: Map, scale: str, shift: str) -> str:
    out = graph.out
    members = h.channels // norm.groups
    group = np.arange(h.channels) // members
    same = ((group[:, None] == group[None]) / members).astype(np.float32)
    average, pixels = out.constant(same[:, :, None, None]), out.constant([2, 3])

    def mean_of(values: str) -> str:  # over pixels, then over each channel's group: [n, c, 1, 1]
        return out.node("Conv", out.node("ReduceMean", values, pixels), average)

    mean = mean_of(h.name)
    centred = out.node("Sub", h.name, mean)
    variance = mean_of(out.node("Mul", centred, centred))
    deviation = out.node("Sqrt", out.node("Add", variance, out.constant(np.array(norm.epsilon, np.float32))))
    scale = out.node("Div", scale, deviation)
    shift = out.node("Sub", shift, out.node("Mul", mean, scale))
    return out.node("Add", out.node("Mul", h.name, scale), shift)


def _doubling(graph: LayerWriter, doubling: Doubling, h: Map) -> Map:
    out = graph.out
    doubled = out.node(
        "Resize",
        h.name,
        "",
        out.constant(np.array([1, 1, 2, 2], np.float32)),
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )
    kernel = doubling.kernel
    return graph.convolve(
        replace(h, name=doubled, halvings=h.halvings - 1), kernel, None, groups=len(kernel), padding=1
    )


def _halving(graph: LayerWriter, fir: FirDownsample, h: Map) -> Map:
    kernel = fir.kernel.expand(h.channels, 1, 4, 4)
    return graph.convolve(h, kernel, None, stride=2, groups=h.channels, padding=1)


def _pyramid(graph: LayerWriter, pyramid: PyramidDownsample, h: Map) -> Map:
    blurred = graph.convolve(h, pyramid.kernel.expand(h.channels, 1, 4, 4), None, groups=h.channels, padding=2)
    return graph.convolve(blurred, pyramid.conv.weight, pyramid.conv.bias, stride=2, padding=0)


def _attention(graph: LayerWriter, attention: Attention, h: Map) -> Map:
    """Products in the stream's type, softmax in float32."""
    out, kind = graph.out, graph.stream
    scope = out.scope
    out.scope = f"{scope}.norm"
    normal = _norm(graph, attention.norm, h)
    out.scope = scope
    tokens = out.node("Transpose", out.node("Reshape", normal.name, out.constant([0, h.channels, -1])), perm=[0, 2, 1])

    def project(values: str, weight: Tensor, bias: Tensor) -> str:
        return out.node("Add", out.node("MatMul", values, out.constant(weight, kind)), out.constant(bias, kind))

    joined = project(tokens, attention.weight_in, attention.bias_in)
    query, key, value = out.nodes("Split", joined, axis=-1, num_outputs=3, outputs=3)
    scores = out.node("MatMul", query, out.node("Transpose", key, perm=[0, 2, 1]))
    weights = out.cast(out.node("Softmax", out.cast(scores, _FLOAT, kind), axis=-1), kind, _FLOAT)
    update = project(out.node("MatMul", weights, value), attention.weight_out, attention.bias_out)
    update = out.node("Reshape", out.node("Transpose", update, perm=[0, 2, 1]), graph.shape_of(h))
    return _add(graph, _scale(graph, h, 0.5**0.5), replace(h, name=update, kind=kind))


def _add(graph: LayerWriter, a: Map, b: Map) -> Map:
    a, b = _alike(graph, [a, b])
    return replace(a, name=graph.out.node("Add", a.name, b.name))


def _scale(graph: LayerWriter, h: Map, factor: float) -> Map:
    return replace(h, name=graph.out.node("Mul", h.name, graph.out.constant(np.array(factor, np.float32), h.kind)))


def _concatenate(graph: LayerWriter, maps: list[Map], dim: int) -> Map:
    maps = _alike(graph, maps)
    joined = graph.out.node("Concat", *[h.name for h in maps], axis=dim)
    return replace(maps[0], name=joined, channels=sum(h.channels for h in maps))


def _alike(graph: LayerWriter, maps: list[Map]) -> list[Map]:
    """All in one type: float32 where they differ."""
    kind = maps[0].kind if len({h.kind for h in maps}) == 1 else _FLOAT
    return [graph.cast(h, kind) for h in maps]


def _silu(graph: LayerWriter, h: Map, inplace: bool = False) -> Map:  # noqa: ARG001 - as torch.fx tells it
    return replace(h, name=graph.out.node("Mul", h.name, graph.out.node("Sigmoid", h.name)))


def _tanh(graph: LayerWriter, h: Map) -> Map:
    h = graph.cast(h, _FLOAT)
    return replace(h, name=graph.out.node("Tanh", h.name))


MODULES: dict[type[nn.Module], Callable[..., Map]] = {
    nn.Conv2d: _conv,
    StepConv: _step_conv,
    FoldedNorm: _norm,
    Doubling: _doubling,
    FirDownsample: _halving,
    PyramidDownsample: _pyramid,
    Attention: _attention,
}
"""Every module with arithmetic of its own."""

FUNCTIONS: dict[Any, Callable[..., Map]] = {
    operator.add: _add,
    operator.mul: _scale,
    torch.cat: _concatenate,
    F.silu: _silu,
    "tanh": _tanh,
}
"""What the generator's own walk does between modules."""
