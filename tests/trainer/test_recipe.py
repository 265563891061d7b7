"""Recipes: every bundled one holds, and what is wrong with another is said by its name."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest
import torch

from cdal_sdk.diffusion import paper_betas, published_betas
from cdal_sdk.errors import UsageError
from cdal_sdk.network import Generator
from cdal_trainer.recipe import load_recipe

BUNDLED = [Path(e.name).stem for e in resources.files("cdal_trainer.recipes").iterdir() if e.name.endswith(".toml")]


def refusal(*overrides: str) -> str:
    with pytest.raises(UsageError) as caught:
        load_recipe("hippocampus", overrides)
    return str(caught.value)


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_recipes_hold(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.provenance.licence
    manifest = recipe.manifest()
    assert (manifest.network, manifest.plan, manifest.labels) == (recipe.network, recipe.plan, recipe.labels)
    assert all(side % manifest.plan.divisor == 0 for side in recipe.data.crop)


@pytest.mark.parametrize(
    ("name", "parameters", "steps", "crop"),
    [
        ("hippocampus", 3_682_275, 2, (32, 32)),
        ("chest-xray", 8_843_777, 2, (256, 256)),
        ("nuclei", 41_666_753, 4, (256, 256)),
    ],
)
def test_the_paper_s_settings_are_one_flag_away(name, parameters, steps, crop):
    """With the published networks to the last parameter."""
    recipe = load_recipe(name, paper=True)
    with torch.device("meta"):
        assert sum(p.numel() for p in Generator(recipe.network).parameters()) == parameters
    assert (recipe.diffusion.steps, recipe.data.crop) == (steps, crop)
    assert recipe.attention.norm == "none"
    assert recipe.discriminator.every == 1
    changing = ("gamma", "bias", "occlusion", "noise", "blur", "histogram")
    assert not any(getattr(recipe.augmentation, change) for change in changing)
    assert recipe.augmentation.until == 1
    assert load_recipe(name, ("optimisation.batch=7",), paper=True).optimisation.batch == 7


def test_a_recipe_without_a_paper_says_so(tmp_path):
    bundled = (resources.files("cdal_trainer.recipes") / "nuclei.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(bundled[: bundled.index("\n[paper")])
    assert load_recipe(path).name == "nuclei"
    with pytest.raises(UsageError, match="does not tell the paper's settings"):
        load_recipe(path, paper=True)


def test_hippocampus_is_the_paper_s_network():
    recipe = load_recipe("hippocampus")
    assert [label.name for label in recipe.labels] == ["Anterior", "Posterior"]
    assert recipe.data.per_patient == load_recipe("hippocampus", paper=True).data.per_patient == 2
    assert (recipe.diffusion.steps, recipe.diffusion.votes) == (2, 5)
    assert recipe.network.multipliers == (1, 2, 2, 2)


def test_a_file_of_one_s_own(tmp_path):
    bundled = resources.files("cdal_trainer.recipes") / "hippocampus.toml"
    path = tmp_path / "mine.toml"
    path.write_text(bundled.read_text().replace('name = "hippocampus"', 'name = "mine"'))
    assert load_recipe(path).name == "mine"
    assert load_recipe(str(path)) == load_recipe(path)


def test_overrides():
    overrides = ("optimisation.batch=8", "data.crop=[32, 32]", "name = other", "attention.scale=0")
    recipe = load_recipe("hippocampus", overrides)
    assert recipe.optimisation.batch == 8
    assert recipe.data.crop == (32, 32)
    assert recipe.name == "other"
    assert recipe.attention.scale is None


def test_the_schedule_is_the_one_asked_for():
    assert load_recipe("hippocampus").manifest().betas == tuple(paper_betas(2).tolist())
    published = load_recipe("hippocampus", ("diffusion.schedule=published", "diffusion.steps=4")).manifest()
    assert published.betas == tuple(published_betas(4).double().tolist())


def test_an_unknown_recipe_lists_what_there_is():
    with pytest.raises(UsageError, match=r"no recipe 'brain'.*hippocampus"):
        load_recipe("brain")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("optimisation.bach=8", "optimisation.bach"),
        ("surprise=8", "surprise"),
        ("plan.domain.surprise=1", "plan.domain.surprise"),
        ("optimisation.batch=many", "optimisation.batch takes a whole number"),
        ("attention.norm=none-such", "attention.norm: invalid enum value 'none-such'"),
        ("network.width=7", "width is 7"),
        ("plan.context=2", "plan.context=2 needs network.image_channels=5"),
        ("optimisation.steps=1.5", "optimisation.steps takes a whole number; correct"),
        ("attention.scale=half", "attention.scale takes a whole number; correct"),
        ("data.crop=[40]", "data.crop takes a list of length 2; correct"),
        ("plan={}", "the entry 'plan.kind' is missing; correct"),
        ("plan.divisor=4", "sizes"),
        ("diffusion.beta_max=-500.0", "no schedule"),
        ("data.crop=[40, 60]", "data.crop is (40, 60); give multiples of 8"),
        ("data.crop=[8, 40]", "data.crop is (8, 40); give at least 16"),
        ("=", "'=' is no setting"),
        ("optimisation.=8", "is no setting"),
        ("diffusion.votes=0", "diffusion.votes is 0; give it at least 1"),
        ("augmentation.until=1.5", "augmentation.until is 1.5; give 0 to 1"),
        ("optimisation.steps=0", "optimisation.steps is 0; give it at least 1"),
        ("discriminator.every=0", "discriminator.every is 0"),
        ("data.folds=1", "data.folds is 1"),
        ("data.per_patient=0", "data.per_patient is 0"),
        ("augmentation.turn=0.5", "augmentation.turn makes slices of (40, 48) ones of (48, 40)"),
        ("augmentation.affine=2.0", "augmentation.affine is 2; give 0 to 1"),
        ("augmentation.noise_std=-1.0", "augmentation.noise_std is -1"),
        ("augmentation.rotation=nan", "augmentation.rotation is nan"),
        ("diffusion.beta_min=-5.0", "diffusion.beta_min is -5"),
        ("discriminator.r1_gamma=-5.0", "discriminator.r1_gamma is -5"),
        ("discriminator.width=0", "discriminator.width is 0"),
        ("discriminator.time_width=3", "discriminator.time_width is 3"),
        ("discriminator.time_width=5", "discriminator.time_width is 5; give an even one"),
        ("optimisation.adam_betas=[1.5, 0.9]", "optimisation.adam_betas[0] is 1.5"),
        ("optimisation.adam_betas=[-0.5, 0.9]", "optimisation.adam_betas[0] is -0.5"),
        ("optimisation.adam_betas=[0.5, nan]", "optimisation.adam_betas[1] is nan"),
        ("optimisation.seed=1180591620717411303424", "optimisation.seed"),
        ("optimisation.batch", "section.key=value"),
        ("name.first=1", "section.key=value"),
    ],
)
def test_a_wrong_setting_is_named(override, named):
    assert named in refusal(override)


def test_no_toml_is_refused(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("name = ")
    with pytest.raises(UsageError, match="no TOML"):
        load_recipe(path)
