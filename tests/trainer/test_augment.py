"""Augmentation moves image and label together, and the seed alone decides how."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from cdal_trainer.augment import Augmenter, colour_matrix
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
    everything = Augmentation(affine=1, rotation=20, scale=(0.8, 1.2), translation=3, gamma=1, bias=1, noise=1, blur=1)
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


def test_occlusion_replaces_rectangles_of_the_image_alone():
    augmenter = Augmenter(Augmentation(occlusion=1.0, occlusion_size=(4, 9)))
    shares = []
    for seed in range(20):
        image, label = augmenter(np.array(IMAGE), SQUARE, seed)
        np.testing.assert_array_equal(label, SQUARE)
        shares.append(float((image[0] != torch.from_numpy(IMAGE[0])).float().mean()))
    assert 0 < min(shares) < 0.1 < max(shares) < 0.5  # one of 4 x 4 up to four of 9 x 9, of 32 x 32


def test_a_stronger_field_changes_more():
    weak, strong = (Augmenter(Augmentation(bias=1.0, bias_strength=s))(IMAGE, SQUARE, 3)[0] for s in (0.1, 0.5))
    changes = [float((changed - torch.from_numpy(IMAGE)).abs().mean()) for changed in (weak, strong)]
    assert 0 < changes[0] < changes[1]


def test_flips_and_turns_move_image_and_label_together():
    augmenter, square = Augmenter(Augmentation(flip=0.5, turn=0.75)), SQUARE[:24, :24]
    seen = set()
    for seed in range(40):
        image, label = augmenter(np.ascontiguousarray(IMAGE[:, :24, :24]), square, seed)
        assert np.array_equal(image[0], label)
        seen.add(label.numpy().tobytes())
    assert len(seen) == 8  # the square's whole symmetry group


class TestColour:
    def test_gray_stays_gray(self):
        for saturation, hue in ((0.3, 0.2), (1.7, -0.4), (1.0, 0.0)):
            np.testing.assert_allclose(colour_matrix(saturation, hue) @ np.ones(3), 1, atol=1e-12)

    def test_no_change_is_the_identity(self):
        np.testing.assert_allclose(colour_matrix(1, 0), np.eye(3), atol=1e-12)

    def test_a_third_of_a_turn_takes_red_to_another_primary(self):
        turned = [colour_matrix(1, share) @ [1, 0, 0] for share in (1 / 3, -1 / 3)]
        np.testing.assert_allclose(sorted(map(tuple, turned)), [[0, 0, 1], [0, 1, 0]], atol=1e-12)

    def test_no_saturation_leaves_luma(self):
        np.testing.assert_allclose(colour_matrix(0, 0) @ [1, 0, 0], 0.299, atol=1e-12)

    def test_the_label_stays_and_the_seed_decides(self):
        augmenter = Augmenter(Augmentation(colour=1, brightness=0.5, contrast=0.4, saturation=0.4, hue=0.1))
        colour = np.stack([SQUARE, 0 * SQUARE, SQUARE]).astype(np.float32)
        (image, label), (again, _), (other, _) = (augmenter(colour, SQUARE, seed) for seed in (0, 0, 1))
        assert np.array_equal(label, SQUARE)
        assert torch.equal(image, again)
        assert not torch.equal(image, other)
        assert not np.array_equal(image, colour)


def test_a_histogram_change_keeps_the_order_of_intensities():
    ramp = np.linspace(0, 1, 1024, dtype=np.float32).reshape(1, 32, 32)
    changed = [Augmenter(Augmentation(histogram=1))(ramp, SQUARE, seed)[0] for seed in range(5)]
    assert all((image.flatten().diff() >= 0).all() for image in changed)
    assert not any(np.allclose(image, ramp, atol=1e-3) for image in changed)


def test_padding_with_zeros_shows_black_at_the_border():
    bright = np.ones((1, 32, 32), np.float32)
    away = Augmentation(affine=1, scale=(0.5, 0.5), padding="zeros")
    assert Augmenter(away)(bright, SQUARE, 0)[0][0, 0, 0] == 0
    assert Augmenter(replace(away, padding="border"))(bright, SQUARE, 0)[0][0, 0, 0] == 1


def test_the_original_is_not_changed():
    image, label = IMAGE.copy(), SQUARE.copy()
    Augmenter(Augmentation(1, 20, gamma=1, noise=1))(image, label, 0)
    np.testing.assert_array_equal(image, IMAGE)
    np.testing.assert_array_equal(label, SQUARE)
