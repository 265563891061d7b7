"""What goes in: labelled cases where they are given, else synthetic files of the kind that a model takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cdal_sdk.bundle import Manifest
from cdal_sdk.example import write_example
from cdal_sdk.readers import discover, read_study
from cdal_sdk.slicing import match_channels, prepare
from cdal_trainer.cases import LabelledCase, labelled_cases

__all__ = ["Inputs", "find_inputs"]

_SYNTHETIC_SIDE = 512
_SAMPLES = 4


@dataclass(frozen=True)
class Inputs:
    """Files to segment and the network inputs of the first one.

    Attributes:
        paths: a case each.
        images: float32 [n, channel, h, w], from the middle of the first case outwards.
        samples: up to four images of each case, for the gate.
        labelled: with their label maps, where those are known.
        description: where they come from, in words.
    """

    paths: tuple[Path, ...]
    images: NDArray[np.float32]
    samples: tuple[NDArray[np.float32], ...]
    labelled: tuple[LabelledCase, ...]
    description: str

    def batch(self, size: int) -> NDArray[np.float32]:
        """So many images, over again where there are fewer."""
        return self.images[np.arange(size) % len(self.images)]


def find_inputs(manifest: Manifest, data: Path | None, cases: int, folder: Path) -> Inputs:
    """Labelled cases of a data folder, or without one a synthetic case written to `folder`.

    Args:
        manifest: of the model.
        data: as for `cdal train`.
        cases: at most so many, evenly chosen.
        folder: for synthetic files.

    Raises:
        TrainingError: if the data folder is unusable.
        ReadError: if an image cannot be read.
    """
    labelled: tuple[LabelledCase, ...] = ()
    paths: tuple[Path, ...]
    if data is None:
        paths, description = (_synthetic(manifest, folder),), "synthetic"
    else:
        labelled = _evenly(labelled_cases(data), max(cases, 1))
        paths, description = tuple(case.image for case in labelled), f"{len(labelled)} labelled case(s)"
    images = _images(manifest, paths[0])
    further = (_images(manifest, path) for path in paths[1:])
    samples = tuple(case[:_SAMPLES] for case in (images, *further))
    return Inputs(paths, images, samples, labelled, description)


def _images(manifest: Manifest, path: Path) -> NDArray[np.float32]:
    """Network inputs of a case, from the middle outwards."""
    study = match_channels(read_study(discover([path])[0]), manifest.plan)
    images = prepare(study, manifest.plan).images
    order = np.argsort(np.abs(np.arange(len(images)) - len(images) // 2), kind="stable")
    return images[order]


def _evenly(cases: Sequence[LabelledCase], count: int) -> tuple[LabelledCase, ...]:
    chosen = np.linspace(0, len(cases) - 1, min(count, len(cases))).round().astype(int)
    return tuple(cases[index] for index in chosen)


def _synthetic(manifest: Manifest, folder: Path) -> Path:
    if manifest.plan.kind == "volume":
        return write_example(folder).nifti / "example.nii.gz"
    colours = manifest.plan.channels
    noise = np.random.default_rng(0).integers(0, 256, (_SYNTHETIC_SIDE, _SYNTHETIC_SIDE, colours), dtype=np.uint8)
    path = folder / "synthetic.png"
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise if colours == 3 else noise[..., 0]).save(path)
    return path
