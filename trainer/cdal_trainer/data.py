"""Training data: cases of a Decathlon folder, stable folds, and batches that depend on (seed, step) alone."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from cdal_sdk.errors import DomainError, ReadError, TrainingError
from cdal_sdk.readers.nifti import read_nifti
from cdal_sdk.slicing import Plan, match_channels, prepare
from cdal_sdk.slicing.resample import resample
from cdal_sdk.study import Study
from cdal_trainer.augment import Augmenter
from cdal_trainer.recipe import Recipe

__all__ = [
    "Batch",
    "LabelledCase",
    "PreparedCase",
    "SliceBatches",
    "decathlon_cases",
    "prepare_case",
    "read_label",
    "split_folds",
]

Batch = tuple[Tensor, Tensor]
"""Images float32 [batch, channel, h, w] and label values uint8 [batch, h, w]."""


@dataclass(frozen=True)
class LabelledCase:
    """An image with its label map, both on disk."""

    name: str
    image: Path
    label: Path


@dataclass(frozen=True)
class PreparedCase:
    """A case as the network sees it.

    Attributes:
        name: of the case.
        images: float32 [slice, channel, h, w].
        labels: uint8 [slice, h, w], values of the label map.
    """

    name: str
    images: NDArray[np.float32]
    labels: NDArray[np.uint8]


def decathlon_cases(folder: Path) -> list[LabelledCase]:
    """The labelled cases that a Decathlon folder's `dataset.json` lists, in its order.

    Raises:
        TrainingError: if it is missing or unusable, or a file that it names does not exist.
    """
    index = folder / "dataset.json"
    remedy = "give a folder in the form of the Medical Segmentation Decathlon"
    try:
        entries = json.loads(index.read_text(encoding="utf-8"))["training"]
        cases = [
            LabelledCase(
                Path(entry["image"]).name.removesuffix(".gz").removesuffix(".nii"),
                folder / entry["image"],
                folder / entry["label"],
            )
            for entry in entries
        ]
    except OSError as error:
        raise TrainingError(f"the index cannot be read ({error.strerror})", where=index, remedy=remedy) from None
    except (ValueError, KeyError, TypeError):
        raise TrainingError("this lists no 'training' images and labels", where=index, remedy=remedy) from None
    for case in cases:
        for path in (case.image, case.label):
            if not path.is_file():
                raise TrainingError("the index names this file, but it does not exist", where=path, remedy="restore it")
    if not cases:
        raise TrainingError("the index lists no cases", where=index, remedy=remedy)
    if twice := [name for name, count in Counter(case.name for case in cases).items() if count > 1]:
        raise TrainingError(f"the index lists two cases named '{twice[0]}'", where=index, remedy="rename one of them")
    return cases


def split_folds(names: list[str], folds: int, fold: int) -> tuple[list[str], list[str]]:
    """Training and validation names of one fold.

    Cases are dealt to folds in the order of a hash of their names: stable under reordering, independent of anything
    that an acquisition order may hide.

    Raises:
        TrainingError: if the fold does not exist or would leave either side empty.
    """
    if not 0 <= fold < folds:
        raise TrainingError(f"there is no fold {fold} of {folds}", remedy=f"choose 0 to {folds - 1}")
    dealt = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    held_out = set(dealt[fold::folds])
    if not held_out or len(held_out) == len(names):
        raise TrainingError(
            f"fold {fold} of {folds} over {len(names)} case(s) leaves one side empty", remedy="use other data.folds"
        )
    return [n for n in names if n not in held_out], [n for n in names if n in held_out]


def read_label(case: LabelledCase, study: Study, values: set[int]) -> NDArray[np.uint8]:
    """The label map of a case, uint8 [i, j, k] on the image's grid.

    Raises:
        TrainingError: if shape or place differ from the image's, or a value is neither 0 nor in `values`.
    """
    label = read_nifti(case.name, case.label)
    if label.grid != study.grid:
        raise TrainingError(
            f"the label map has {label.grid} voxels, its image {study.grid}",
            where=case.label,
            remedy="give them the same grid",
        )
    if study.affine is not None and label.affine is not None and not np.allclose(label.affine, study.affine, atol=1e-3):
        raise TrainingError(
            "the label map lies elsewhere than its image", where=case.label, remedy="correct the affine"
        )
    found = {float(v) for v in np.unique(label.image)}
    if extra := sorted(found - {0.0} - {float(v) for v in values}):
        raise TrainingError(
            f"the label map holds the value {extra[0]:g}, which is no label", where=case.label, remedy="map its labels"
        )
    mask: NDArray[np.uint8] = label.image[0].astype(np.uint8)
    return mask


def prepare_case(case: LabelledCase, plan: Plan, values: set[int]) -> PreparedCase:
    """Read a case and take image and label to the network's grid, with the very code of inference.

    Raises:
        TrainingError: naming the file, if it cannot be used.
    """
    try:
        study = match_channels(read_nifti(case.name, case.image), plan)
        mask = read_label(case, study, values)
    except (ReadError, DomainError) as error:
        raise TrainingError(error.what, where=error.where, remedy=error.remedy) from error
    prepared = prepare(study, plan)
    if len(prepared.tiling.corners) > 1:
        raise TrainingError(
            f"its slices of {prepared.working_grid[:2]} pixels are larger than the canvas {plan.canvas}",
            where=case.image,
            remedy="give a larger plan.canvas, or crop the case",
        )
    oriented = np.ascontiguousarray(prepared.reorientation.apply(mask[None])).astype(np.float32)
    slices = resample(oriented, prepared.working_grid, order=0)[0].transpose(2, 0, 1).astype(np.uint8)
    padding = [(0, 0), *((0, have - want) for have, want in zip(prepared.tiling.size, slices.shape[1:], strict=True))]
    return PreparedCase(case.name, prepared.images, np.pad(slices, padding))


class SliceBatches(Dataset[Batch]):
    """Item s is the whole batch of step s: a function of (seed, rank, step), so that a resumed run sees the same."""

    def __init__(self, cases: list[PreparedCase], recipe: Recipe, rank: int = 0) -> None:
        self.recipe = recipe
        self.rank = rank
        self.images = [case.images for case in cases]
        self.labels = [case.labels for case in cases]
        everywhere = [(c, s) for c, labels in enumerate(self.labels) for s in range(len(labels))]
        self.slices = np.array(everywhere)
        self.foreground = np.array([(c, s) for c, s in everywhere if self.labels[c][s].any()])
        if not len(self.foreground):
            raise TrainingError("no training case holds any label", remedy="check the label maps")
        self.augmenter = Augmenter(recipe.augmentation)

    def __len__(self) -> int:
        return self.recipe.optimisation.steps

    def __getitem__(self, step: int) -> Batch:
        optimisation, data = self.recipe.optimisation, self.recipe.data
        rng = np.random.default_rng([optimisation.seed, self.rank, step])
        images, labels = [], []
        for _ in range(optimisation.batch):
            pool = self.foreground if rng.random() < data.foreground_share else self.slices
            case, index = pool[rng.integers(len(pool))]
            cropped = self._crop(self.images[case][index], self.labels[case][index], rng)
            image, label = self.augmenter(*cropped, int(rng.integers(2**31)))
            images.append(image)
            labels.append(label)
        return torch.stack(images), torch.stack(labels)

    def _crop(
        self, image: NDArray[np.float32], label: NDArray[np.uint8], rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """A random window of the crop's size; what is smaller is padded at the far edges, as in inference."""
        height, width = self.recipe.data.crop
        rows, columns = (max(0, want - have) for want, have in zip((height, width), label.shape, strict=True))
        image = np.pad(image, ((0, 0), (0, rows), (0, columns)), constant_values=self.recipe.plan.intensity.target[0])
        label = np.pad(label, ((0, rows), (0, columns)))
        top, left = (
            int(rng.integers(have - want + 1)) for have, want in zip(label.shape, (height, width), strict=True)
        )
        window = (slice(top, top + height), slice(left, left + width))
        return image[:, *window], label[window]
