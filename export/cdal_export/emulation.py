"""Half precision without a GPU: the folded sampler with every product rounded as a half-precision engine rounds it.

The types are those of the exported program (`TypedProducts`): inputs, weights and results of convolutions and matrix
products in half, and what adds or resamples them; products are summed in float32, as GPUs do. It tells beforehand
whether an engine that is only built here would pass the gate, and which layers are to blame where one does not.
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
from cdal_sdk.engines.exported import TypedProducts
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
        watch: called with a layer's name, as in the graph, and each product of it; then with its result.
    """

    name = "emulated"
    device = "cpu"

    def __init__(
        self, generator: Generator, target: Target, watch: Callable[[str, Tensor], None] = lambda *_: None
    ) -> None:
        self.precision: Precision = target.precision
        self._half, self._islands, self._watch = HALF_TYPES.get(target.precision), target.islands, watch
        self._sampler = fold_for(generator, target)
        self._step, self._layer = 0, ""
        self._follow(self._sampler.generator, "")
        self._sampler.generator.out.register_forward_hook(self._end_step)

    def run(self, images: NDArray[np.float32]) -> VoteMaps:
        """See `Engine.run`."""
        outputs = self.probe(images)
        return VoteMaps(outputs["mean"], outputs["spread"])

    @torch.inference_mode()
    def probe(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """See `ProbingEngine.probe`."""
        self._step = self._sampler.schedule.steps - 1
        with _Rounded(self):
            return named_outputs(tuple(self._sampler(torch.from_numpy(images))))

    def _follow(self, module: nn.Module, name: str) -> None:
        """Know at any time which layer computes; a layer inside another one bears that one's name, as in the graph."""
        if isinstance(module, (*CONVOLUTIONS, Attention)):

            def begin(*_: object) -> None:
                self._layer = name if name.startswith("encoder.") else f"step{self._step}.{name}"

            module.register_forward_pre_hook(begin)
            module.register_forward_hook(lambda _, __, result: self.see(result))
        else:
            for child_name, child in module.named_children():
                self._follow(child, f"{name}.{child_name}" if name else child_name)

    def _end_step(self, _: nn.Module, __: object, label: Tensor) -> Tensor:
        """The last convolution of a step; tanh and sampler compute in float32."""
        self._step -= 1
        return label.float()

    def type_of_product(self) -> torch.dtype:
        """In which the layer at work computes."""
        return torch.float32 if self._half is None or self._layer in self._islands else self._half

    def see(self, values: Tensor) -> None:
        """Show a product of the layer at work, or its result, to whoever watches."""
        self._watch(self._layer, values.float())


class _Rounded(TypedProducts):
    """The types of an engine, with products summed in float32."""

    def __init__(self, engine: EmulatedEngine) -> None:
        super().__init__()
        self._engine = engine

    def product(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        kind = self._engine.type_of_product()
        exact = [value.to(kind).float() if isinstance(value, Tensor) else value for value in args]
        product = function(*exact, **kwargs).to(kind)
        self._engine.see(product)
        return product


def find_islands(generator: Generator, exact: Target, half: Target, images: NDArray[np.float32]) -> tuple[str, ...]:
    """Names of layers, as in the graph, that overflow in half precision or stand out by their error.

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
    """What is kept of a layer's products: all of them would be gigabytes."""

    largest: float
    some: NDArray[np.float32]  # of the last one


def _layers(generator: Generator, target: Target, images: NDArray[np.float32]) -> dict[str, _Layer]:
    """The products of every layer."""
    layers: dict[str, _Layer] = {}

    def watch(name: str, values: Tensor) -> None:
        some = values.flatten()[:: values.numel() // _SAMPLE | 1]  # an odd step meets every row and channel
        largest = max(float(values.abs().max()), layers[name].largest if name in layers else 0.0)
        layers[name] = _Layer(largest, some.numpy().copy())

    EmulatedEngine(generator, target, watch).run(images)
    return layers
