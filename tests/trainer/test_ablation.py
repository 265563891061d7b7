"""The ablation trains what it says, and tells the Dice of each."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cdal_sdk.errors import UsageError
from cdal_trainer.ablation import ablation_table, variants
from cdal_trainer.recipe import load_recipe
from cdal_trainer.training import Hardware, train


@pytest.mark.parametrize(
    ("part", "read", "expected"),
    [
        ("latent", lambda recipe: recipe.network.latent, [True, False]),
        ("attention", lambda recipe: recipe.attention.scale, [12, None]),
        ("scale", lambda recipe: recipe.attention.scale, [6, 12, 24]),
    ],
)
def test_variants_change_one_thing(part, read, expected):
    recipe = load_recipe("chest-xray")
    found = [load_recipe("chest-xray", changes) for changes in variants(part, recipe).values()]
    assert [read(variant) for variant in found] == expected
    for variant in found:
        same = replace(variant, network=recipe.network, attention=recipe.attention)
        assert same == recipe


@pytest.mark.parametrize(
    ("name", "paper", "expected"),
    [
        ("chest-xray", True, ["scale-16", "scale-32", "scale-64"]),
        ("nuclei", True, ["scale-16", "scale-32", "scale-64"]),
        ("hippocampus", False, ["scale-4", "scale-8", "scale-16"]),
    ],
)
def test_scales_are_the_paper_s_at_its_sizes_and_the_nearest_elsewhere(name, paper, expected):
    assert list(variants("scale", load_recipe(name, paper=paper))) == expected


@pytest.mark.parametrize(("override", "part"), [("method=unet", "latent"), ("attention.scale=0", "scale")])
def test_what_is_not_there_cannot_be_ablated(override, part):
    with pytest.raises(UsageError, match=f"no {part} to ablate"):
        variants(part, load_recipe("chest-xray", (override,)))


def test_the_table_holds_every_variant(data, recipe, tmp_path):
    hardware = Hardware(accelerator="cpu", precision="32-true", workers=0)
    without = replace(recipe, network=replace(recipe.network, latent=False))
    best = {
        name: train(variant, data, tmp_path / name, hardware=hardware)
        for name, variant in {"with-latent": recipe, "without-latent": without}.items()
    }
    lines = ablation_table(best, tmp_path / "ablation.json").splitlines()
    assert lines[0] == "| variant | dice_Anterior | dice_Posterior |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| with-latent", "| without-latent"]
    assert json.loads((tmp_path / "ablation.json").read_text()).keys() == best.keys()
