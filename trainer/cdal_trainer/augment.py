"""Augmentation of a training slice, by MONAI's transforms, reproducible from one seed a slice."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdal_trainer.recipe import Augmentation

with warnings.catch_warnings():  # MONAI warns of optional packages on import
    warnings.simplefilter("ignore")
    from monai.transforms.compose import Compose
    from monai.transforms.intensity.dictionary import (
        RandAdjustContrastd,
        RandBiasFieldd,
        RandGaussianNoised,
        RandGaussianSmoothd,
    )
    from monai.transforms.spatial.dictionary import RandAffined

__all__ = ["Augmenter"]


class Augmenter:
    """Applies a recipe's augmentation to image and label together."""

    def __init__(self, settings: Augmentation) -> None:
        angle = math.radians(settings.rotation)
        low, high = settings.scale
        transforms = [
            RandAffined(
                keys=("image", "label"),
                prob=settings.affine,
                rotate_range=(angle,),
                # MONAI maps output to input coordinates by 1 + scale_range: a zoom of f is a factor of 1/f
                scale_range=((1 / high - 1, 1 / low - 1),) * 2,
                translate_range=(settings.translation,) * 2,
                mode=("bilinear", "nearest"),
                padding_mode=("border", "zeros"),
                cache_grid=False,
            ),
            RandAdjustContrastd(keys="image", prob=settings.gamma, gamma=settings.gamma_range),
            RandBiasFieldd(keys="image", prob=settings.bias, degree=2, coeff_range=(-0.3, 0.3)),
            RandGaussianSmoothd(keys="image", prob=settings.blur, sigma_x=(0.3, 1.0), sigma_y=(0.3, 1.0)),
            RandGaussianNoised(keys="image", prob=settings.noise, std=settings.noise_std),
        ]
        self.transform = Compose([t for t in transforms if getattr(t, "prob", 1.0) > 0])

    def __call__(self, image: NDArray[np.float32], label: NDArray[np.uint8], seed: int) -> tuple[Tensor, Tensor]:
        """Image float32 [channel, h, w] and label uint8 [h, w], changed alike by the seed's random numbers."""
        self.transform.set_random_state(seed)
        changed = self.transform({"image": torch.from_numpy(image), "label": torch.from_numpy(label[None]).float()})
        return (
            torch.as_tensor(np.asarray(changed["image"]), dtype=torch.float32),
            torch.as_tensor(np.asarray(changed["label"]))[0].round().to(torch.uint8),
        )
