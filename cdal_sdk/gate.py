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
from cdal_sdk.masks import count, decide, dice, probabilities

__all__ = ["Agreement", "Gate", "Limits", "StepAgreement"]

_IMAGES_FOR_STEPS = 4
_SHIFT = 0.05  # of a probability or a spread, from which on it counts as another one
_SCALES = (1.0, 3.0, 10.0)  # of intervals: a calibration that comes later is held, too
_FEW = 50  # pixels: of an interval below, one more or less is told as a share of this
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
        spread_shifts: largest share of values whose spread changes by more than 0.05.
        spread_change: largest relative change of the mean spread, from which reviews follow.
        interval_change: largest change of an end of a size's interval, relative to its upper end.
    """

    dice: float = 0.995
    flips: float = 0.002
    shifts: float = 0.002
    volume_change: float = 0.01
    spread_shifts: float = 0.002
    spread_change: float = 0.05
    interval_change: float = 0.03


@dataclass(frozen=True)
class Agreement:
    """How far an engine is from the reference, over all images together.

    Attributes:
        dice: of each label between the two masks; 1 where both are empty.
        flips: share of pixels whose label differs.
        shifts: share of values whose probability differs by more than 0.05.
        probability: largest difference of a vote mean on the scale [0, 1].
        volume_change: largest relative change of a label's size.
        spread_shifts: share of values whose spread differs by more than 0.05.
        spread_change: relative change of the mean spread over the pixels that the reference labels.
        interval_change: largest change of an end of a label's interval, relative to its upper end.
        finite: whether every value is a number.
        images: 2-D images compared.
    """

    dice: dict[str, float]
    flips: float
    shifts: float
    probability: float
    volume_change: float
    spread_shifts: float
    spread_change: float
    interval_change: float
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
            and self.spread_shifts <= limits.spread_shifts
            and self.spread_change <= limits.spread_change
            and self.interval_change <= limits.interval_change
        )

    def __str__(self) -> str:
        dice = ", ".join(f"{name} {value:.4f}" for name, value in self.dice.items())
        return (
            f"Dice {dice}; flipped pixels {100 * self.flips:.4f} %; probabilities off by more than {_SHIFT:g} "
            f"{100 * self.shifts:.4f} %, the largest difference {self.probability:.2g}; volume change "
            f"{100 * self.volume_change:.3f} %, of its interval {100 * self.interval_change:.3f} %; spreads off by "
            f"more than {_SHIFT:g} {100 * self.spread_shifts:.4f} %, change of the mean spread "
            f"{100 * self.spread_change:.2g} %; {self.images} images"
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
        counts: pixels of each label, and those that surely and possibly have it, [scale, label, 3]; see `masks.count`.
        probability: of each label, those of one image after those of another.
        spread: the same.
        widest: the largest spread of any label, as the mask.
        finite: whether every value is a number.
    """

    mask: NDArray[np.uint8]
    counts: NDArray[np.int64]
    probability: NDArray[np.float32]
    spread: NDArray[np.float32]
    widest: NDArray[np.float32]
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
                f"{100 * limits.volume_change:g} %, interval {100 * limits.interval_change:g} %, spreads "
                f"{100 * limits.spread_shifts:g} %, mean spread {100 * limits.spread_change:g} %)",
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
        pairs: list[tuple[dict[str, NDArray[np.float32]], ...]] = []
        for image in self._some_images():
            with _running(engine):
                ours = engine.probe(image)
            pairs.append((ours, reference.probe(image)))
        names = [name for name in pairs[0][1] if name.startswith(_STEP)]
        steps = tuple(self._step(name, pairs) for name in names)
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

    def _some_images(self) -> list[NDArray[np.float32]]:
        """Images for the steps, [1, channel, h, w], evenly chosen among all."""
        places = np.array([(array, image) for array, images in enumerate(self.images) for image in range(len(images))])
        return [np.ascontiguousarray(self.images[a][i : i + 1]) for a, i in evenly(places, _IMAGES_FOR_STEPS)]

    def _step(self, name: str, pairs: Sequence[tuple[dict[str, NDArray[np.float32]], ...]]) -> StepAgreement:
        """A step of an engine and of the reference, from their outputs on each image."""
        labels, decision, polarity = self.manifest.labels, self.manifest.decision, self.manifest.polarity

        def joined(maps: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
            masks = [decide(np.moveaxis(values, 1, 0), labels, decision, polarity).ravel() for values in maps]
            return np.concatenate(masks), np.concatenate([values.ravel() for values in maps])

        (mask, ours), (expected, theirs) = (joined([pair[side][name] for pair in pairs]) for side in (0, 1))
        return StepAgreement(
            int(name.removeprefix(_STEP)),
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
        changes = np.abs(found.counts - expected.counts)
        volumes = changes[..., 0] / np.maximum(1, expected.counts[..., 0])
        ends = changes[..., 1:] / np.maximum(_FEW, expected.counts[..., 2:])
        claimed = expected.mask > 0
        spreads = [float(a.widest[claimed].mean()) if claimed.any() else 0.0 for a in (found, expected)]
        return Agreement(
            dice={label.name: dice(found.mask, expected.mask, label.value) for label in labels},
            flips=float((found.mask != expected.mask).mean()),
            shifts=float((differences > _SHIFT).mean()),
            probability=float(differences.max()),
            volume_change=float(volumes.max()),
            spread_shifts=float((np.abs(found.spread - expected.spread) > _SHIFT).mean()),
            interval_change=float(ends.max()),
            spread_change=abs(spreads[0] - spreads[1]) / max(spreads[1], _LITTLE_SPREAD),
            finite=found.finite,
            images=sum(map(len, self.images)),
        )

    @cached_property
    def _expected(self) -> _Answers:
        return self._answers(self._reference)

    @property
    def unjudged(self) -> list[str]:
        """Names of the labels that the reference gives no pixel of any image, so that no mask can be wrong there."""
        sizes = self._expected.counts[0, :, 0]  # the same at every scale
        return [label.name for label, size in zip(self.manifest.labels, sizes, strict=True) if not size]

    def _answers(self, engine: Engine) -> _Answers:
        labels, decision, polarity = self.manifest.labels, self.manifest.decision, self.manifest.polarity
        counts, finite = np.zeros((len(_SCALES), len(labels), 3), np.int64), True
        parts = []
        for images in self.images:
            mean, spread = (np.moveaxis(values, 1, 0) for values in in_parts(engine.run, images, self._batch))
            finite = finite and bool(np.isfinite(mean).all() and np.isfinite(spread).all())
            mask = decide(mean, labels, decision, polarity)
            counts += [count(mean, spread, mask, labels, decision, polarity, scale) for scale in _SCALES]
            share, width = probabilities(mean, spread, decision, polarity)
            parts.append((mask.ravel(), share.ravel(), width.ravel(), width.max(axis=0).ravel()))
        masks, shares, spreads, widest = (np.concatenate(values) for values in zip(*parts, strict=True))
        return _Answers(masks, counts, shares, spreads, widest, finite)


@contextmanager
def _running(engine: Engine) -> Iterator[None]:
    """Libraries compile at the first run, or lack the memory then: whatever they raise is the engine's own error."""
    try:
        yield
    except CdalError:
        raise
    except Exception as error:
        raise EngineError(f"it does not run here ({error})", where=f"engine '{engine.name}'") from error
