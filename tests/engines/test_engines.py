"""Every engine that runs on a CPU gives the reference's results, whatever the batch, the size and the order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cdal_sdk.engines import ENGINES, Engine
from cdal_sdk.engines.eager import TorchEngine
from tests.engines.conftest import MODEL, builder
from tests.tiny_model import tiny_generator

ON_CPU = [kind.name for kind in ENGINES if "cpu" in kind.devices and kind.name != "torch"]
CLOSE = {"atol": 2e-5, "rtol": 0}


@pytest.fixture(scope="module")
def reference() -> TorchEngine:
    return TorchEngine(tiny_generator(MODEL), MODEL.sampling(), "cpu")


def images(n: int, height: int = 16, width: int = 16) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, 2, height, width)).astype(np.float32)


@pytest.mark.parametrize("engine", ON_CPU)
def test_it_equals_the_reference(build: Callable[..., Engine], reference: TorchEngine, engine: str) -> None:
    made = build(engine)
    assert (made.name, made.device, made.precision) == (engine, "cpu", "fp32")
    for batch in (images(5), images(1), images(2, 6, 10)):
        expected, found = reference.run(batch), made.run(batch)
        np.testing.assert_allclose(found.mean, expected.mean, **CLOSE)
        np.testing.assert_allclose(found.spread, expected.spread, **CLOSE)
    assert expected.spread.mean() > 1e-3


@pytest.mark.parametrize("engine", ON_CPU)
def test_a_fixed_size_is_the_canvas(build: Callable[..., Engine], reference: TorchEngine, engine: str) -> None:
    made = build(engine, fixed_size=True)
    np.testing.assert_allclose(made.run(images(3)).mean, reference.run(images(3)).mean, **CLOSE)


@pytest.mark.parametrize("engine", ON_CPU)
def test_an_image_s_result_does_not_depend_on_its_batch(build: Callable[..., Engine], engine: str) -> None:
    made, batch = build(engine), images(5)
    together, backwards = made.run(batch).mean, made.run(batch[::-1].copy()).mean
    np.testing.assert_allclose(together, backwards[::-1], atol=2e-6)
    np.testing.assert_allclose(together[4:], made.run(batch[4:]).mean, atol=2e-6)


def test_bfloat16_is_close_where_the_cpu_has_it(build: Callable[..., Engine], reference: TorchEngine) -> None:
    if "bf16" not in builder("openvino").precisions("cpu"):
        pytest.skip("this CPU has no bfloat16 instructions")
    found, expected = build("openvino", precision="bf16").run(images(2)), reference.run(images(2))
    difference = np.abs(found.mean - expected.mean)
    assert 1e-5 < difference.max() < 0.1
    assert difference.mean() < 0.01
