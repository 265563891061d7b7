"""Augmentation of a training slice, by MONAI's transforms, reproducible from one seed a slice."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

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
        RandCoarseDropoutd,
        RandGaussianNoised,
        RandGaussianSmoothd,
        RandHistogramShiftd,
    )
    from monai.transforms.spatial.dictionary import RandAffined, RandFlipd, RandRotate90d
    from monai.transforms.transform import RandomizableTransform

__all__ = ["Augmenter", "colour_matrix"]

_BOTH = ("image", "label")
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


class Augmenter:
    """Applies a recipe's augmentation to image and label together."""

    def __init__(self, settings: Augmentation) -> None:
        angle = math.radians(settings.rotation)
        low, high = settings.scale
        strength, (small, large) = settings.bias_strength, settings.occlusion_size
        transforms = [
            RandAffined(
                keys=_BOTH,
                prob=settings.affine,
                rotate_range=(angle,),
                # MONAI maps output to input coordinates by 1 + scale_range: a zoom of f is a factor of 1/f
                scale_range=((1 / high - 1, 1 / low - 1),) * 2,
                translate_range=(settings.translation,) * 2,
                mode=("bilinear", "nearest"),
                padding_mode=(settings.padding, "zeros"),
                cache_grid=False,
            ),
            RandFlipd(keys=_BOTH, prob=settings.flip, spatial_axis=0),
            RandFlipd(keys=_BOTH, prob=settings.flip, spatial_axis=1),
            RandRotate90d(keys=_BOTH, prob=settings.turn, max_k=3),
            _RandColour(settings),
            RandHistogramShiftd(keys="image", prob=settings.histogram, num_control_points=(4, 8)),
            RandAdjustContrastd(keys="image", prob=settings.gamma, gamma=settings.gamma_range),
            RandBiasFieldd(keys="image", prob=settings.bias, degree=2, coeff_range=(-strength, strength)),
            RandCoarseDropoutd(
                keys="image", prob=settings.occlusion, holes=1, max_holes=4, spatial_size=small, max_spatial_size=large
            ),
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


class _RandColour(RandomizableTransform):
    """Brightness, contrast, saturation and hue at random (MONAI has no hue)."""

    def __init__(self, settings: Augmentation) -> None:
        super().__init__(settings.colour)
        self.prob = settings.colour
        self.settings = settings

    def __call__(self, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self.randomize(None)
        if not self._do_transform:
            return dict(data)
        settings = self.settings
        brightness, contrast, saturation, hue = (
            self.R.uniform(-s, s) for s in (settings.brightness, settings.contrast, settings.saturation, settings.hue)
        )
        image = data["image"]
        matrix = (1 + contrast) * colour_matrix(1 + saturation, hue)
        mixed = torch.einsum("dc,chw->dhw", torch.as_tensor(matrix, dtype=image.dtype), image)
        return {**data, "image": mixed + brightness}


def colour_matrix(saturation: float, hue: float) -> NDArray[np.float64]:
    """The linear map [3, 3] of RGB that leaves gray as it is, scales colour and turns it.

    Args:
        saturation: factor of the distance from gray (of equal luma).
        hue: turn about the gray axis, as a share of a full one.
    """
    angle = 2 * math.pi * hue
    axis = np.full(3, 1 / math.sqrt(3))
    cross = np.cross(np.eye(3), axis)  # Rodrigues' rotation about the gray axis
    turn = math.cos(angle) * np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * np.outer(axis, axis)
    gray = np.outer(np.ones(3), _LUMA)
    return turn @ (gray + saturation * (np.eye(3) - gray))
