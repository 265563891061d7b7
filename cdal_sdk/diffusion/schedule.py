"""The variance-preserving schedule with few large steps, and the coefficients that follow from its betas.

Steps are numbered 0 to T - 1 as the network sees them: 0 is the last, cleanest step of the reverse process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdal_sdk.errors import ModelError

__all__ = ["Schedule", "paper_betas", "published_betas"]


def paper_betas(steps: int, beta_min: float = 0.1, beta_max: float = 20.0) -> Tensor:
    """Betas of the paper, float64 [steps]: 1 - exp(-bmin/T - (bmax - bmin)(2t - 1) / (2 T^2)), t = 1..T."""
    t = torch.arange(1, steps + 1, dtype=torch.float64)
    return 1 - torch.exp(-beta_min / steps - (beta_max - beta_min) * (2 * t - 1) / (2 * steps**2))


def published_betas(steps: int, beta_min: float = 0.1, beta_max: float = 20.0) -> Tensor:
    """Betas of the published code, in the precision in which it runs them: float32 [steps].

    beta_i = 1 - abar(s_i) / abar(s_{i-1}), with log abar(s) = -(bmax - bmin) s^2 / 2 - bmin s and
    s_i = (1 - 1e-3) i/T + 1e-3, i = 0..T. Against the paper, s is offset by 1e-3.
    """
    s = torch.linspace(0, 1, steps + 1, dtype=torch.float64) * (1 - 1e-3) + 1e-3
    log_alpha_bar = -(beta_max - beta_min) * s**2 / 2 - beta_min * s
    return (1 - torch.exp(log_alpha_bar[1:] - log_alpha_bar[:-1])).float()


@dataclass(frozen=True)
class Schedule:
    """The betas of a model and everything derived from them, in float64.

    Attributes:
        betas: variance added by each forward step, first step first.
    """

    betas: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.betas or not all(math.isfinite(b) and 0 < b < 1 for b in self.betas):
            raise ModelError(
                f"the betas {list(self.betas)} are no schedule", remedy="give one or more, each between 0 and 1"
            )

    @classmethod
    def of(cls, betas: Tensor) -> Schedule:
        """The schedule of a tensor of betas [T]."""
        return cls(tuple(betas.double().tolist()))

    @property
    def steps(self) -> int:
        """T, the number of denoising steps."""
        return len(self.betas)

    @cached_property
    def _betas(self) -> NDArray[np.float64]:
        return np.array(self.betas, np.float64)

    @cached_property
    def alpha_bars(self) -> NDArray[np.float64]:
        """abar_t [T], the share of the label's variance that is left after step t."""
        return np.cumprod(1 - self._betas, dtype=np.float64)

    @cached_property
    def _previous_alpha_bars(self) -> NDArray[np.float64]:
        return np.concatenate([[1.0], self.alpha_bars[:-1]])

    @cached_property
    def posterior_x0(self) -> NDArray[np.float64]:
        """c1 [T], weight of x0_hat in the posterior mean: beta_t sqrt(abar_{t-1}) / (1 - abar_t)."""
        return self._betas * np.sqrt(self._previous_alpha_bars) / (1 - self.alpha_bars)

    @cached_property
    def posterior_xt(self) -> NDArray[np.float64]:
        """c2 [T], weight of x_t in the posterior mean: (1 - abar_{t-1}) sqrt(alpha_t) / (1 - abar_t)."""
        return (1 - self._previous_alpha_bars) * np.sqrt(1 - self._betas) / (1 - self.alpha_bars)

    @cached_property
    def posterior_std(self) -> NDArray[np.float64]:
        """Standard deviation [T] of the posterior; 0 at the last, cleanest step."""
        variance = self._betas * (1 - self._previous_alpha_bars) / (1 - self.alpha_bars)
        return np.sqrt(variance)

    def diffuse(self, x0: Tensor, step: Tensor | int, noise: Tensor) -> Tensor:
        """Forward process to x_t: sqrt(abar_t) x0 + sqrt(1 - abar_t) eps (DDPM, eq. 4).

        Args:
            x0: clean label [n, ...].
            step: one step for all, or one each [n].
            noise: standard normal, shaped as x0.
        """
        alpha_bar = self._at(self.alpha_bars, step, x0)
        return alpha_bar**0.5 * x0 + (1 - alpha_bar) ** 0.5 * noise

    def forward_step(self, x_previous: Tensor, step: Tensor | int, noise: Tensor) -> Tensor:
        """One forward step x_{t-1} -> x_t: sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) eps."""
        beta = self._at(self._betas, step, x_previous)
        return (1 - beta) ** 0.5 * x_previous + beta**0.5 * noise

    def posterior(self, x0_hat: Tensor, x_t: Tensor, step: Tensor | int, noise: Tensor | None = None) -> Tensor:
        """A draw of q(x_{t-1} | x_t, x0_hat), or its mean without noise (DDPM, eqs. 6 and 7)."""
        mean = self._at(self.posterior_x0, step, x_t) * x0_hat + self._at(self.posterior_xt, step, x_t) * x_t
        return mean if noise is None else mean + self._at(self.posterior_std, step, x_t) * noise

    @staticmethod
    def _at(values: NDArray[np.float64], step: Tensor | int, like: Tensor) -> Tensor | float:
        """Coefficients of the steps, to multiply `like`: a constant of an unrolled graph, or a tensor."""
        if isinstance(step, int):
            return float(values[step])
        chosen = torch.as_tensor(values, device=like.device)[step].to(like.dtype)
        return chosen.reshape(-1, *[1] * (like.dim() - 1))
