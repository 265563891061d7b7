"""The baselines as training methods: trained by the trainer, scored by its evaluation, loaded for the benchmark."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cdal_bench.baselines import BASELINES, Baseline
from cdal_bench.configurations import Subject
from cdal_bench.contenders import prepare_contender
from cdal_bench.methods import recipe_segdiff, trained_network
from cdal_bench.segdiff import SegDiff, SegDiffConfig
from cdal_sdk.errors import ModelError
from cdal_sdk.network import GeneratorConfig
from cdal_trainer.cases import labelled_cases
from cdal_trainer.evaluate import evaluate, load_trained
from cdal_trainer.method import make_method, method_names
from tests.tiny_model import VOLUME


def test_they_are_installed():
    assert {"segdiff", *BASELINES} <= set(method_names())


@pytest.mark.parametrize("name", ["segdiff", *BASELINES])
def test_each_step_descends_once_and_moves_every_weight(name, recipe):
    method = make_method(replace(recipe, method=name))
    networks = method.networks()
    assert networks.keys() == method.rates.keys()
    (network,) = networks.values()
    rng = torch.Generator().manual_seed(0)
    for parameter in network.parameters():  # nothing near zero, where a gradient could hide
        torch.nn.init.normal_(parameter, std=0.1, generator=rng)
    image, labels = torch.randn(2, 3, 16, 16, generator=rng), torch.randint(3, (2, 16, 16), generator=rng)
    (descent,) = method.descents(networks, image, labels.byte(), 0, rng)
    descent.loss.backward()
    assert descent.network in networks
    assert set(descent.terms) <= set(method.terms)
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize(("name", "kind"), [("segdiff", SegDiff), ("unet", Baseline)])
def test_a_trained_one_is_scored_and_loaded(name, kind, checkpoints: dict[str, Path], task: Path):
    trained = load_trained(checkpoints[name], device="cpu", votes=1)
    assert trained.method == name
    scores = evaluate(trained, labelled_cases(task)[:1]).cases[0].scores
    assert scores.keys() == {"Anterior", "Posterior"}
    network = trained_network(checkpoints[name])
    assert isinstance(network, kind)
    assert not network.training


def test_weights_of_another_baseline_are_refused(checkpoints: dict[str, Path]):
    subject = Subject("", VOLUME, trained=False)
    with pytest.raises(ModelError, match="another baseline"):
        prepare_contender("unet", subject, (16, 16), weights=checkpoints["segdiff"])


def test_the_published_size_is_a_setting(recipe):
    network = GeneratorConfig(
        image_channels=3,
        label_channels=1,
        image_size=256,
        width=128,
        multipliers=(1, 1, 2, 2, 4, 4),
        blocks_per_level=2,
        attention_resolutions=(16, 8),
    )
    colour = replace(recipe.plan, channels=3, context=0)
    stand_in = type("Stand", (), {"network": network, "plan": colour})
    assert recipe_segdiff(stand_in) == SegDiffConfig()
