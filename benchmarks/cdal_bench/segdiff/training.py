"""SegDiff's training objective."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cdal_bench.segdiff.model import SegDiff

__all__ = ["training_loss"]


def training_loss(model: SegDiff, image: Tensor, x0: Tensor, rng: torch.Generator) -> Tensor:
    """The simple loss of DDPM (eq. 14): mean squared error of the predicted noise at a random step.

    Args:
        model: in train mode.
        image: condition [n, channel, h, w].
        x0: clean label [n, label, h, w] in {-1, 1}.
        rng: on the CPU, so that the draws do not depend on the device.
    """
    step = torch.randint(model.config.steps, (len(x0),), generator=rng).to(x0.device)
    noise = torch.randn(x0.shape, generator=rng).to(x0.device)
    return F.mse_loss(model(model.schedule.diffuse(x0, step, noise), step, image), noise)
