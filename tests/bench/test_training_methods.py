"""The baselines train by the same command on the same split, and are scored by the same one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cdal_bench.segdiff import SegDiffConfig
from cdal_sdk.bundle import load_checkpoint, load_model
from cdal_sdk.errors import ModelError, UsageError
from cdal_trainer.evaluate import choose_cases, evaluate, load_trained
from cdal_trainer.method import make_method, method_names
from cdal_trainer.recipe import Recipe, load_recipe
from cdal_trainer.state import TrainingState
from cdal_trainer.training import Hardware, train

HARDWARE = Hardware(accelerator="cpu", precision="32-true", workers=0)
METHODS = ("resunet", "segdiff", "unet", "unetplusplus")


@pytest.fixture
def discs(tmp_path: Path) -> Path:
    """Four pictures of a bright disc, and masks of it."""
    rows, columns = np.mgrid[:32, :32]
    for part in ("images", "masks"):
        (tmp_path / "data" / part).mkdir(parents=True)
    for number in range(4):
        disc = (rows - 12 - number) ** 2 + (columns - 16) ** 2 < 70
        for part, inside, outside in (("images", 200, 40), ("masks", 255, 0)):
            picture = Image.fromarray(np.where(disc, inside, outside).astype(np.uint8))
            picture.save(tmp_path / "data" / part / f"{number}.png")
    return tmp_path / "data"


def tiny(method: str, steps: int) -> Recipe:
    """The chest X-ray recipe without augmentation, small enough for a test."""
    recipe = load_recipe("chest-xray")
    network = replace(recipe.network, image_size=32, width=8, multipliers=(1, 2), encoder_blocks=1)
    return replace(
        recipe,
        method=method,
        network=replace(network, attention_resolutions=()),
        plan=replace(recipe.plan, canvas=(32, 32), divisor=4),
        diffusion=replace(recipe.diffusion, votes=1),
        data=replace(recipe.data, cases="*", folds=2, crop=(32, 32), validation_cases=1),
        attention=replace(recipe.attention, scale=16),
        discriminator=replace(recipe.discriminator, width=4, time_width=8),
        augmentation=type(recipe.augmentation)(),
        optimisation=replace(recipe.optimisation, steps=steps, batch=3, warmup=0, ema=0.5, validate_every=steps),
    )


def test_all_are_installed():
    assert set(method_names()) == {"cdal", *METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_a_baseline_trains_and_is_scored(discs, tmp_path, method):
    best = train(tiny(method, steps=2), discs, tmp_path / "run", hardware=HARDWARE)
    trained = load_trained(best)
    assert trained.method == method
    assert trained.engine.name == method
    evaluation = evaluate(trained, choose_cases(discs, split=str(tmp_path / "run/split.json"))[0])
    assert evaluation.method == method
    assert len(evaluation.cases) == 1


@pytest.mark.parametrize("wrong", [{"votes": 0}, {"votes": -1}, {"seed": -1}])
def test_votes_and_seeds_that_cannot_be_are_refused(discs, tmp_path, wrong):
    best = train(tiny("segdiff", steps=1), discs, tmp_path / "run", hardware=HARDWARE)
    with pytest.raises(UsageError, match=r"(votes|seed) is (0|-1)"):
        load_trained(best, **wrong)


def test_a_supervised_baseline_learns(discs, tmp_path):
    best = train(tiny("unet", steps=30), discs, tmp_path / "run", hardware=HARDWARE)
    evaluation = evaluate(load_trained(best), choose_cases(discs)[0])
    assert evaluation.summary["Lungs"]["dice"].mean > 0.9


def test_a_baseline_goes_on_from_one(discs, tmp_path):
    """With the weights of a run that came apart, say."""
    first = train(tiny("unet", steps=1), discs, tmp_path / "run", hardware=HARDWARE)
    recipe = tiny("unet", steps=1)
    start = replace(recipe, optimisation=replace(recipe.optimisation, initial=str(first)))
    state = TrainingState(start, HARDWARE.fabric())
    for name, value in load_checkpoint(first)["generator"].items():
        assert torch.equal(state.main.state_dict()[name], value)


def test_a_baseline_is_no_model_to_deploy(discs, tmp_path):
    best = train(tiny("unet", steps=1), discs, tmp_path / "run", hardware=HARDWARE)
    with pytest.raises(ModelError, match=r"baseline 'unet'; score it with cdal evaluate"):
        load_model(best)


@pytest.mark.parametrize(
    ("recipe", "side", "blocks", "parameters"),
    [("nuclei", 256, 12, 132_831_233), ("chest-xray", 256, 3, None), ("hippocampus", 32, 3, None)],
)
def test_the_paper_s_settings_give_segdiff_as_published(recipe, side, blocks, parameters):
    method = make_method(load_recipe(recipe, ("method=segdiff",), paper=True))
    assert (method.config.image_size, method.config.width, method.config.encoder_blocks) == (side, 128, blocks)
    if parameters is not None:
        assert method.config == SegDiffConfig()
        with torch.device("meta"):
            assert sum(p.numel() for p in method.networks()["generator"].parameters()) == parameters
    assert make_method(load_recipe(recipe, ("method=segdiff",))).config.width == 32


@pytest.mark.parametrize("method", ["unet", "segdiff"])
def test_images_smaller_than_the_crop_are_filled_up_as_in_training(method):
    """A U-Net without the margin that every smaller slice of its training had missed whole volumes of 32 rows."""
    chosen = make_method(tiny(method, steps=1))
    torch.manual_seed(0)
    engine = chosen.engine(chosen.networks()["generator"].eval(), 1, 0, "cpu")
    height, width = chosen.recipe.data.crop
    small = np.random.default_rng(0).random((2, 1, height - 8, width)).astype(np.float32)
    outside = chosen.recipe.plan.intensity.target[0]
    filled = np.pad(small, ((0, 0), (0, 0), (0, 8), (0, 0)), constant_values=outside)
    np.testing.assert_array_equal(engine.run(small).mean, engine.run(filled).mean[:, :, : height - 8])


def test_votes_of_segdiff_spread_and_those_of_a_unet_do_not():
    images = np.zeros((1, 1, 32, 32), np.float32)
    for method, spreads in (("unet", False), ("segdiff", True)):
        chosen = make_method(tiny(method, steps=1))
        torch.manual_seed(0)
        maps = chosen.engine(chosen.networks()["generator"].eval(), 2, 0, "cpu").run(images)
        assert maps.mean.shape == (1, 1, 32, 32)
        assert bool(maps.spread.max() > 0) == spreads
