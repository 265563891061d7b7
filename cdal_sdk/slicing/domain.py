"""Refusing what a model was not made for, before it produces a plausible but meaningless mask."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cdal_sdk.errors import DomainError
from cdal_sdk.slicing.plan import Plan
from cdal_sdk.study import Study

__all__ = ["check_domain", "match_channels"]

_MOST_ENLARGED = 4  # times, on the way to the canvas
_MOST_STRETCHED = 3  # times, one side against the other
_BLANK_REMEDY = "check how it was exported, or pass --force"
_ENOUGH_VOXELS = 1_000_000  # to find percentiles
_REMEDY = "crop or resample it to the model's domain, choose another model, or pass --force"
_SCALE_REMEDY = "scale them to that, choose another model, or pass --force"
_KIND_REMEDY = "choose another model, or pass --force"


def match_channels(study: Study, plan: Plan) -> Study:
    """The study with the channels that the model takes; a gray picture that was saved as RGB becomes gray.

    Raises:
        DomainError: if it has others. This cannot be forced, since the network could not run.
    """
    image = study.image
    if plan.channels == 1 and len(image) == 3 and (image == image[:1]).all():
        return replace(study, image=image[:1])
    if len(image) != plan.channels:
        names = {1: "gray", 3: "RGB"}
        found, wanted = (names.get(n, f"{n}-channel") for n in (len(image), plan.channels))
        raise DomainError(
            f"the image is {found}, the model takes {wanted} ones",
            where=study.case,
            remedy="convert the image or choose another model",
        )
    return study


def check_domain(study: Study, plan: Plan) -> None:
    """Refuse a study outside the model's domain.

    Raises:
        DomainError: naming the first property that does not fit, and the range that would.
    """
    domain = plan.domain

    def refuse(what: str, remedy: str = _REMEDY) -> DomainError:
        return DomainError(what, where=study.case, remedy=remedy)

    if study.planar != (plan.kind == "planar"):
        found, expected = ("a planar image", "volumes") if study.planar else ("a volume", "planar images")
        raise refuse(f"this is {found}, the model was trained on {expected}", _KIND_REMEDY)
    if domain.modalities and study.modality and study.modality not in domain.modalities:
        raise refuse(
            f"the modality is {study.modality}, the model was trained on {', '.join(domain.modalities)}", _KIND_REMEDY
        )
    if domain.views and study.view and study.view not in domain.views:
        raise refuse(f"the view is {study.view}, the model was trained on {', '.join(domain.views)} ones", _KIND_REMEDY)
    low, high = float(study.image.min()), float(study.image.max())
    if domain.values is not None:
        least, most = domain.values
        scaled = high <= 1 < most and bool((study.image % 1).any())  # shares of 1, which lie within the range, too
        if scaled or not least <= low <= high <= most:
            what = f"the values go from {low:g} to {high:g}, the model takes {least:g} to {most:g}"
            raise refuse(what, _SCALE_REMEDY)
    if plan.fit == "resize":
        height, width = study.grid[:2]
        if _MOST_ENLARGED * min(height, width) < min(plan.canvas):
            raise refuse(f"it has {height} x {width} pixels, too few for anything to be told", _BLANK_REMEDY)
        stretch = height * plan.canvas[1] / (width * plan.canvas[0])
        if max(stretch, 1 / stretch) > _MOST_STRETCHED:
            raise refuse(f"it has {height} x {width} pixels, a strip to a model that sees all at once")
    if plan.intensity.method == "percentile" and _is_constant(study, plan):
        raise refuse("its values are all the same, so that there is nothing to see", _BLANK_REMEDY)
    if study.spacing is None:
        return
    axes = 2 if study.planar else 3
    spacing = study.spacing[:axes]
    extent = tuple(size * step for size, step in zip(study.grid[:axes], spacing, strict=True))
    properties: list[tuple[str, tuple[float, ...], tuple[float, float] | None]] = [
        ("spacing", spacing, domain.spacing_mm),
        ("field of view", extent, domain.extent_mm),
    ]
    for name, values, bounds in properties:
        if bounds is not None and not all(bounds[0] <= value <= bounds[1] for value in values):
            found = " x ".join(f"{value:.4g}" for value in values)
            raise refuse(
                f"the {name} is {found} mm, the model was trained on {bounds[0]:g} to {bounds[1]:g} mm an axis"
            )


def _is_constant(study: Study, plan: Plan) -> bool:
    """Whether the window of intensities is empty, as of a black image, or of one with a few odd pixels."""
    some = study.image.ravel()[:: study.image.size // _ENOUGH_VOXELS | 1]
    low, high = np.percentile(some, (plan.intensity.low, plan.intensity.high))
    return bool(low == high)
