"""How a cost grows with a size, and the curve that fits it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Series", "fit"]


@dataclass(frozen=True)
class Series:
    """How a cost grows with a size: one curve of the scaling study.

    Attributes:
        axis: what grows: "side", "batch", "votes", "steps" or "cases".
        cost: "milliseconds" or "megabytes".
        x: sizes.
        y: costs.
        slope: of y over x, least squares.
        intercept: of the same line.
        exponent: of the power law through the points, log y over log x; None where it has no meaning.
    """

    axis: str
    cost: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    slope: float
    intercept: float
    exponent: float | None

    @property
    def straight(self) -> bool:
        """Whether the line fits at least as well as the power law."""
        if self.exponent is None:
            return True
        return self._misfit(self._line()) <= self._misfit(self._power())

    def fitted(self) -> list[float]:
        """The better fit at the sizes."""
        return [float(y) for y in (self._line() if self.straight else self._power())]

    def _line(self) -> NDArray[np.float64]:
        return self.intercept + self.slope * np.asarray(self.x)

    def _power(self) -> NDArray[np.float64]:
        """Least squares on logarithms goes through their mean."""
        x, y = np.log(self.x), np.log(self.y)
        curve: NDArray[np.float64] = np.exp(y.mean() + (self.exponent or 0.0) * (x - x.mean()))
        return curve

    def _misfit(self, curve: NDArray[np.float64]) -> float:
        """Of relative errors, so that small sizes count as much as large ones."""
        return float(np.square(curve / np.asarray(self.y) - 1).sum())


def fit(axis: str, cost: str, x: Sequence[float], y: Sequence[float]) -> Series:
    """A line and, where all is positive and grows, a power law through points, by least squares."""
    slope, intercept = np.polyfit(x, y, 1)
    exponent = float(np.polyfit(np.log(x), np.log(y), 1)[0]) if min(*x, *y) > 0 and axis != "cases" else None
    return Series(axis, cost, tuple(x), tuple(y), float(slope), float(intercept), exponent)
