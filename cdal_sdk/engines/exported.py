"""The folded sampler as a program of torch.export, for compilers that take one. No GPU and no compiler is needed."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from cdal_sdk.diffusion import VoteStatistics
from cdal_sdk.engines.base import HALF_TYPES, Target, fold_for
from cdal_sdk.engines.fused import FoldedSampler
from cdal_sdk.errors import EngineError
from cdal_sdk.network import Generator

__all__ = ["TypedProducts", "export_sampler", "smallest_image"]

_LEAST = 2  # steps of the divisor: torch.export takes a single one for a constant


def smallest_image(generator: Generator, target: Target) -> tuple[int, int]:
    """Height and width of the smallest image that the program takes."""
    return target.canvas if target.fixed_size else (_LEAST * generator.config.divisor,) * 2


def export_sampler(generator: Generator, target: Target) -> torch.export.ExportedProgram:
    """The sampler of a target; batch and, unless the size is fixed, height and width stay dynamic.

    Raises:
        EngineError: if the canvas leaves no room for sizes that vary.
    """
    config, batch = generator.config, target.batch
    sampler = fold_for(generator, target)
    size, dimensions = target.canvas, {0: torch.export.Dim("batch", min=batch.least, max=batch.most)}
    if not target.fixed_size:
        most = [side // config.divisor for side in target.canvas]
        if min(most) <= _LEAST:
            raise EngineError("the canvas is too small for images of several sizes", remedy="use another engine")
        # An example at the limit would make it a constant. So would noise of the canvas's size for images of that size:
        # a slice that cuts nothing is another program. Hence a row and a column more, which no image sees.
        rows, columns = (max(_LEAST, steps - less) for steps, less in zip(most, (1, 2), strict=True))
        size = (rows * config.divisor, columns * config.divisor)
        for axis, name in ((2, "rows"), (3, "columns")):
            dimensions[axis] = config.divisor * torch.export.Dim(name, min=_LEAST, max=most[axis - 2])
        sampler.x_T = F.pad(sampler.x_T, (0, 1, 0, 1))
        sampler.posterior = None if sampler.posterior is None else F.pad(sampler.posterior, (0, 1, 0, 1))
    example = torch.zeros(batch.best, config.image_channels, *size, device=target.device)
    with torch.no_grad():
        module = _Typed(sampler, HALF_TYPES.get(target.precision)).to(target.device).eval()
        return torch.export.export(module, (example,), dynamic_shapes={"image": dimensions}, strict=False)


class _Typed(nn.Module):
    """The sampler with the type of every convolution and product as part of its graph.

    Autocast would leave it to the device: a CPU's takes norms in half precision, which CUDA's does not.
    """

    def __init__(self, sampler: FoldedSampler, half: torch.dtype | None) -> None:
        super().__init__()
        self.sampler, self.half_type = sampler, half
        # What follows the last convolution, tanh and the sampler, computes in float32.
        sampler.generator.out.register_forward_hook(lambda _module, _inputs, label: label.float())

    def forward(self, image: Tensor) -> VoteStatistics:
        with nullcontext() if self.half_type is None else _HalfProducts(self.half_type):
            return VoteStatistics(*self.sampler(image))


class TypedProducts(TorchFunctionMode):
    """Convolutions and matrix products in a type of their own, norms and softmax in float32, whatever they are given.

    Everything else has the type of what it is given. A network with another kind of product has to name it here.
    """

    _PRODUCTS = frozenset({torch.conv2d, torch.Tensor.matmul, torch.Tensor.__matmul__})
    _EXACT = frozenset({F.group_norm, torch.Tensor.softmax})

    def product(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute a product."""
        raise NotImplementedError

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in self._PRODUCTS:
            return self.product(function, args, kwargs or {})
        return function(*(_typed(args, torch.float32) if function in self._EXACT else args), **kwargs or {})


class _HalfProducts(TypedProducts):
    def __init__(self, half: torch.dtype) -> None:
        super().__init__()
        self._half = half

    def product(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return function(*_typed(args, self._half), **kwargs)


def _typed(args: tuple[Any, ...], kind: torch.dtype) -> tuple[Any, ...]:
    return tuple(value.to(kind) if isinstance(value, Tensor) and value.dtype != kind else value for value in args)
