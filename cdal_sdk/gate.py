"""The gate: an engine that disagrees with the float32 reference is not used, and not written by an export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cdal_sdk.bundle import Manifest
from cdal_sdk.engines import BuiltEngine, Engine, ProbingEngine, in_parts
from cdal_sdk.errors import CdalError, EngineError, GateError
from cdal_sdk.gate_images import evenly
from cdal_sdk.masks import decide, dice, probabilities

__all__ = ["Agreement", "Gate", "Limits", "StepAgreement"]

_IMAGES_FOR_STEPS = 4
_SHIFT = 0.05  # of a probability, from which on it counts as another one
_LITTLE_SPREAD = 0.005  # on the scale [0, 1]: below, changes of the mean spread are told as shares of this
_STEP = "step"  # and its number: an output's name


@dataclass(frozen=True)
class Limits:
    """How far an engine may be from the reference.

    Attributes:
        dice: least Dice of any label over all images, at the end and after each step.
        flips: largest share of pixels whose label changes, at the end and after each step.
        shifts: largest share of values whose probability changes by more than 0.05; masks may both be empty there.
        volume_change: largest relative change of a label's size.
        spread_change: largest relative change of the mean spread, from which intervals and reviews follow.
    """

    dice: float = 0.995
    flips: float = 0.002
    shifts: float = 0.002
    volume_change: float = 0.01
    spread_change: float = 0.05


@dataclass(frozen=True)
class Agreement:
    """How far an engine is from the reference, over all images together.

    Attributes:
        dice: of each label between the two masks; 1 where both are empty.
        flips: share of pixels whose label differs.
        shifts: share of values whose probability differs by more than 0.05.
        probability: largest difference of a vote mean on the scale [0, 1].
        volume_change: largest relative change of a label's size.
        spread_change: relative change of the mean spread over the pixels that the reference labels.
        finite: whether every value is a number.
        images: 2-D images compared.
    """

    dice: dict[str, float]
    flips: float
    shifts: float
    probability: float
    volume_change: float
    spread_change: float
    finite: bool
    images: int

    def passes(self, limits: Limits) -> bool:
        """Whether the engine may be used."""
        return (
            self.finite
            and min(self.dice.values()) >= limits.dice
            and self.flips <= limits.flips
            and self.shifts <= limits.shifts
            and self.volume_change <= limits.volume_change
            and self.spread_change <= limits.spread_change
        )

    def __str__(self) -> str:
        dice = ", ".join(f"{name} {value:.4f}" for name, value in self.dice.items())
        return (
            f"Dice {dice}; flipped pixels {100 * self.flips:.4f} %; probabilities off by more than {_SHIFT:g} "
            f"{100 * self.shifts:.4f} %, the largest difference {self.probability:.2g}; volume change "
            f"{100 * self.volume_change:.3f} %, spread change {100 * self.spread_change:.2g} %; {self.images} images"
            + ("" if self.finite else "; values that are no numbers")
        )


@dataclass(frozen=True)
class StepAgreement:
    """How far an engine is from the reference after one step of the sampler: that step's clean label, its vote mean.

    Attributes:
        step: T - 1 is the first that runs, 0 the last.
        dice: of each label between the two masks; 1 where both are empty.
        flips: share of pixels whose label differs.
        difference: largest difference of the vote mean on the label scale [-1, 1].
        finite: whether every value is a number.
    """

    step: int
    dice: dict[str, float]
    flips: float
    difference: float
    finite: bool

    def passes(self, limits: Limits) -> bool:
        """Whether the engine may be used."""
        return self.finite and min(self.dice.values()) >= limits.dice and self.flips <= limits.flips

    def __str__(self) -> str:
        dice = ", ".join(f"{name} {value:.4f}" for name, value in self.dice.items())
        return (
            f"step {self.step}: Dice {dice}; flipped pixels {100 * self.flips:.4f} %; largest difference "
            f"{self.difference:.2g}" + ("" if self.finite else "; values that are no numbers")
        )


@dataclass(frozen=True)
class _Answers:
    """What an engine makes of all pixels of all images, flat.

    Attributes:
        mask: label values.
        probability: of each label.
        spread: the largest of any label.
        finite: whether every value is a number.
    """

    mask: NDArray[np.uint8]
    probability: NDArray[np.float32]
    spread: NDArray[np.float32]
    finite: bool


class Gate:
    """Holds engines against one reference on the same images; the noise is the same by construction.

    Args:
        manifest: of the model.
        reference: the eager float32 engine; it runs once, when it is first needed.
        images: arrays [n, channel, h, w], each of one size.
        limits: of what passes.
        batch: images at once.

    Raises:
        GateError: if there is nothing to compare on.
    """

    def __init__(
        self,
        manifest: Manifest,
        reference: Engine,
        images: Sequence[NDArray[np.float32]],
        limits: Limits = Limits(),
        batch: int = 8,
    ) -> None:
        if not sum(map(len, images)):
            raise GateError("there is no image to hold the engine against", remedy="give some with --data")
        self.manifest, self.limits, self.images = manifest, limits, images
        self._reference, self._batch = reference, batch

    def __call__(self, engine: BuiltEngine) -> str:
        """The figures of an engine that passes; see `check`."""
        return str(self.check(engine))

    def check(self, engine: BuiltEngine) -> Agreement:
        """Compare, and refuse an engine outside the limits.

        Raises:
            GateError: with all figures.
        """
        agreement, limits = self.compare(engine), self.limits
        if not agreement.passes(limits):
            raise GateError(
                f"in {engine.precision} it disagrees with the float32 reference: {agreement} (limits: Dice "
                f"{limits.dice:g}, flips {100 * limits.flips:g} %, probabilities {100 * limits.shifts:g} %, volume "
                f"{100 * limits.volume_change:g} %, spread {100 * limits.spread_change:g} %)",
                where=f"engine '{engine.name}'",
                remedy="use --fp32, or leave this engine out",
            )
        return agreement

    def check_steps(self, engine: ProbingEngine, reference: ProbingEngine) -> tuple[StepAgreement, ...]:
        """Compare after each step, on some of the images, and refuse an engine outside the limits.

        Returns:
            An entry a step, the one that runs first first.

        Raises:
            GateError: with the figures of every step.
        """
        images = np.ascontiguousarray(evenly(self.images[0], _IMAGES_FOR_STEPS))
        theirs = reference.probe(images)
        with _running(engine):
            ours = engine.probe(images)
        names = [name for name in theirs if name.startswith(_STEP)]
        steps = tuple(self._step(int(name.removeprefix(_STEP)), ours[name], theirs[name]) for name in names)
        steps = tuple(sorted(steps, key=lambda agreement: -agreement.step))
        limits = self.limits
        if not all(step.passes(limits) for step in steps):
            raise GateError(
                f"in {engine.precision} its steps disagree with the float32 reference: {'; '.join(map(str, steps))} "
                f"(limits: Dice {limits.dice:g}, flips {100 * limits.flips:g} %)",
                where=f"engine '{engine.name}'",
                remedy="use --fp32, or leave this engine out",
            )
        return steps

    def _step(self, step: int, ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> StepAgreement:
        labels, decision, polarity = self.manifest.labels, self.manifest.decision, self.manifest.polarity
        mask, expected = (
            decide(np.moveaxis(values, 1, 0), labels, decision, polarity).ravel() for values in (ours, theirs)
        )
        return StepAgreement(
            step,
            dice={label.name: dice(mask, expected, label.value) for label in labels},
            flips=float((mask != expected).mean()),
            difference=float(np.abs(ours - theirs).max()),
            finite=bool(np.isfinite(ours).all()),
        )

    def compare(self, engine: Engine) -> Agreement:
        """How far an engine is from the reference."""
        labels, expected = self.manifest.labels, self._expected
        with _running(engine):
            found = self._answers(engine)
        differences = np.abs(found.probability - expected.probability)
        sizes = [[int((a.mask == label.value).sum()) for a in (found, expected)] for label in labels]
        claimed = expected.mask > 0
        spreads = [float(a.spread[claimed].mean()) if claimed.any() else 0.0 for a in (found, expected)]
        return Agreement(
            dice={label.name: dice(found.mask, expected.mask, label.value) for label in labels},
            flips=float((found.mask != expected.mask).mean()),
            shifts=float((differences > _SHIFT).mean()),
            probability=float(differences.max()),
            volume_change=max(abs(ours - theirs) / max(1, theirs) for ours, theirs in sizes),
            spread_change=abs(spreads[0] - spreads[1]) / max(spreads[1], _LITTLE_SPREAD),
            finite=found.finite,
            images=sum(map(len, self.images)),
        )

    @cached_property
    def _expected(self) -> _Answers:
        return self._answers(self._reference)

    def _answers(self, engine: Engine) -> _Answers:
        decision, polarity = self.manifest.decision, self.manifest.polarity
        masks, shares, spreads, finite = [], [], [], True
        for images in self.images:
            mean, spread = (np.moveaxis(values, 1, 0) for values in in_parts(engine.run, images, self._batch))
            finite = finite and bool(np.isfinite(mean).all() and np.isfinite(spread).all())
            masks.append(decide(mean, self.manifest.labels, decision, polarity).ravel())
            share, width = probabilities(mean, spread, decision, polarity)
            shares.append(share.ravel())
            spreads.append(width.max(axis=0).ravel())
        return _Answers(np.concatenate(masks), np.concatenate(shares), np.concatenate(spreads), finite)


@contextmanager
def _running(engine: Engine) -> Iterator[None]:
    """Libraries compile at the first run, or lack the memory then: whatever they raise is the engine's own error."""
    try:
        yield
    except CdalError:
        raise
    except Exception as error:
        raise EngineError(f"it does not run here ({error})", where=f"engine '{engine.name}'") from error
