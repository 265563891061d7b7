"""A Decathlon folder of three small cases, and a recipe that a test can train on them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from cdal_sdk.slicing import Domain
from cdal_trainer.recipe import Augmentation, Data, Recipe, load_recipe
from tests.tiny_model import PLANAR, VOLUME

NAMES = ("one", "two", "three")
GRID = (20, 8, 12)
AFFINE = np.array([[-1.0, 0, 0, 5], [0, 0, 1.0, -7], [0, 1.0, 0, 3], [0, 0, 0, 1]])


def write_case(folder: Path, name: str, label: np.ndarray | None = None, affine: np.ndarray | None = None) -> None:
    """An image whose labels are brighter than the rest, and its label map."""
    rng = np.random.default_rng(sum(name.encode()))
    truth = np.zeros(GRID, np.uint8)
    truth[5:13, 2:6, 2:9] = 1
    truth[10:13, 2:6, 2:9] = 2
    image = rng.normal(size=GRID).astype(np.float32) + 3 * truth
    for part, values, where in (
        ("imagesTr", image, AFFINE),
        ("labelsTr", truth if label is None else label, AFFINE if affine is None else affine),
    ):
        (folder / part).mkdir(exist_ok=True)
        nibabel.Nifti1Image(values, where).to_filename(folder / part / f"{name}.nii.gz")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The folder, for a test to use or to spoil."""
    return write_folder(tmp_path / "Task")


def write_folder(folder: Path) -> Path:
    """Three cases and their index."""
    folder.mkdir()
    entries = []
    for name in NAMES:
        write_case(folder, name)
        entries.append({"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"})
    (folder / "dataset.json").write_text(json.dumps({"training": entries}))
    return folder


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    """The hippocampus recipe, made tiny: its every feature is on."""
    bundled = load_recipe("hippocampus")
    return replace(
        bundled,
        network=VOLUME.network,
        plan=replace(bundled.plan, canvas=(32, 32), divisor=2, domain=Domain()),
        data=Data(folds=3, crop=(16, 16), validation_cases=1),
        diffusion=replace(bundled.diffusion, votes=2),
        attention=replace(bundled.attention, scale=8),
        discriminator=replace(bundled.discriminator, width=4, time_width=8, every=2),
        optimisation=replace(bundled.optimisation, steps=6, batch=2, warmup=2, validate_every=3),
        augmentation=replace(bundled.augmentation, affine=0.5, gamma=0.5, bias=0.5, noise=0.5, blur=0.5),
    )


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of three gray pictures of 32 x 32 pixels with a bright disc, and masks of it."""
    folder = tmp_path / "pictures"
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    rows, columns = np.mgrid[:32, :32]
    for number, (name, mask) in enumerate({"a1": "a1", "a2": "a2_mask", "b1": "b1"}.items()):
        disc = (rows - 14 - number) ** 2 + (columns - 18) ** 2 < 64
        Image.fromarray(np.where(disc, 200, 40).astype(np.uint8)).save(folder / f"images/{name}.png")
        Image.fromarray(np.where(disc, 255, 0).astype(np.uint8)).save(folder / f"masks/{mask}.png")
    return folder


@pytest.fixture(scope="session")
def planar_recipe(recipe: Recipe) -> Recipe:
    """The chest X-ray recipe, as tiny as the other."""
    bundled = load_recipe("chest-xray")
    return replace(
        bundled,
        network=PLANAR.network,
        plan=PLANAR.plan,
        data=Data(folds=3, crop=(16, 16), validation_cases=1),
        diffusion=recipe.diffusion,
        attention=recipe.attention,
        discriminator=recipe.discriminator,
        optimisation=recipe.optimisation,
    )


PLAIN = Augmentation()
"""No augmentation at all."""
