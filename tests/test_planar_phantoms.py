"""Synthetic pictures for the gate: a model takes them for its own kind, so that its masks on them are decided."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import label as connected

from cdal_sdk.bundle import load_model
from cdal_sdk.engines import VoteMaps
from cdal_sdk.engines.eager import TorchEngine
from cdal_sdk.gate_images import synthetic_images
from cdal_sdk.planar_phantoms import chest, tissue


def on_synthetic(name: str, side: int) -> tuple[np.ndarray, VoteMaps]:
    """A corner of the synthetic picture of a bundled model, and what the reference makes of it."""
    model = load_model(name)
    (images,) = synthetic_images(model.manifest)
    images = np.ascontiguousarray(images[..., :side, :side])
    return images, TorchEngine(model.generator, model.manifest.sampling(), "cpu").run(images)


def test_a_chest_has_two_lungs() -> None:
    _, maps = on_synthetic("chest-xray", 96)
    parts, count = connected(maps.mean[0, 0] > 0)
    assert count == 2
    assert all(0.08 < (parts == number).mean() < 0.25 for number in (1, 2))
    assert (np.abs(maps.mean) < 0.5).mean() < 0.1, "little of it is undecided"


def test_tissue_has_dark_nuclei() -> None:
    images, maps = on_synthetic("nuclei", 96)
    red = images[0, 0]
    dark, found = red < (red.min() + red.max()) / 2, maps.mean[0, 0] > 0
    assert 2 * (dark & found).sum() / (dark.sum() + found.sum()) > 0.8
    assert (np.abs(maps.mean) < 0.5).mean() < 0.1, "little of it is undecided"


@pytest.mark.parametrize("draw", [chest, tissue])
def test_a_picture_is_the_same_every_time_and_of_any_size(draw) -> None:
    for size in ((30, 47), (200, 120)):
        picture = draw(*size)
        assert picture.shape[-2:] == size
        assert (picture.min() >= 0, picture.max() <= 255) == (True, True)
        np.testing.assert_array_equal(picture, draw(*size))
