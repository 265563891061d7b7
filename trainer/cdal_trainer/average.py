"""Exponential moving average of the generator's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["WeightAverage"]


class WeightAverage:
    """Averages a module's weights; the decay starts low and grows to its final value.

    At step n the decay is min(decay, (1 + n) / (10 + n)), so that early weights are soon forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {k: v.detach().float().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move towards the module's weights after optimiser step number `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in module.state_dict().items():
            self.weights[name].lerp_(value.float(), 1 - decay)
