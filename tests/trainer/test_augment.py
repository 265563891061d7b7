"""Augmentation moves image and label together, and the seed alone decides how."""

from __future__ import annotations

import numpy as np
import torch

from cdal_trainer.augment import Augmenter
from cdal_trainer.recipe import Augmentation

SQUARE = np.zeros((32, 32), np.uint8)
SQUARE[8:20, 10:26] = 2
IMAGE = np.stack([SQUARE, 2 * SQUARE]).astype(np.float32)
MOVING = Augmentation(affine=1.0, rotation=30, scale=(0.7, 1.4), translation=4)


def test_without_augmentation_nothing_changes():
    image, label = Augmenter(Augmentation())(IMAGE, SQUARE, 0)
    np.testing.assert_array_equal(image, IMAGE)
    np.testing.assert_array_equal(label, SQUARE)
    assert (image.dtype, label.dtype) == (torch.float32, torch.uint8)


def test_image_and_label_move_together():
    augmenter = Augmenter(MOVING)
    for seed in range(8):
        image, label = augmenter(IMAGE, SQUARE, seed)
        assert set(label.unique().tolist()) <= {0, 2}
        assert ((image[0] > 1) == (label == 2)).float().mean() > 0.97
        torch.testing.assert_close(image[1], 2 * image[0])
        assert not np.array_equal(label, SQUARE)


def test_zoom_spans_its_range():
    augmenter = Augmenter(Augmentation(affine=1.0, scale=(0.7, 1.4)))
    areas = [float((augmenter(IMAGE, SQUARE, seed)[1] > 0).sum()) / (SQUARE > 0).sum() for seed in range(60)]
    assert 0.7**2 - 0.1 < min(areas) < 0.7
    assert 1.3 < max(areas) < 1.4**2 + 0.1


def test_a_seed_gives_the_same_change_again():
    everything = Augmentation(1, 20, (0.8, 1.2), 3, gamma=1, bias=1, noise=1, blur=1)
    augmenter, other = Augmenter(everything), Augmenter(everything)
    first = [augmenter(IMAGE, SQUARE, seed) for seed in (3, 4)]
    again = [other(IMAGE, SQUARE, seed) for seed in (4, 3)][::-1]
    for (image, label), (image_again, label_again) in zip(first, again, strict=True):
        assert torch.equal(image, image_again)
        assert torch.equal(label, label_again)
    assert not torch.equal(first[0][0], first[1][0])


def test_contrast_noise_and_blur_leave_the_label_alone():
    augmenter = Augmenter(Augmentation(gamma=1, bias=1, noise=1, blur=1))
    image, label = augmenter(IMAGE, SQUARE, 0)
    np.testing.assert_array_equal(label, SQUARE)
    assert not np.array_equal(image, IMAGE)


def test_the_original_is_not_changed():
    image, label = IMAGE.copy(), SQUARE.copy()
    Augmenter(Augmentation(1, 20, gamma=1, noise=1))(image, label, 0)
    np.testing.assert_array_equal(image, IMAGE)
    np.testing.assert_array_equal(label, SQUARE)
