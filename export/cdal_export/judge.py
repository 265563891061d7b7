"""The gates of an export: at the end, after each step of the sampler, and for a second seed where the noise is free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cdal_sdk.bundle import Manifest
from cdal_sdk.diffusion import Sampling
from cdal_sdk.engines import BuiltEngine, ProbingEngine, Target
from cdal_sdk.engines.eager import TorchEngine
from cdal_sdk.gate import Agreement, Gate, Limits, StepAgreement
from cdal_sdk.network import Generator

__all__ = ["Judge"]


@dataclass(frozen=True)
class Judge:
    """Holds engines of one model against its float32 results.

    Attributes:
        generator: of the checkpoint.
        manifest: of the model.
        sampling: of its engines.
        images: to compare on, arrays [n, channel, h, w].
        limits: of the gates.
    """

    generator: Generator
    manifest: Manifest
    sampling: Sampling
    images: Sequence[NDArray[np.float32]]
    limits: Limits

    def __call__(
        self,
        target: Target,
        open_engine: Callable[[Target], BuiltEngine],
        open_probing: Callable[[], ProbingEngine],
    ) -> tuple[Agreement, tuple[StepAgreement, ...]]:
        """Check an engine.

        Args:
            target: what it was built for.
            open_engine: opens it, with the noise of a target where that is free.
            open_probing: the same engine with probes.

        Returns:
            Agreement at the end, and after each step.

        Raises:
            GateError: if it disagrees with the reference anywhere.
        """
        agreement = self._end.check(open_engine(target))
        if target.free_noise:
            self._second_seed.check(open_engine(replace(target, sampling=self._reseeded)))
        reference = TorchEngine(self.generator, self.sampling, "cpu", probes=True)
        return agreement, self._end.check_steps(open_probing(), reference)

    @cached_property
    def _end(self) -> Gate:
        return self._gate(self.sampling)

    @cached_property
    def _second_seed(self) -> Gate:
        return self._gate(self._reseeded)

    @property
    def _reseeded(self) -> Sampling:
        return replace(self.sampling, seed=self.sampling.seed + 1)

    def _gate(self, sampling: Sampling) -> Gate:
        return Gate(self.manifest, TorchEngine(self.generator, sampling, "cpu"), self.images, self.limits)
