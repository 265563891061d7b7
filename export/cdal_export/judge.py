"""The gates of an export: at the end, after each step of the sampler, and for a second seed where the noise is free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cdal_sdk.bundle import Manifest
from cdal_sdk.diffusion import Sampling
from cdal_sdk.engines import BuiltEngine, ProbingEngine, Target, VoteMaps
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

    @property
    def unjudged(self) -> list[str]:
        """See `Gate.unjudged`."""
        return self._end.unjudged

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
        return agreement, self._end.check_steps(open_probing(), self._reference)

    @cached_property
    def _reference(self) -> _Reference:
        return _Reference(TorchEngine(self.generator, self.sampling, "cpu", probes=True))

    @cached_property
    def _end(self) -> Gate:
        return Gate(self.manifest, self._reference, self.images, self.limits)

    @cached_property
    def _second_seed(self) -> Gate:
        reference = TorchEngine(self.generator, self._reseeded, "cpu")
        return Gate(self.manifest, reference, self.images, self.limits)

    @property
    def _reseeded(self) -> Sampling:
        return replace(self.sampling, seed=self.sampling.seed + 1)


class _Reference:
    """The float32 reference with its answers to each image kept: end and steps are compared on the same ones."""

    def __init__(self, engine: TorchEngine) -> None:
        self.name, self.device, self.precision = engine.name, engine.device, engine.precision
        self._probe = engine.probe
        self._answers: dict[tuple[tuple[int, ...], bytes], dict[str, NDArray[np.float32]]] = {}

    def run(self, images: NDArray[np.float32]) -> VoteMaps:
        """See `Engine.run`."""
        outputs = self.probe(images)
        return VoteMaps(outputs["mean"], outputs["spread"])

    def probe(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """See `ProbingEngine.probe`."""
        keys = [(image.shape, image.tobytes()) for image in images]
        if missing := [image for image, key in zip(images, keys, strict=True) if key not in self._answers]:
            outputs = self._probe(np.stack(missing))
            for number, image in enumerate(missing):
                self._answers[image.shape, image.tobytes()] = {n: maps[number] for n, maps in outputs.items()}
        return {name: np.stack([self._answers[key][name] for key in keys]) for name in self._answers[keys[0]]}
