"""A layer that overflows half precision is found by name, and in float32 the engine agrees again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cdal_export.emulation import EmulatedEngine, find_islands
from cdal_export.steps import step_differences
from cdal_sdk.engines import Target
from cdal_sdk.engines.eager import TorchEngine
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


def test_every_step_is_told(images: np.ndarray) -> None:
    pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    steps = step_differences(tiny_generator(VOLUME), "onnx", HALF, images)
    assert [difference.step for difference in steps] == [1, 0]
    assert all(0 < difference.mean <= difference.largest < 0.1 for difference in steps)
    assert step_differences(tiny_generator(VOLUME), "onnx", replace(HALF, precision="fp32"), images) == ()
