"""Learning rate, averaged weights and validation."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from cdal_sdk.engines.eager import TorchEngine
from cdal_sdk.masks import dice
from cdal_sdk.network import Generator
from cdal_trainer.average import WeightAverage
from cdal_trainer.prepared import PreparedCase
from cdal_trainer.recipe import Optimisation
from cdal_trainer.state import learning_rate
from cdal_trainer.validate import validate
from tests.tiny_model import enliven

SETTINGS = Optimisation(steps=100, batch=1, lr_generator=1e-3, lr_discriminator=1e-4, lr_final=1e-5, warmup=10)


class TestLearningRate:
    def test_it_warms_up_linearly(self):
        without = replace(SETTINGS, warmup=0)
        for step in range(10):
            expected = (step + 1) / 10 * learning_rate(without, 1e-3, step)
            assert learning_rate(SETTINGS, 1e-3, step) == pytest.approx(expected)
        assert learning_rate(SETTINGS, 1e-3, 10) == learning_rate(without, 1e-3, 10)

    def test_it_is_a_cosine_from_the_initial_to_the_final_rate(self):
        rates = [learning_rate(replace(SETTINGS, warmup=0), 1e-3, step) for step in range(101)]
        assert rates[0] == pytest.approx(1e-3)
        assert rates[50] == pytest.approx((1e-3 + 1e-5) / 2)
        assert rates[100] == pytest.approx(1e-5)
        assert rates == sorted(rates, reverse=True)

    def test_past_the_end_it_stays(self):
        assert learning_rate(SETTINGS, 1e-3, 150) == pytest.approx(1e-5)


class TestWeightAverage:
    def test_it_follows_its_formula(self):
        module = torch.nn.Linear(3, 2)
        average, expected = WeightAverage(module, 0.5), module.weight.detach().clone()
        for step in range(20):
            torch.nn.init.normal_(module.weight)
            average.update(module, step)
            decay = min(0.5, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * module.weight.detach()
            torch.testing.assert_close(average.weights["weight"], expected)

    def test_no_decay_keeps_the_raw_weights(self):
        module = torch.nn.Linear(3, 2)
        average = WeightAverage(module, 0.0)
        torch.nn.init.normal_(module.weight)
        average.update(module, 5)
        assert torch.equal(average.weights["weight"], module.weight)

    def test_it_is_a_copy(self):
        module = torch.nn.Linear(3, 2)
        average, before = WeightAverage(module, 0.9), module.weight.detach().clone()
        torch.nn.init.zeros_(module.weight)
        assert torch.equal(average.weights["weight"], before)
        assert not average.weights["weight"].requires_grad


class TestValidation:
    def test_dice(self):
        a, b = np.zeros((2, 4, 4), np.uint8)
        a[:2], b[1:3] = 2, 2
        assert dice(a, b, 2) == pytest.approx(0.5)
        assert dice(a, a, 2) == 1
        assert dice(a, np.zeros_like(a), 2) == 0
        assert dice(a, b, 1) == 1  # on neither side

    def test_a_case_is_scored_as_a_whole_whatever_the_batch(self, recipe):
        generator = enliven(Generator(recipe.network).eval().requires_grad_(False))
        rng = np.random.default_rng(0)
        images = rng.normal(size=(5, 3, 8, 12)).astype(np.float32)
        cases = [PreparedCase("one", images, rng.integers(0, 3, (5, 8, 12), np.uint8))]
        before = copy.deepcopy(generator.state_dict())
        engine = TorchEngine(generator, recipe.manifest().sampling(2), "cpu")
        scores = validate(engine, recipe.manifest(), cases, batch=2)
        assert scores.keys() == {"Anterior", "Posterior"}
        assert 0 < scores["Anterior"] < 1
        assert validate(engine, recipe.manifest(), cases, batch=5) == pytest.approx(scores)
        assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
