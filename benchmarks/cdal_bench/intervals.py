"""Medians and ratios with confidence intervals by the bootstrap, or with ranges where samples are few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Interval", "interval_words", "median", "ratio_of_medians"]

_RESAMPLES = 2000
_CONFIDENCE = 95.0
_FEWEST = 6  # the range of five samples misses their median once in sixteen times: more than 5 %


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % confidence interval, or with the range of its samples where those are fewer than six."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Interval:
        """The same in another unit."""
        return Interval(self.value * factor, self.low * factor, self.high * factor)


def interval_words(samples: int) -> str:
    """What the ends of an interval are; "" for a single sample, which has none."""
    if samples < 2:
        return ""
    return f"range of {samples} rounds" if samples < _FEWEST else f"{_CONFIDENCE:.0f} % interval"


def _resampled(samples: Sequence[float], rng: np.random.Generator) -> NDArray[np.float64]:
    """Draws with replacement, [resample, sample]."""
    values = np.asarray(samples, np.float64)
    return values[rng.integers(len(values), size=(_RESAMPLES, len(values)))]


def _interval(value: float, resampled: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(resampled, [(100 - _CONFIDENCE) / 2, (100 + _CONFIDENCE) / 2])
    return Interval(float(value), float(low), float(high))


def median(samples: Sequence[float]) -> Interval:
    """The median of samples."""
    value = float(np.median(samples))
    if len(samples) < _FEWEST:
        return Interval(value, float(min(samples)), float(max(samples)))
    return _interval(value, np.median(_resampled(samples, np.random.default_rng(0)), axis=1))


def ratio_of_medians(slow: Sequence[float], fast: Sequence[float]) -> Interval:
    """How many times the median of `slow` is that of `fast`; both sides are resampled independently."""
    value = float(np.median(slow) / np.median(fast))
    if min(len(slow), len(fast)) < _FEWEST:
        return Interval(value, float(min(slow) / max(fast)), float(max(slow) / min(fast)))
    rng = np.random.default_rng(0)
    above, below = (np.median(_resampled(samples, rng), axis=1) for samples in (slow, fast))
    return _interval(value, above / below)
