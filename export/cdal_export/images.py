"""The images of an export: the gate compares engines on some, and INT8 is calibrated on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cdal_sdk.bundle import Manifest
from cdal_sdk.errors import DomainError, UsageError
from cdal_sdk.gate_images import gate_images, synthetic_images
from cdal_sdk.readers import CaseFiles, discover, read_study
from cdal_sdk.slicing import Plan, check_domain, match_channels

__all__ = ["ExportImages", "choose_images"]

# Pixels of the network's inputs: the float32 reference takes its time for each, calibration somewhat less.
_TO_JUDGE = 2 * 288 * 288
_TO_CALIBRATE = _TO_JUDGE // 4
_CASES = 16  # for either; of more of them less could be shown
_CALIBRATING = 8  # cases at least, where there are more: of two, a range was met by chance

_T = TypeVar("_T")
Images = tuple[NDArray[np.float32], ...]


@dataclass(frozen=True)
class ExportImages:
    """Arrays [n, channel, h, w], a case each.

    Attributes:
        gate: to compare on.
        calibration: to quantise on; of no case that is compared on, and empty where nothing is quantised.
        described: what they are, in words.
    """

    gate: Images
    calibration: Images
    described: str


def choose_images(
    manifest: Manifest, data: Path | None, travelling: Sequence[NDArray[np.float32]], *, int8: bool
) -> ExportImages:
    """Images from cases of a folder, evenly chosen; else those that travel with the model; else a synthetic one.

    For INT8 some cases calibrate and the others judge, so that nothing is judged by what it was fitted to.

    Raises:
        UsageError: if there is a single case for INT8.
        CdalError: if the folder holds no case, or a chosen one cannot be used.
    """
    if data is not None:
        return _of_cases(manifest.plan, data, int8=int8)
    images = list(travelling) or synthetic_images(manifest)
    described = "images that travel with the model" if travelling else "a synthetic image"
    judging, calibrating = _split(images, len(images)) if int8 else (images, [])
    return ExportImages(tuple(judging), tuple(calibrating), described)


def _of_cases(plan: Plan, data: Path, *, int8: bool) -> ExportImages:
    cases = list(discover([_images_beside_masks(data) or data]))
    count = min(_CASES, max(1, _TO_JUDGE // (plan.canvas[0] * plan.canvas[1])))
    chosen = _evenly(cases, count + max(count, _CALIBRATING) if int8 else count)
    judging, calibrating = _split(chosen, count) if int8 else (chosen, [])
    described = f"{len(judging)} case(s) of {data}"
    if int8:
        described += f", having calibrated on {len(calibrating)} other(s)"
    return ExportImages(_images(judging, plan, _TO_JUDGE), _images(calibrating, plan, _TO_CALIBRATE), described)


def _images_beside_masks(data: Path) -> Path | None:
    """The images of a folder as for training: its masks would be read as images, too."""
    for images, masks in (("images", "masks"), ("imagesTr", "labelsTr")):
        if (data / images).is_dir() and (data / masks).is_dir():
            return data / images
    return None


def _evenly(cases: Sequence[CaseFiles], count: int) -> list[CaseFiles]:
    places = np.linspace(0, len(cases) - 1, min(count, len(cases))).round().astype(int)
    return [cases[place] for place in places]


def _split(cases: Sequence[_T], count: int) -> tuple[Sequence[_T], Sequence[_T]]:
    """So many cases that judge, and no more than half of them, evenly chosen; the others calibrate."""
    if len(cases) < 2:
        raise UsageError(
            "INT8 needs two cases at least, some to calibrate on and others to judge by", remedy="give them by --data"
        )
    count = min(count, len(cases) // 2)
    judging = [(2 * number + 1) * len(cases) // (2 * count) for number in range(count)]
    return [cases[place] for place in judging], [case for place, case in enumerate(cases) if place not in judging]


def _images(cases: Sequence[CaseFiles], plan: Plan, pixels: int) -> Images:
    """From each case an equal share of so many pixels."""
    return tuple(_of_case(files, plan, pixels // len(cases)) for files in cases)


def _of_case(files: CaseFiles, plan: Plan, pixels: int) -> NDArray[np.float32]:
    study = match_channels(read_study(files), plan)
    try:
        check_domain(study, plan)
    except DomainError as error:  # whose remedies are a segmentation's: a gate has no use for what is forced
        raise DomainError(error.what, where=error.where, remedy="leave it out of --data") from error
    return gate_images(study, plan, pixels)
