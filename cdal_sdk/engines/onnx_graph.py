"""The fused graph as ONNX, written from the folded sampler.

`torch.fx` follows the generator's own walk through its modules (so the walk exists once), and each module is written
in the form that suits inference: a small graph that states its precision, with layer names that a person recognises
(`step1.down.0.blocks.1.conv1`). The steps share their weights. Norms, softmax, sampler and vote statistics are
float32 in every precision.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import onnx
from onnx import TensorProto, helper
from torch import Tensor, fx, nn

from cdal_sdk.engines.folded import CONVOLUTIONS, FoldedSampler, FoldedSteering
from cdal_sdk.engines.onnx_layers import FUNCTIONS, MODULES, GraphOptions, LayerWriter, Map
from cdal_sdk.errors import EngineError
from cdal_sdk.network import Generator
from cdal_sdk.network.generator import Steering

__all__ = ["GraphOptions", "write_graph"]

_FLOAT = TensorProto.FLOAT


def write_graph(sampler: FoldedSampler, options: GraphOptions) -> onnx.ModelProto:
    """The sampler as a checked ONNX model.

    Its input is `image` [batch, channel, height, width], its outputs are `mean` and `spread` [batch, label, height,
    width], all float32; with probes also `x0_step<i>` [vote * batch, label, height, width] and convolutions by name.
    """
    return _SamplerGraph(sampler, options).write()


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002 - torch's signature
        return isinstance(m, tuple(MODULES))


class _Denoise(nn.Module):
    """One step of the walk."""

    def __init__(self, generator: Generator, step: int) -> None:
        super().__init__()
        self.generator, self.step = generator, step

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.generator.denoise(x, condition, cast("Steering", FoldedSteering(self.step, 1)))


class _SamplerGraph(LayerWriter):
    def __init__(self, sampler: FoldedSampler, options: GraphOptions) -> None:
        super().__init__(options, len(sampler.x_T))
        self.sampler = sampler
        self._probes: list[onnx.ValueInfoProto] = []

    def write(self) -> onnx.ModelProto:
        sampler, options, out = self.sampler, self.options, self.out
        config, steps = sampler.generator.config, sampler.schedule.steps
        out.scope = "votes"
        self.index_votes()
        condition = self._trace(sampler.generator.encoder, "encoder", Map("image", config.image_channels))
        if options.batch != 1:  # a single image broadcasts by itself
            repeats = out.constant([self.votes, 1, 1, 1])
            condition = replace(condition, name=out.node("Tile", condition.name, repeats))
        x = self._noise(sampler.x_T)
        for step in reversed(range(steps)):
            x0 = self.cast(self._trace(_Denoise(sampler.generator, step), f"step{step}", x, condition), _FLOAT)
            x0 = replace(x0, name=out.node("Identity", x0.name, name=f"x0_step{step}"))
            if options.probes != "none":
                self._probe(x0)
            x = self._posterior(x0, x, step)
        self._statistics(x)
        batch = "batch" if options.batch is None else options.batch
        height, width = options.size or ("height", "width")

        def maps(name: str, channels: int) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, _FLOAT, [batch, channels, height, width])

        labels = config.label_channels
        outputs = [maps("mean", labels), maps("spread", labels), *self._probes]
        return out.model([maps("image", config.image_channels)], outputs)

    def _noise(self, canvas: Tensor) -> Map:
        """Noise [vote, label, H, W] for every image, cut to the images' size."""
        out, size = self.out, self.options.size
        out.scope = "noise"
        if size is not None:
            return Map(self.for_each_image(canvas[:, :, : size[0], : size[1]]), canvas.shape[1])
        end = out.node("Shape", "image", start=2, end=4)
        values = out.node("Slice", self.for_each_image(canvas), out.constant([0, 0]), end, out.constant([2, 3]))
        return Map(values, canvas.shape[1])

    def _posterior(self, x0: Map, x_t: Map, step: int) -> Map:
        """See `Schedule.posterior`."""
        out, schedule = self.out, self.sampler.schedule
        draw = None
        if self.sampler.posterior is not None and step > 0:
            draw = self._noise(self.sampler.posterior[step] * float(schedule.posterior_std[step])).name
        out.scope = f"step{step}.posterior"

        def weighted(value: str, weight: float) -> str | None:
            weight = float(np.float32(weight))
            if weight in (0.0, 1.0):
                return value if weight else None
            return out.node("Mul", value, out.constant(np.array(weight, np.float32)))

        terms = [weighted(x0.name, schedule.posterior_x0[step]), weighted(x_t.name, schedule.posterior_xt[step]), draw]
        total, *others = [term for term in terms if term is not None]
        for term in others:
            total = out.node("Add", total, term)
        return replace(x0, name=total)

    def _statistics(self, samples: Map) -> None:
        """See `vote_statistics`."""
        out, size = self.out, self.options.size
        out.scope = "statistics"
        axes, votes, single = out.constant([0]), samples.name, self.options.batch == 1
        if not single:
            shape = [self.votes, -1, samples.channels]
            if size is None:
                sides = out.node("Shape", "image", start=2, end=4)
                target = out.node("Concat", out.constant(shape), sides, axis=0)
            else:
                target = out.constant([*shape, *size])
            votes = out.node("Reshape", votes, target)
        mean = out.node("ReduceMean", votes, axes, name="mean", keepdims=int(single))
        deviation = out.node("Sub", votes, mean)
        variance = out.node("ReduceMean", out.node("Mul", deviation, deviation), axes, keepdims=int(single))
        out.node("Sqrt", variance, name="spread")

    def _probe(self, h: Map) -> None:
        self._probes.append(helper.make_tensor_value_info(h.name, h.kind, [None, h.channels, None, None]))

    def _trace(self, module: nn.Module, scope: str, *inputs: Map) -> Map:
        """Write a module, following its own forward."""
        values: dict[fx.Node, Any] = {}
        waiting = iter(inputs)

        def look_up(argument: Any) -> Any:
            return fx.node.map_arg(argument, values.__getitem__)

        for node in _Tracer().trace(module).nodes:
            arguments = look_up(node.args)
            if node.op == "placeholder":
                values[node] = next(waiting)
            elif node.op == "call_module":
                self.out.scope = f"{scope}.{str(node.target).removeprefix('generator.')}"
                leaf = module.get_submodule(str(node.target))
                values[node] = MODULES[type(leaf)](self, leaf, *arguments)
                if self.options.probes == "layers" and isinstance(leaf, CONVOLUTIONS):
                    self._probe(values[node])
            elif node.target in FUNCTIONS:
                self.out.scope = f"{scope}.{node.name}"
                values[node] = FUNCTIONS[node.target](self, *arguments, **look_up(node.kwargs))
            elif node.op == "output":
                return cast("Map", arguments[0])
            else:
                break
        raise EngineError("the generator does something that has no ONNX form", remedy="write it in onnx_layers.py")
