"""The gate: an engine that disagrees with the float32 reference is not written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cdal_sdk.bundle import Manifest
from cdal_sdk.engines import Engine
from cdal_sdk.errors import GateError
from cdal_sdk.masks import decide, dice, probabilities
from cdal_sdk.slicing import prepare
from cdal_sdk.study import Study

__all__ = ["Agreement", "Limits", "check", "compare"]


_IMAGES_PER_STUDY = 64  # evenly chosen: finely overlapping tiles repeat what they show


@dataclass(frozen=True)
class Limits:
    """How far an engine may be from the reference.

    Attributes:
        dice: least Dice of any label over all images.
        flips: largest share of pixels whose label changes.
        probability: largest difference of a vote mean on the scale [0, 1]; it counts where both masks are empty, too.
        volume_change: largest relative change of a label's size.
    """

    dice: float = 0.995
    flips: float = 0.002
    probability: float = 0.05
    volume_change: float = 0.01


@dataclass(frozen=True)
class Agreement:
    """How far an engine is from the reference, over all images together.

    Attributes:
        dice: of each label between the two masks; 1 where both are empty.
        flips: share of pixels whose label differs.
        probability: largest difference of a vote mean on the scale [0, 1].
        volume_change: largest relative change of a label's size.
        finite: whether every value is a number.
        images: 2-D images compared.
    """

    dice: dict[str, float]
    flips: float
    probability: float
    volume_change: float
    finite: bool
    images: int

    def passes(self, limits: Limits) -> bool:
        """Whether the engine may be used."""
        return (
            self.finite
            and min(self.dice.values()) >= limits.dice
            and self.flips <= limits.flips
            and self.probability <= limits.probability
            and self.volume_change <= limits.volume_change
        )

    def __str__(self) -> str:
        dice = ", ".join(f"{name} {value:.4f}" for name, value in self.dice.items())
        return (
            f"Dice {dice}; flipped pixels {100 * self.flips:.4f} %; largest probability difference "
            f"{self.probability:.2g}; volume change {100 * self.volume_change:.3f} %; {self.images} images"
            + ("" if self.finite else "; values that are no numbers")
        )


def compare(
    engine: Engine, reference: Engine, manifest: Manifest, studies: Sequence[Study], batch: int = 8
) -> Agreement:
    """Run both on the same images; their noise is the same by construction.

    Raises:
        GateError: if there is nothing to compare on.
    """
    if not studies:
        raise GateError("there is no image to hold the engine against", remedy="give some with --data")
    labels, decision, polarity = manifest.labels, manifest.decision, manifest.polarity
    masks: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    difference, finite, count = 0.0, True, 0
    for study in studies:
        images = prepare(study, manifest.plan).images
        images = images[np.linspace(0, len(images) - 1, min(len(images), _IMAGES_PER_STUDY)).round().astype(int)]
        count += len(images)
        for start in range(0, len(images), batch):
            chunk = images[start : start + batch]
            shares = []
            for runner, into in zip((engine, reference), masks, strict=True):
                mean, spread = (np.moveaxis(m, 1, 0) for m in runner.run(chunk))
                finite = finite and bool(np.isfinite(mean).all() and np.isfinite(spread).all())
                into.append(decide(mean, labels, decision, polarity).ravel())
                shares.append(probabilities(mean, spread, decision, polarity)[0])
            difference = max(difference, float(np.abs(shares[0] - shares[1]).max()))
    ours, theirs = np.concatenate(masks[0]), np.concatenate(masks[1])
    sizes = {label.name: (ours == label.value, theirs == label.value) for label in labels}
    return Agreement(
        dice={label.name: dice(ours, theirs, label.value) for label in labels},
        flips=float((ours != theirs).mean()),
        probability=difference,
        volume_change=max(abs(int(a.sum()) - int(b.sum())) / max(1, int(b.sum())) for a, b in sizes.values()),
        finite=finite,
        images=count,
    )


def check(name: str, agreement: Agreement, limits: Limits) -> None:
    """Refuse an engine outside the limits.

    Raises:
        GateError: with all figures.
    """
    if not agreement.passes(limits):
        raise GateError(
            f"it disagrees with the float32 reference and was not written: {agreement} "
            f"(limits: Dice {limits.dice:g}, flips {100 * limits.flips:g} %, probability {limits.probability:g}, "
            f"volume {100 * limits.volume_change:g} %)",
            where=f"engine '{name}'",
            remedy="export with --fp32, or leave this engine out",
        )
