"""The cost of a training step: counted arithmetic and shares that add up."""

from __future__ import annotations

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cdal_bench.training_step import main, measure_step
from cdal_sdk.network import Generator
from cdal_trainer.hardware import Hardware


@pytest.fixture(scope="module")
def cost(recipe):
    return measure_step(recipe, Hardware("cpu", 1, "32-true", 0), repeats=1)


def test_both_sides_are_measured(cost):
    assert set(cost.seconds) == set(cost.gflop) == {"generator", "discriminator"}
    assert min(cost.seconds.values()) > 0
    assert 0 < cost.share < 1


def test_a_generator_step_costs_about_three_forward_passes(cost, recipe):
    """Forward, gradient of the input, gradient of the weights; the attention map's forward pass comes on top."""
    network = Generator(recipe.network)
    batch, (height, width) = recipe.optimisation.batch, recipe.data.crop
    label = torch.zeros(batch, recipe.network.label_channels, height, width)
    image = torch.zeros(batch, recipe.network.image_channels, height, width)
    latent, time = torch.zeros(batch, recipe.network.latent_size), torch.zeros(batch, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        network(label, time, image, latent)
    assert 2.5 < cost.gflop["generator"] / (counter.get_total_flops() / 1e9) < 3.5


def test_the_command_prints_json(cost, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("cdal_bench.training_step.measure_step", lambda *given: asked.append(given) or cost)
    main(["--recipe", "chest-xray", "--precision", "32-true", "--repeats", "2"])
    told = json.loads(capsys.readouterr().out)
    assert (told["recipe"], told["seconds"]) == ("chest-xray", cost.seconds)
    (recipe, hardware, repeats) = asked[0]
    assert (recipe.network.image_size, hardware.precision, repeats) == (96, "32-true", 2)


def test_the_profile_is_of_shares(cost):
    assert len(cost.profile) == 10
    assert 0.3 < sum(cost.profile.values()) <= 1.001
