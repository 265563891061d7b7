"""Tells a run that learns from one that has come apart, though all its numbers are finite."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from cdal_sdk.errors import TrainingError

__all__ = ["Watch"]

_WINDOW = 20  # steps


@dataclass
class Watch:
    """What is known of the loss so far; part of a checkpoint, so that a resumed run judges as a whole one does.

    Attributes:
        recent: losses of the last steps.
        first: mean over the first steps.
        lowest: the lowest mean since.
    """

    recent: list[float] = field(default_factory=list)
    first: float = math.inf
    lowest: float = math.inf

    def look(self, loss: float, step: int) -> None:
        """Stop a run whose loss, over some steps, grows, or has fallen and comes back.

        That is tenfold the lowest and more than a third of the first, since small losses waver by such factors; or,
        once it had fallen to a third, nearly the first again.

        Raises:
            TrainingError: naming the step.
        """
        self.recent = [*self.recent, loss][-_WINDOW:]
        if len(self.recent) < _WINDOW:
            return
        mean = sum(self.recent) / _WINDOW
        self.first = mean if math.isinf(self.first) else self.first
        self.lowest = min(self.lowest, mean)
        tenfold = mean > 10 * self.lowest and mean > self.first / 3
        if tenfold or (self.lowest < self.first / 3 and mean > 0.9 * self.first):
            raise TrainingError(f"the loss diverges: it was {self.lowest:.4g} and is {mean:.4g} at step {step}")
