"""The folded sampler as a program of torch.export, for compilers that take one. No GPU and no compiler is needed."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdal_sdk.diffusion import VoteStatistics
from cdal_sdk.engines.base import Target, fold_for
from cdal_sdk.engines.fused import FoldedSampler
from cdal_sdk.errors import EngineError
from cdal_sdk.network import Generator

__all__ = ["export_sampler", "smallest_image"]

_LEAST = 2  # steps of the divisor: torch.export takes a single one for a constant


def smallest_image(generator: Generator, target: Target) -> tuple[int, int]:
    """Height and width of the smallest image that the program takes."""
    return target.canvas if target.fixed_size else (_LEAST * generator.config.divisor,) * 2


def export_sampler(generator: Generator, target: Target, device: str) -> torch.export.ExportedProgram:
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
    half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(target.precision)
    example = torch.zeros(batch.best, config.image_channels, *size, device=device)
    with torch.no_grad():
        module = _Autocast(sampler, half).to(device).eval()
        return torch.export.export(module, (example,), dynamic_shapes={"image": dimensions}, strict=False)


class _Autocast(nn.Module):
    """The sampler with half-precision convolutions and products as part of its graph, so that the graph is typed."""

    def __init__(self, sampler: FoldedSampler, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.sampler, self.dtype = sampler, dtype

    def forward(self, image: Tensor) -> VoteStatistics:
        with torch.autocast("cuda", dtype=self.dtype or torch.float16, enabled=self.dtype is not None):
            mean, spread = self.sampler(image)
        return VoteStatistics(mean.float(), spread.float())
