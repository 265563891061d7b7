"""A layer that overflows half precision is found by name, and in float32 the engine agrees again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from cdal_export.emulation import EmulatedEngine, find_islands
from cdal_sdk.engines import Target, fold_for
from cdal_sdk.engines.eager import TorchEngine
from cdal_sdk.engines.onnx_graph import GraphOptions, write_graph
from cdal_sdk.errors import GateError
from cdal_sdk.gate import Gate
from cdal_sdk.network import Generator
from cdal_sdk.network.blocks import SelfAttention
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


def nothing(generator: Generator) -> None:
    pass


def loud_scores(generator: Generator) -> None:
    for module in generator.modules():
        if isinstance(module, SelfAttention):
            module.query.bias.fill_(400.0)
            module.key.bias.fill_(400.0)


def loud_sum(generator: Generator) -> None:
    """Each part fits into half precision, the sum behind attention does not."""
    generator.middle[0].conv2.bias[0] = 30_000.0
    generator.middle[1].out.bias[0] = 80_000.0


def loud_stream(generator: Generator) -> None:
    """Into a layer that a step calls twice."""
    for block in generator.down[0].blocks:
        block.conv2.weight.mul_(1.5e5)


@pytest.mark.parametrize(
    ("change", "blamed"),
    [
        (nothing, set()),
        (loud_scores, {"middle.1"}),
        (loud_sum, {"middle.1"}),
        (loud_stream, {"down.0.resample.resample"}),
    ],
)
def test_the_rehearsal_is_that_of_the_graph(
    images: np.ndarray, change: Callable[[Generator], None], blamed: set[str]
) -> None:
    """An engine that overflows does so in the rehearsal, and the islands that cure one cure the other."""
    generator, seen = tiny_generator(VOLUME), set[str]()
    with torch.no_grad():
        change(generator)
    images = images[:1, :, :8, :8]
    expected = TorchEngine(generator, HALF.sampling, "cpu").run(images).mean
    islands = find_islands(generator, EXACT, HALF, images)
    assert {f"step{step}.{name}" for step in range(2) for name in blamed} <= set(islands)
    for target in (HALF, replace(HALF, islands=frozenset(islands))):
        graph = write_graph(fold_for(generator, target), GraphOptions.of(target))
        (found,) = ReferenceEvaluator(graph).run(["mean"], {"image": images})
        rehearsed = EmulatedEngine(generator, target, lambda name, _: seen.add(name)).run(images).mean
        overflows = bool(blamed) and not target.islands
        for mean in (found, rehearsed):
            assert np.isfinite(mean).all() != overflows
            assert overflows or 1e-5 < np.abs(mean - expected).max() < 1e-3
    assert seen <= {part for node in graph.graph.node for part in (node.name, node.name.rpartition(".")[0])}


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
