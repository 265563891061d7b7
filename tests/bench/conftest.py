"""A tiny model and trained checkpoints of tiny baselines for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cdal_trainer.hardware import Hardware
from cdal_trainer.recipe import Recipe
from cdal_trainer.training import train
from tests.tiny_model import VOLUME, save_tiny
from tests.trainer.conftest import recipe, write_folder

__all__ = ["recipe"]


@pytest.fixture(scope="session")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Decathlon folder of three small cases."""
    return write_folder(tmp_path_factory.mktemp("data") / "Task")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> Path:
    """A tiny model for these cases."""
    return save_tiny(replace(VOLUME, plan=recipe.plan), tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe, task: Path) -> dict[str, Path]:
    """`best.pt` of two steps of each baseline."""
    folder = tmp_path_factory.mktemp("runs")
    settings = replace(recipe.optimisation, steps=2, validate_every=2)
    short = replace(recipe, optimisation=settings, diffusion=replace(recipe.diffusion, votes=1))
    return {
        name: train(replace(short, method=name), task, folder / name, hardware=Hardware("cpu", 1, "32-true", 0))
        for name in ("segdiff", "unet")
    }
