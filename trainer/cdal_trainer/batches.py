"""Batches of training slices that depend on (seed, rank, step) alone."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from cdal_sdk.errors import TrainingError
from cdal_trainer.augment import Augmenter
from cdal_trainer.prepared import PreparedCase
from cdal_trainer.recipe import Recipe

__all__ = ["Batch", "SliceBatches"]

Batch = tuple[Tensor, Tensor]
"""Images float32 [batch, channel, h, w] and label values uint8 [batch, h, w]."""


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
        self.last_augmenter = Augmenter(recipe.augmentation.symmetries())

    def __len__(self) -> int:
        return self.recipe.optimisation.steps

    def __getitem__(self, step: int) -> Batch:
        optimisation, data = self.recipe.optimisation, self.recipe.data
        rng = np.random.default_rng([optimisation.seed, self.rank, step])
        early = step < self.recipe.augmentation.until * optimisation.steps
        augmenter = self.augmenter if early else self.last_augmenter
        images, labels = [], []
        for _ in range(optimisation.batch):
            pool = self.foreground if rng.random() < data.foreground_share else self.slices
            case, index = pool[rng.integers(len(pool))]
            cropped = self._crop(self.images[case][index], self.labels[case][index], rng)
            image, label = augmenter(*cropped, int(rng.integers(2**31)))
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
