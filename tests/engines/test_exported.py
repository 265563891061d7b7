"""What TensorRT compiles: exported on a CPU, it takes every size that it promises and gives the sampler's results."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cdal_sdk.bundle import load_model
from cdal_sdk.engines import Target, fold_for
from cdal_sdk.engines.exported import export_sampler, smallest_image
from cdal_sdk.errors import EngineError
from cdal_sdk.network import Generator
from tests.engines.conftest import MODEL, target
from tests.tiny_model import tiny_generator


def check(generator: Generator, wanted: Target, sizes: list[tuple[int, int]]) -> None:
    program, sampler = export_sampler(generator, wanted).module(), fold_for(generator, wanted)
    with torch.inference_mode():
        for count, size in enumerate(sizes, start=1):
            image = torch.randn(count, generator.config.image_channels, *size)
            for found, expected in zip(program(image), sampler(image), strict=True):
                torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_a_bundled_model_of_free_size() -> None:
    model = load_model("hippocampus")
    wanted = Target(model.manifest.sampling(votes=1), "cpu", "fp32", model.weights_sha256)
    assert smallest_image(model.generator, wanted) == (16, 16)
    check(model.generator, wanted, [(16, 16), (64, 64), (64, 24), (40, 64)])


def test_a_bundled_model_of_fixed_size() -> None:
    model = load_model("chest-xray")
    wanted = Target(model.manifest.sampling(votes=1), "cpu", "fp32", model.weights_sha256, fixed_size=True)
    check(model.generator, wanted, [(96, 96)])


def canvas(height: int, width: int) -> Target:
    """A target of the tiny model, whose divisor is 2."""
    plan = replace(MODEL.plan, canvas=(height, width))
    return target(sampling=replace(MODEL, plan=plan).sampling())


def test_a_small_canvas() -> None:
    check(tiny_generator(MODEL), canvas(6, 16), [(6, 16), (4, 4)])


def test_half_precision_is_part_of_the_graph() -> None:
    wanted = target(precision="fp16", fixed_size=True)
    program, sampler = export_sampler(tiny_generator(MODEL), wanted), fold_for(tiny_generator(MODEL), wanted)
    types: dict[str, set[torch.dtype]] = {}
    for node in program.run_decompositions().graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            value = node.meta.get("val")
            value = value[0] if isinstance(value, tuple | list) else value
            if isinstance(value, torch.Tensor):
                types.setdefault(node.target.overloadpacket.__name__, set()).add(value.dtype)
    products = {"convolution", "mm", "bmm", "addmm", "baddbmm"} & types.keys()
    assert products >= {"convolution", "mm", "bmm"}
    assert {name: types[name] for name in products} == {name: {torch.float16} for name in products}
    for exact in ("native_group_norm", "_softmax", "sigmoid", "tanh", "pow", "mean", "sqrt"):
        assert types[exact] == {torch.float32}
    image = torch.randn(2, MODEL.network.image_channels, *wanted.canvas)
    with torch.inference_mode():
        for found, expected in zip(program.module()(image), sampler(image), strict=True):
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("size", [(2, 2), (4, 16), (16, 4)])
def test_a_canvas_without_room_is_an_engine_s_error_which_auto_passes_over(size: tuple[int, int]) -> None:
    with pytest.raises(EngineError, match="too small"):
        export_sampler(tiny_generator(MODEL), canvas(*size))
