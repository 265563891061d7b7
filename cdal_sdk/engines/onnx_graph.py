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
from onnx import helper
from torch import Tensor, fx, nn

from cdal_sdk.engines.folded import FoldedSteering
from cdal_sdk.engines.fused import FoldedSampler
from cdal_sdk.engines.onnx_layers import FUNCTIONS, MODULES, write_latent_mapping
from cdal_sdk.engines.onnx_maps import FLOAT, GraphOptions, LayerWriter, Map
from cdal_sdk.errors import EngineError
from cdal_sdk.network import Generator
from cdal_sdk.network.generator import Steering

__all__ = ["GraphOptions", "write_graph"]


def write_graph(sampler: FoldedSampler, options: GraphOptions) -> onnx.ModelProto:
    """The sampler as a checked ONNX model, all of whose inputs and outputs are float32.

    Its input is `image` [batch, channel, height, width], its outputs are `mean` and `spread` [batch, label, height,
    width]; with probes also `step<i>`, the vote mean of that step's clean label, shaped like them.

    With free noise further inputs are `x_T` [vote, label, height, width], `z` [step, vote, latent] and, where the
    sampler draws from the posterior, `posterior` [step, vote, label, height, width], whose entry 0 is not read.
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

    def forward(self, x: Tensor, condition: Tensor, style: Tensor | None) -> Tensor:
        return self.generator.denoise(x, condition, cast("Steering", FoldedSteering(self.step, 1, style)))


class _SamplerGraph(LayerWriter):
    def __init__(self, sampler: FoldedSampler, options: GraphOptions) -> None:
        super().__init__(options, len(sampler.x_T))
        self.sampler = sampler
        self._outputs: list[onnx.ValueInfoProto] = []

    def write(self) -> onnx.ModelProto:
        sampler, out = self.sampler, self.out
        config, steps = sampler.generator.config, sampler.schedule.steps
        condition = self._trace(sampler.generator.encoder, "encoder", Map("image", config.image_channels))
        condition = self._for_each_vote(condition)
        styles = self._styles()
        x = self._noise("x_T", sampler.x_T)
        for step in reversed(range(steps)):
            denoise = _Denoise(sampler.generator, step)
            x0 = self.cast(self._trace(denoise, f"step{step}", x, condition, styles[step]), FLOAT)
            if self.options.probes:
                self._statistics(x0, f"step{step}", None)
            x = self._posterior(x0, x, step)
        self._statistics(x, "mean", "spread")
        return out.model(self._inputs(), sorted(self._outputs, key=lambda output: output.name.startswith("step")))

    def _inputs(self) -> list[onnx.ValueInfoProto]:
        sampler, sides = self.sampler, self.options.size or ("height", "width")
        shapes: dict[str, list[str | int | None]] = {
            "image": ["batch", sampler.generator.config.image_channels, *sides]
        }
        if self.options.free_noise:
            labels = sampler.x_T.shape[1]
            shapes["x_T"], shapes["z"] = [self.votes, labels, *sides], list(sampler.z.shape)
            if sampler.posterior is not None:
                shapes["posterior"] = [sampler.schedule.steps, *shapes["x_T"]]
        return [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in shapes.items()]

    def _for_each_vote(self, condition: Map) -> Map:
        """Maps of each image for each vote."""
        self.out.scope = "votes"
        return replace(condition, name=self.out.node("Concat", *[condition.name] * self.votes, axis=0))

    def _styles(self) -> list[str | None]:
        """The style [vote, latent_width] of each step, where the noise is free."""
        out, steps = self.out, self.sampler.schedule.steps
        if not self.options.free_noise:
            return [None] * steps
        out.scope = "latent"
        styles = write_latent_mapping(self, self.sampler.generator.latent_mapping, "z")
        return [out.node("Squeeze", self._entry(styles, step), out.constant([0])) for step in range(steps)]

    def _entry(self, values: str, step: int) -> str:
        out = self.out
        return out.node("Slice", values, out.constant([step]), out.constant([step + 1]), out.constant([0]))

    def _noise(self, name: str, canvas: Tensor, step: int | None = None) -> Map:
        """Noise for every image: an input [vote, label, h, w], or a constant [vote, label, H, W] cut to size."""
        out, size, channels = self.out, self.options.size, canvas.shape[1]
        out.scope = "noise"
        shape = self.shape(-1, channels)
        if self.options.free_noise:
            if step is not None:
                name = out.node("Squeeze", self._entry(name, step), out.constant([0]))
        elif size is not None:
            name = out.constant(canvas[:, :, : size[0], : size[1]])
        else:
            name = out.node("Slice", out.constant(canvas), out.constant([0, 0]), self.sides(), out.constant([2, 3]))
        if size is None:
            # Noise of another size than the image would fold into the batch below; this changes nothing, or refuses it.
            name = out.node("Reshape", name, self.shape(self.votes, channels))
        return Map(self.for_each_image(name, 4, shape), channels)

    def _posterior(self, x0: Map, x_t: Map, step: int) -> Map:
        """See `Schedule.posterior`."""
        out, schedule = self.out, self.sampler.schedule
        draw = None
        if self.sampler.posterior is not None and step > 0:
            deviation = float(schedule.posterior_std[step])
            draw = self._noise("posterior", self.sampler.posterior[step] * deviation, step).name
            if self.options.free_noise:
                draw = out.node("Mul", draw, out.constant(np.array(deviation, np.float32)))
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

    def _statistics(self, samples: Map, mean: str, spread: str | None) -> None:
        """Outputs of these names; see `vote_statistics`."""
        out = self.out
        out.scope = "statistics"
        axes = out.constant([0])
        votes = out.node("Reshape", samples.name, self.shape(self.votes, -1, samples.channels))
        centre = out.node("ReduceMean", votes, axes)
        self._output(out.node("Squeeze", centre, axes, name=mean), samples)
        if spread is not None:
            deviation = out.node("Sub", votes, centre)
            variance = out.node("ReduceMean", out.node("Mul", deviation, deviation), axes, keepdims=0)
            self._output(out.node("Sqrt", variance, name=spread), samples)

    def _output(self, name: str, like: Map) -> None:
        shape = ["batch", like.channels, *(self.options.size or ("height", "width"))]
        self._outputs.append(helper.make_tensor_value_info(name, FLOAT, shape))

    def _trace(self, module: nn.Module, scope: str, *inputs: Map | str | None) -> Map:
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
            elif node.target in FUNCTIONS:
                self.out.scope = f"{scope}.{node.name}"
                values[node] = FUNCTIONS[node.target](self, *arguments, **look_up(node.kwargs))
            elif node.op == "output":
                return cast("Map", arguments[0])
            else:
                break
        raise EngineError("the generator does something that has no ONNX form", remedy="write it in onnx_layers.py")
