"""Tiny models and small inputs for whole runs."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from tests.tiny_model import PLANAR, VOLUME, save_tiny


@pytest.fixture(scope="session")
def volume_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(VOLUME, tmp_path_factory.mktemp("models") / "volume")


@pytest.fixture(scope="session")
def planar_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(PLANAR, tmp_path_factory.mktemp("models") / "planar")


def write_volume(path: Path, seed: int = 0, shape: tuple[int, ...] = (11, 13, 7)) -> Path:
    """A NIfTI volume of smooth noise under an oblique, flipped affine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).random(shape).astype(np.float32) * 1000
    angle = np.radians(10)
    affine = np.array(
        [[-np.cos(angle), np.sin(angle), 0, 12], [np.sin(angle), np.cos(angle), 0, -7], [0, 0, 1.2, 3], [0, 0, 0, 1]]
    )
    image = nibabel.Nifti1Image(values, affine)
    image.set_sform(affine, code=2)
    nibabel.save(image, path)
    return path
