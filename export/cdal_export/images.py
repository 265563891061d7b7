"""The images of an export: the gate compares engines on some, and INT8 is calibrated on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdal_sdk.bundle import Manifest
from cdal_sdk.gate import gate_images, synthetic_images
from cdal_sdk.readers import CaseFiles, discover, read_study
from cdal_sdk.slicing import check_domain, match_channels
from cdal_sdk.study import Study

__all__ = ["ExportImages", "choose_images"]

_CASES_OF_ONE_IMAGE = 16
_CASES_OF_MANY = 2  # slices or tiles, of which the gate takes up to 64 each

Images = tuple[NDArray[np.float32], ...]


@dataclass(frozen=True)
class ExportImages:
    """Arrays [n, channel, h, w], a case each.

    Attributes:
        gate: to compare on.
        calibration: to quantise on.
        described: what they are, in words.
    """

    gate: Images
    calibration: Images
    described: str


def choose_images(
    manifest: Manifest, data: Path | None, travelling: Sequence[NDArray[np.float32]], *, int8: bool
) -> ExportImages:
    """Images from cases of a folder, evenly chosen; else those that travel with the model; else a synthetic one.

    For INT8 every second case calibrates and the others judge, so that nothing is judged by what it was fitted to.

    Raises:
        CdalError: if the folder holds no case, or a chosen one cannot be used.
    """
    if data is not None:
        studies = [_study(files, manifest) for files in _chosen(data, manifest)]
        images, described = gate_images(manifest, studies), f"{len(studies)} case(s) of {data}"
    elif travelling:
        images, described = list(travelling), "images that travel with the model"
    else:
        images, described = synthetic_images(manifest), "a synthetic image"
    if int8 and len(images) > 1:
        return ExportImages(tuple(images[1::2]), tuple(images[::2]), f"{described}, every second one")
    return ExportImages(tuple(images), tuple(images), described)


def _chosen(data: Path, manifest: Manifest) -> list[CaseFiles]:
    cases = list(discover([data]))
    plan = manifest.plan
    count = _CASES_OF_MANY if plan.kind == "volume" or plan.fit == "tile" else _CASES_OF_ONE_IMAGE
    places = np.linspace(0, len(cases) - 1, min(count, len(cases))).round().astype(int)
    return [cases[place] for place in places]


def _study(files: CaseFiles, manifest: Manifest) -> Study:
    study = match_channels(read_study(files), manifest.plan)
    check_domain(study, manifest.plan)
    return study
