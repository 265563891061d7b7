"""How each module of the folded generator is written as ONNX."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdal_sdk.engines.folded import Attention, Doubling, FoldedNorm, StepConv
from cdal_sdk.engines.onnx_maps import FLOAT, LayerWriter, Map
from cdal_sdk.engines.onnx_norms import write_norm
from cdal_sdk.network.embedding import LatentMapping
from cdal_sdk.network.resample import FirDownsample, PyramidDownsample

__all__ = ["FUNCTIONS", "MODULES", "write_latent_mapping"]


def _conv(graph: LayerWriter, conv: nn.Conv2d, h: Map) -> Map:
    padding = cast("tuple[int, int]", conv.padding)[0]
    return graph.convolve(h, conv.weight, conv.bias, stride=conv.stride[0], padding=padding)


def _step_conv(graph: LayerWriter, conv: StepConv, h: Map, step: int) -> Map:
    return graph.convolve(h, conv.weight, conv.bias[step], padding=conv.padding[0])


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
    """Products in the stream's type, or in float32 where the layer is an island; softmax in float32."""
    out, kind = graph.out, graph.kind
    scope = out.scope
    out.scope = f"{scope}.norm"
    normal = graph.cast(write_norm(graph, attention.norm, h), kind)
    out.scope = scope
    tokens = out.node("Transpose", out.node("Reshape", normal.name, out.constant([0, h.channels, -1])), perm=[0, 2, 1])

    def project(values: str, weight: Tensor, bias: Tensor) -> str:
        return out.node("Add", out.node("MatMul", values, out.constant(weight, kind)), out.constant(bias, kind))

    joined = project(tokens, attention.weight_in, attention.bias_in)
    query, key, value = out.nodes("Split", joined, axis=-1, num_outputs=3, outputs=3)
    scores = out.node("MatMul", query, out.node("Transpose", key, perm=[0, 2, 1]))
    weights = out.cast(out.node("Softmax", out.cast(scores, FLOAT, kind), axis=-1), kind, FLOAT)
    update = project(out.node("MatMul", weights, value), attention.weight_out, attention.bias_out)
    update = out.node(
        "Reshape", out.node("Transpose", update, perm=[0, 2, 1]), graph.shape(-1, h.channels, halvings=h.halvings)
    )
    return _add(graph, _scale(graph, h, 0.5**0.5), replace(h, name=update, kind=kind))


def _add(graph: LayerWriter, a: Map, b: Map) -> Map:
    a, b = _alike(graph, [a, b])
    return replace(a, name=graph.out.node("Add", a.name, b.name))


def _scale(graph: LayerWriter, h: Map, factor: float) -> Map:
    return replace(h, name=graph.out.node("Mul", h.name, graph.out.constant(np.array(factor, np.float32), h.kind)))


def _concatenate(graph: LayerWriter, maps: list[Map], dim: int) -> Map:
    maps = _alike(graph, maps)
    joined = graph.out.node("Concat", *[h.name for h in maps], axis=dim)
    graph.joined[joined] = maps
    return replace(maps[0], name=joined, channels=sum(h.channels for h in maps))


def _alike(graph: LayerWriter, maps: list[Map]) -> list[Map]:
    """All in one type: float32 where they differ."""
    kind = maps[0].kind if len({h.kind for h in maps}) == 1 else FLOAT
    return [graph.cast(h, kind) for h in maps]


def _silu(graph: LayerWriter, h: Map, inplace: bool = False) -> Map:  # noqa: ARG001 - as torch.fx tells it
    return replace(h, name=graph.out.node("Mul", h.name, graph.out.node("Sigmoid", h.name)))


def _tanh(graph: LayerWriter, h: Map) -> Map:
    h = graph.cast(h, FLOAT)
    return replace(h, name=graph.out.node("Tanh", h.name))


def write_latent_mapping(graph: LayerWriter, mapping: LatentMapping, z: str) -> str:
    """Latents [step, vote, latent_size] to styles [step, vote, latent_width], in float32; see `LatentMapping`."""
    out = graph.out
    if not mapping.latent:
        z = out.node("Mul", z, out.constant(np.array(0, np.float32)))
    power = out.node("ReduceMean", out.node("Mul", z, z), out.constant([-1]))
    style = out.node("Div", z, out.node("Sqrt", out.node("Add", power, out.constant(np.array(1e-8, np.float32)))))
    for layer in mapping.layers:
        weight, bias = cast("Tensor", layer.weight), cast("Tensor", layer.bias)
        style = out.node("Add", out.node("MatMul", style, out.constant(weight.T)), out.constant(bias))
        style = out.node("Mul", style, out.node("Sigmoid", style))
    return style


MODULES: dict[type[nn.Module], Callable[..., Map]] = {
    nn.Conv2d: _conv,
    StepConv: _step_conv,
    FoldedNorm: write_norm,
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
