"""Writing layers of feature maps as ONNX: options, maps with their types, and what all layers share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from onnx import TensorProto
from torch import Tensor

from cdal_sdk.engines.base import Target
from cdal_sdk.engines.onnx_writer import GraphWriter

__all__ = ["FLOAT", "GraphOptions", "GraphPrecision", "LayerWriter", "Map", "NormForm"]

NormForm = Literal["instance", "centred", "moments"]
GraphPrecision = Literal["fp32", "fp16", "bf16"]

FLOAT = int(TensorProto.FLOAT)
_TYPES = {"fp32": FLOAT, "fp16": int(TensorProto.FLOAT16), "bf16": int(TensorProto.BFLOAT16)}


@dataclass(frozen=True)
class GraphOptions:
    """How the graph is written.

    Attributes:
        size: height and width, or None for any multiples of the network's divisor up to the canvas.
        precision: of feature maps, convolutions and matrix products.
        norm: how norms are written, see `cdal_sdk.engines.onnx_norms`.
        islands: convolutions and attentions, named as in the graph, whose arithmetic and result stay in float32.
        free_noise: whether the noise is an input; the sampler must have been made for it.
        probes: whether the vote mean of each step's clean label is an output, too.
    """

    size: tuple[int, int] | None = None
    precision: GraphPrecision = "fp32"
    norm: NormForm = "instance"
    islands: frozenset[str] = frozenset()
    free_noise: bool = False
    probes: bool = False

    @classmethod
    def of(cls, target: Target) -> GraphOptions:
        """What a target asks for."""
        return cls(
            size=target.canvas if target.fixed_size else None,
            precision="fp32" if target.precision == "int8" else target.precision,
            islands=target.islands,
            free_noise=target.free_noise,
            probes=target.probes,
        )


@dataclass(frozen=True)
class Map:
    """Feature maps in the graph: name, channels, how often their size was halved, and their type."""

    name: str
    channels: int
    halvings: int = 0
    kind: int = FLOAT


class LayerWriter:
    """Writes layers under options. A batch is vote-major, [vote * image, ...]: all images of the first vote first.

    Args:
        options: how.
        votes: K.
    """

    def __init__(self, options: GraphOptions, votes: int) -> None:
        self.options, self.votes = options, votes
        self.out = GraphWriter()
        self.stream = _TYPES[options.precision]  # type of the feature maps
        self.joined: dict[str, list[Map]] = {}  # what a name was concatenated from
        self._known: dict[tuple[object, ...], str] = {}

    @property
    def kind(self) -> int:
        """The type in which the layer at work computes."""
        return FLOAT if self.out.scope in self.options.islands else self.stream

    def for_each_image(self, values: str, rank: int, shape: str) -> str:
        """Values of each vote [vote, ...], of so many axes, for every entry of the batch: brought to a shape."""
        out = self.out
        repeats = self.once("repeats", rank, write=lambda: self._repeats(rank))
        repeated = out.node("Tile", out.node("Unsqueeze", values, out.constant([1])), repeats)
        return out.node("Reshape", repeated, shape)

    def _repeats(self, rank: int) -> str:
        images = self.out.node("Shape", "image", start=0, end=1)
        return self.out.node("Concat", self.out.constant([1]), images, self.out.constant([1] * (rank - 1)), axis=0)

    def shape(self, *leading: int, halvings: int = 0) -> str:
        """A shape that ends in height and width, as halved so often: for a Reshape, -1 stands for the batch."""
        if self.options.size is not None:
            return self.out.constant([*leading, *(side >> halvings for side in self.options.size)])
        return self.once("shape", leading, halvings, write=lambda: self._shape(leading, halvings))

    def _shape(self, leading: tuple[int, ...], halvings: int) -> str:
        return self.out.node("Concat", self.out.constant(list(leading)), self.sides(halvings), axis=0)

    def pixels(self, halvings: int) -> str:
        """How many pixels a map has that was halved so often, as a float32 number."""
        if self.options.size is not None:
            height, width = (side >> halvings for side in self.options.size)
            return self.out.constant(np.array(height * width, np.float32))
        return self.once("pixels", halvings, write=lambda: self._pixels(halvings))

    def _pixels(self, halvings: int) -> str:
        product = self.out.node("ReduceProd", self.sides(halvings), keepdims=0)
        return self.out.node("Cast", product, to=FLOAT)

    def sides(self, halvings: int = 0) -> str:
        """Height and width, halved so often, where they are not known yet."""
        return self.once("sides", halvings, write=lambda: self._sides(halvings))

    def _sides(self, halvings: int) -> str:
        if halvings:
            return self.out.node("Div", self.sides(), self.out.constant([2**halvings]))
        return self.out.node("Shape", "image", start=2, end=4)

    def once(self, *key: object, write: Callable[[], str]) -> str:
        """What every layer shares is written once."""
        if key not in self._known:
            scope, self.out.scope = self.out.scope, "shared"
            self._known[key] = write()
            self.out.scope = scope
        return self._known[key]

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
        kind = self.kind
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
