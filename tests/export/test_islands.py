"""A layer that overflows half precision is found by name, and in float32 the engine agrees again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cdal_export.emulation import EmulatedEngine, find_islands
from cdal_sdk.engines import Target
from cdal_sdk.engines.eager import TorchEngine
from cdal_sdk.errors import GateError
from cdal_sdk.gate import Gate
from cdal_sdk.network import Generator
from tests.tiny_model import VOLUME, tiny_generator

LOUD = "down.0.blocks.0.conv1"  # a norm follows, so that float32 does not mind its size
EXACT = Target(VOLUME.sampling(), "cpu", "fp32", "weights")
HALF = replace(EXACT, precision="fp16")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).random((2, 3, 16, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def loud() -> Generator:
    generator = tiny_generator(VOLUME)
    with torch.no_grad():
        generator.get_submodule(LOUD).weight.mul_(1e5)
    return generator


def test_nothing_stands_out_in_a_healthy_model(images: np.ndarray) -> None:
    generator = tiny_generator(VOLUME)
    assert len(find_islands(generator, EXACT, HALF, images)) <= 2
    found, expected = (
        EmulatedEngine(generator, HALF).run(images),
        TorchEngine(generator, HALF.sampling, "cpu").run(images),
    )
    assert 0 < np.abs(found.mean - expected.mean).max() < 0.02


def test_an_overflow_is_found_and_cured(loud: Generator, images: np.ndarray) -> None:
    expected = TorchEngine(loud, HALF.sampling, "cpu").run(images)
    assert not np.isfinite(EmulatedEngine(loud, HALF).run(images).mean).all()
    islands = find_islands(loud, EXACT, HALF, images)
    assert set(islands) == {f"step{step}.{LOUD}" for step in range(2)}
    cured = EmulatedEngine(loud, replace(HALF, islands=frozenset(islands))).run(images)
    assert np.abs(cured.mean - expected.mean).max() < 0.02


def test_every_step_is_held_against_the_reference(loud: Generator, images: np.ndarray) -> None:
    gate = Gate(VOLUME, TorchEngine(loud, HALF.sampling, "cpu"), [images])
    reference = TorchEngine(loud, HALF.sampling, "cpu", probes=True)
    exact = gate.check_steps(EmulatedEngine(loud, replace(EXACT, probes=True)), reference)
    assert [step.step for step in exact] == [1, 0]
    assert all(0 < step.difference < 1e-4 for step in exact)
    with pytest.raises(GateError, match=r"in fp16 its steps disagree.*step 1: Dice.*no numbers; step 0: Dice"):
        gate.check_steps(EmulatedEngine(loud, replace(HALF, probes=True)), reference)


def test_a_mistake_that_the_end_forgives_is_refused_by_its_step(images: np.ndarray) -> None:
    """The last step of this engine is right, the one before it is not."""
    generator = tiny_generator(VOLUME)
    reference = TorchEngine(generator, EXACT.sampling, "cpu", probes=True)

    class Wrong(EmulatedEngine):
        def probe(self, images: np.ndarray) -> dict[str, np.ndarray]:
            outputs = super().probe(images)
            return outputs | {"step1": -outputs["step1"]}

    gate = Gate(VOLUME, reference, [images])
    engine = Wrong(generator, replace(EXACT, probes=True))
    assert gate.check(engine).flips == 0
    with pytest.raises(GateError, match="its steps disagree"):
        gate.check_steps(engine, reference)
