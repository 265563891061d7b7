"""From raw values to the network's range."""

from __future__ import annotations

import numpy as np
import pytest

from cdal_sdk.slicing import Intensity
from cdal_sdk.slicing.intensity import map_intensity


def test_percentiles_of_the_case_are_the_ends():
    image = np.random.default_rng(0).permutation(np.arange(1001, dtype=np.float32)).reshape(1, 7, 11, 13)
    result = map_intensity(image, Intensity("percentile", 10, 90, target=(-1, 1)))
    np.testing.assert_allclose(result, np.clip((image - 100) / 400 - 1, -1, 1), atol=1e-6)
    assert result.dtype == np.float32


def test_zero_and_hundred_are_minimum_and_maximum():
    image = np.array([[3.0, 5.0, 11.0]], np.float32)
    result = map_intensity(image, Intensity("percentile", 0, 100, target=(0, 1)))
    np.testing.assert_allclose(result, [[0, 0.25, 1]])


def test_fixed_values_are_the_ends_whatever_the_case():
    image = np.array([[-2000.0, -1000.0, 0.0, 500.0]], np.float32)
    result = map_intensity(image, Intensity("fixed", -1000, 0, target=(-1, 1)))
    np.testing.assert_allclose(result, [[-1, -1, 1, 1]])


def test_standardise_treats_each_channel_by_itself():
    image = np.stack([np.full((2, 2), 10.0), np.full((2, 2), 50.0)]).astype(np.float32)
    result = map_intensity(image, Intensity("standardise", mean=(10, 40), std=(3, 5)))
    np.testing.assert_allclose(result[:, 0, 0], [0, 2])
    assert result.dtype == np.float32


@pytest.mark.parametrize("value", [0.0, 7.0, -3e4])
def test_a_constant_image_is_the_lower_end(value):
    result = map_intensity(np.full((1, 4, 4), value, np.float32), Intensity("percentile", 0.5, 99.5, target=(0, 1)))
    np.testing.assert_array_equal(result, 0)


def test_gain_and_offset_of_the_scanner_do_not_matter():
    image = np.random.default_rng(0).normal(size=(1, 8, 8, 8)).astype(np.float32)
    how = Intensity("percentile", 0.5, 99.5)
    np.testing.assert_allclose(map_intensity(40 * image + 300, how), map_intensity(image, how), atol=1e-4)
