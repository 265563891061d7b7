"""Half precision without a GPU: the folded sampler with every convolution rounded as a half-precision engine rounds it.

Inputs, weights and results of convolutions, and inputs and results of attention, are rounded to the half type; products
are summed in float32, as GPUs do. It tells beforehand whether an engine that is only built here would pass the gate,
and which layers are to blame where one does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cdal_sdk.engines import Precision, Target, VoteMaps, fold_for
from cdal_sdk.engines.base import HALF_TYPES, named_outputs
from cdal_sdk.engines.folded import CONVOLUTIONS, Attention
from cdal_sdk.network import Generator

__all__ = ["EmulatedEngine", "find_islands"]

_LARGEST_HALF = float(np.finfo(np.float16).max)
_HEADROOM = 4.0  # an activation this close to the largest half is one that another image may overflow
_JUMP = 4.0  # times the median error of all layers
_SAMPLE = 100_000  # values of a layer, about, that tell its error


class EmulatedEngine:
    """Runs a target's arithmetic on the CPU; slow.

    Args:
        generator: in eval mode.
        target: with its precision and islands; float32 is run as it is.
        watch: called with each convolution's name, as in the graph, and its result.
    """

    name = "emulated"
    device = "cpu"

    def __init__(
        self, generator: Generator, target: Target, watch: Callable[[str, Tensor], None] = lambda *_: None
    ) -> None:
        self.precision: Precision = target.precision
        self._type, self._islands, self._watch = HALF_TYPES.get(target.precision), target.islands, watch
        self._steps = target.sampling.schedule.steps
        self._calls: dict[str, int] = {}
        self._sampler = fold_for(generator, target)
        for name, module in self._sampler.generator.named_modules():
            if isinstance(module, (*CONVOLUTIONS, Attention)):
                self._hook(name, module)

    def run(self, images: NDArray[np.float32]) -> VoteMaps:
        """See `Engine.run`."""
        outputs = self.probe(images)
        return VoteMaps(outputs["mean"], outputs["spread"])

    @torch.inference_mode()
    def probe(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """See `ProbingEngine.probe`."""
        self._calls.clear()
        return named_outputs(tuple(self._sampler(torch.from_numpy(images))))

    def _hook(self, name: str, module: nn.Module) -> None:
        """Round what goes into a layer, its weights and what comes out."""
        is_convolution = isinstance(module, CONVOLUTIONS)
        names = [self._name(name, call) for call in range(1 if name.startswith("encoder.") else self._steps)]
        if self._type is not None and is_convolution and not self._islands.intersection(names):
            for values in (*module.parameters(), *module.buffers()):
                values.copy_(self._round(values))

        def before(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            if self._name(name, self._calls.get(name, 0)) in self._islands:
                return inputs
            return (self._round(inputs[0]), *inputs[1:])

        def after(_: nn.Module, __: tuple[Any, ...], result: Tensor) -> Tensor:
            full_name = self._name(name, self._calls.get(name, 0))
            self._calls[name] = self._calls.get(name, 0) + 1
            result = result if full_name in self._islands else self._round(result)
            if is_convolution:
                self._watch(full_name, result)
            return result

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)

    def _name(self, name: str, call: int) -> str:
        """As in the graph: the encoder runs once, everything else once a step, the last step first."""
        return name if name.startswith("encoder.") else f"step{self._steps - 1 - call}.{name}"

    def _round(self, values: Tensor) -> Tensor:
        return values if self._type is None else values.to(self._type).float()


def find_islands(generator: Generator, exact: Target, half: Target, images: NDArray[np.float32]) -> tuple[str, ...]:
    """Names of convolutions, as in the graph, that overflow in half precision or stand out by their error.

    Args:
        generator: in eval mode.
        exact: the target in float32.
        half: the target in half precision.
        images: [n, channel, h, w]; the first is used.
    """
    expected, found = (_layers(generator, target, images[:1]) for target in (exact, half))
    limit = _LARGEST_HALF / _HEADROOM if half.precision == "fp16" else np.inf
    overflowing = [name for name, layer in expected.items() if layer.largest > limit]
    if overflowing:
        return tuple(overflowing)  # later layers only inherit their infinities
    errors = {}
    for name, layer in expected.items():
        scale = float(np.sqrt(np.square(layer.some).mean())) or 1.0
        errors[name] = float(np.sqrt(np.square(found[name].some - layer.some).mean())) / scale
    typical = float(np.median(list(errors.values())))
    return tuple(name for name, error in errors.items() if error > _JUMP * typical)


class _Layer(NamedTuple):
    """What is kept of a layer's result: all of them would be gigabytes."""

    largest: float
    some: NDArray[np.float32]


def _layers(generator: Generator, target: Target, images: NDArray[np.float32]) -> dict[str, _Layer]:
    """The result of every convolution."""
    layers: dict[str, _Layer] = {}

    def watch(name: str, values: Tensor) -> None:
        some = values.flatten()[:: values.numel() // _SAMPLE | 1]  # an odd step meets every row and channel
        layers[name] = _Layer(float(values.abs().max()), some.numpy().copy())

    EmulatedEngine(generator, target, watch).run(images)
    return layers
