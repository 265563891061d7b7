"""Networks compiled by OpenVINO agree with the eager ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cdal_bench.baselines import BASELINES, build_baseline
from cdal_bench.compiled import CompiledMethod, CompiledSegDiff, compiled_precision
from cdal_bench.runners import BaselineRunner
from cdal_bench.segdiff import SegDiff, sample
from cdal_sdk.errors import EngineError
from tests.bench.test_segdiff_network import TINY
from tests.tiny_model import enliven

pytest.importorskip("openvino")

IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(5))
BF16_FLIPS = 0.01
"""Largest share of pixels whose label may change in bfloat16."""


@pytest.fixture(scope="module")
def model() -> SegDiff:
    return enliven(SegDiff(TINY).eval(), 0.5)


@pytest.mark.parametrize("few_steps", [None, 5])
def test_segdiff_in_float32_gives_the_same_votes(model, few_steps):
    expected = sample(model, IMAGE, votes=2, few_steps=few_steps)
    found = sample(CompiledSegDiff(model, "fp32"), IMAGE, votes=2, few_steps=few_steps)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_segdiff_in_bfloat16_gives_the_same_masks_but_for_a_few_pixels(model):
    if compiled_precision("cpu") != "bf16":
        pytest.skip("this processor has no bfloat16")
    expected, found = (sample(m, IMAGE, votes=2).mean(dim=0) for m in (model, CompiledSegDiff(model, "bf16")))
    assert ((found > 0) != (expected > 0)).float().mean() <= BF16_FLIPS
    assert (found - expected).abs().mean() < 0.01
    assert (found - expected).abs().max() > 1e-6, "it did compute in bfloat16"


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_of_any_size(name):
    torch.manual_seed(0)
    model = build_baseline(name, 1, 3, width=8).eval()
    compiled = CompiledMethod(model, "label", "fp32")
    for size in ((40, 50), (32, 32)):
        image = torch.randn(1, 1, *size)
        with torch.inference_mode():
            torch.testing.assert_close(compiled(image), model.label(image), atol=1e-4, rtol=0)


def test_a_compiled_runner_tells_its_precision():
    runner = BaselineRunner(build_baseline("unet", 1, 1, width=8).eval(), "cpu", compiled=True)
    assert runner.precision == compiled_precision("cpu")
    assert runner.run(np.zeros((2, 1, 32, 32), np.float32)).mean.shape == (2, 1, 32, 32)


def test_it_is_for_processors_only():
    with pytest.raises(EngineError, match="CPUs only"):
        compiled_precision("cuda")
