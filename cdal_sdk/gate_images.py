"""What a gate judges on: images of a study, evenly chosen, or synthetic ones."""

from __future__ import annotations

import hashlib
import math
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cdal_sdk.bundle import GATE_FILE, Manifest
from cdal_sdk.example import example_study
from cdal_sdk.planar_phantoms import chest, tissue
from cdal_sdk.slicing import Plan, prepare
from cdal_sdk.study import Source, Study

__all__ = ["evenly", "gate_images", "judged_by", "synthetic_images"]

_Value = TypeVar("_Value", bound=np.generic)

_IMAGES_AT_FIRST_USE = 4
_PIXELS_AT_FIRST_USE = 4 * 128 * 128  # somebody waits for it


def judged_by(manifest: Manifest) -> str:
    """What identifies that by which a gate at a first use judges: the model's way to a mask, and images that travel.

    These by the hash that the manifest has of them; where there are none, it determines the synthetic ones.
    """
    way = (manifest.labels, manifest.decision, manifest.polarity, manifest.plan, manifest.files.get(GATE_FILE))
    return hashlib.sha256(repr(way).encode()).hexdigest()


def gate_images(study: Study, plan: Plan, pixels: int) -> NDArray[np.float32]:
    """Network inputs of a study, evenly chosen: as many as have so many pixels together, and at least one."""
    images = prepare(study, plan).images
    height, width = images.shape[2:]
    return evenly(images, max(1, pixels // (height * width)))


def synthetic_images(manifest: Manifest) -> list[NDArray[np.float32]]:
    """Images for a gate where there are no real ones: of the synthetic example, or of a synthetic picture."""
    height, width = manifest.plan.canvas
    count = min(_IMAGES_AT_FIRST_USE, max(1, _PIXELS_AT_FIRST_USE // (height * width)))
    study = example_study() if manifest.plan.kind == "volume" else _picture(manifest)
    return [evenly(prepare(study, manifest.plan).images, count)]


def evenly(images: NDArray[_Value], count: int) -> NDArray[_Value]:
    """So many images, evenly chosen without the outermost, which show the least."""
    if len(images) <= count:
        return images
    chosen: NDArray[_Value] = images[np.linspace(0, len(images) - 1, count + 2).round().astype(int)[1:-1]]
    return chosen


def _picture(manifest: Manifest) -> Study:
    """A synthetic picture of which one canvas, or tile, is made: a chest X-ray for gray models, else stained tissue."""
    plan = manifest.plan
    height, width = (math.ceil(side / (plan.scale or 1)) for side in plan.canvas)
    picture = chest(height, width)[np.newaxis] if plan.channels == 1 else tissue(height, width)
    channels = np.resize(picture, (plan.channels, height, width))  # repeated where a model takes more
    return Study("synthetic", channels[..., np.newaxis], None, Source("array"))
