"""TensorRT for RTX takes every shipped model in strongly typed FP16: no operator is refused, and no GPU is needed."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="the extra [tensorrt-rtx] is not installed")

from cdal_sdk.bundle import bundled_models  # noqa: E402
from cdal_sdk.engines import (  # noqa: E402
    BatchProfile,
    EngineRequest,
    Target,
    builder_of,
    choice,
    engine_kind,
    fitting_precisions,
    fold_for,
    make_engine,
    registry,
)
from cdal_sdk.engines.onnx_graph import GraphOptions, write_graph  # noqa: E402
from cdal_sdk.engines.tensorrt_rtx import BUILDER, TensorRtEngine, build_plan, describe_network  # noqa: E402
from cdal_sdk.errors import EngineError  # noqa: E402
from cdal_sdk.network import Generator  # noqa: E402
from tests.engines.conftest import MODEL, shipped  # noqa: E402
from tests.engines.conftest import target as small_target  # noqa: E402
from tests.tiny_model import tiny_generator  # noqa: E402


def half_graph(generator: Generator, target: Target) -> bytes:
    return write_graph(fold_for(generator, target), GraphOptions.of(target)).SerializeToString()


@pytest.fixture(scope="module")
def plans() -> dict[str, bytes]:
    """An engine of every shipped model for one architecture, to save time; two are built at once."""

    orders = []
    for generator, target in map(shipped, bundled_models()):  # following a network's walk is nothing for threads
        smallest = target.canvas if target.fixed_size else (generator.config.divisor,) * 2
        orders.append((half_graph(generator, target), target.batch, smallest, target.canvas, ("SM89",)))
    with ThreadPoolExecutor(2) as threads:
        built = threads.map(lambda order: build_plan(*order), orders)
        return dict(zip(bundled_models(), built, strict=True))


@pytest.mark.parametrize("name", bundled_models())
def test_shipped_models_build_in_strongly_typed_fp16(name: str, plans: dict[str, bytes]) -> None:
    generator, target = shipped(name)
    layers = describe_network(half_graph(generator, target))
    kinds: dict[str, set[str]] = {}
    for layer in layers:
        kinds.setdefault(layer.kind, set()).add(layer.precision)
    assert kinds["CONVOLUTION"] == kinds["MATRIX_MULTIPLY"] == {"HALF"}
    assert kinds["NORMALIZATION"] == kinds["SOFTMAX"] == kinds["REDUCE"] == {"FLOAT"}
    assert "GATHER" not in kinds or kinds["GATHER"] == {"INT64"}, "only sizes are gathered, no feature maps"

    convolutions = {layer.name for layer in layers if layer.kind == "CONVOLUTION"}
    for step in range(target.sampling.schedule.steps):
        for block in ("label_conv", "down.0.blocks.0.conv1", "middle.0.conv2", "up.1.blocks.0.conv1", "out"):
            assert f"step{step}.{block}" in convolutions
    assert "encoder.conv" in convolutions, "once, for all steps"
    assert len(convolutions) == sum(layer.kind == "CONVOLUTION" for layer in layers)

    assert len(plans[name]) > sum(values.numel() for values in generator.state_dict().values()), (
        "a byte a weight at least"
    )


def test_an_island_is_a_float32_layer() -> None:
    island = "step1.down.0.blocks.0.conv2"
    target = small_target(precision="fp16", islands=frozenset({island}))
    layers = describe_network(half_graph(tiny_generator(MODEL), target))
    exact = {layer.name for layer in layers if layer.kind == "CONVOLUTION" and layer.precision == "FLOAT"}
    assert exact == {island}


def test_any_size_up_to_the_canvas_on_every_architecture(tmp_path: Path) -> None:
    BUILDER.build(tiny_generator(MODEL), small_target(), tmp_path / "engine")
    assert (tmp_path / "engine").stat().st_size > 10_000


def test_what_is_float32_is_not_computed_in_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    flags: list[bool] = []

    def build(_: object, __: object, config: trt.IBuilderConfig) -> None:
        flags.append(config.get_flag(trt.BuilderFlag.TF32))

    monkeypatch.setattr(trt.Builder, "build_serialized_network", build)
    with pytest.raises(EngineError):
        build_plan(half_graph(tiny_generator(MODEL), small_target()), BatchProfile(), (2, 2), (16, 16))
    assert flags == [False]


def test_a_refused_operator_is_an_error_with_trt_s_words() -> None:
    graph = half_graph(tiny_generator(MODEL), replace(small_target(), precision="fp16"))
    with pytest.raises(EngineError, match=r"TensorRT refuses the graph: Sigmoit: .*Plugin not found") as refused:
        describe_network(graph.replace(b"Sigmoid", b"Sigmoit"))
    assert str(refused.value).count("Plugin not found") == 1, "each problem once, however many nodes have it"


def test_an_engine_that_cannot_be_built_or_opened_is_an_error_with_trt_s_words_which_it_does_not_print(capfd) -> None:
    graph = half_graph(tiny_generator(MODEL), replace(small_target(), precision="fp16"))
    with pytest.raises(EngineError, match=r"could not build the engine: .*MIN<=OPT<=MAX.*no optimization profile"):
        build_plan(graph, BatchProfile(), (64, 64), (8, 8))
    with pytest.raises(EngineError, match=r"does not open this engine here: .*bufferSize") as refused:
        TensorRtEngine(b"no engine", "fp16", 4, name="tensorrt-rtx")
    assert "MIN<=OPT<=MAX" not in str(refused.value), "nothing of what failed before"
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """A function that pretends a GPU of a compute capability."""

    def pretend(major: int, minor: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (major, minor))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA Pretended")

    return pretend


@pytest.mark.parametrize(
    "capability", [(7, 5), (8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (12, 0), (12, 1), (13, 0)]
)
def test_it_runs_on_the_gpus_that_engines_are_built_for(capability, gpu) -> None:
    gpu(*capability)
    opens = capability not in ((7, 5), (8, 7), (9, 0), (10, 0))
    assert BUILDER.precisions("cuda") == (("fp16", "fp32") if opens else ())
    assert builder_of(engine_kind("tensorrt-rtx-int8")).precisions("cuda") == (("int8",) if opens else ())
    assert BUILDER.precisions("cpu") == ()


def test_on_another_gpu_it_is_passed_over_before_anything_is_built(gpu, monkeypatch, caplog) -> None:
    gpu(9, 0)
    monkeypatch.setattr(BUILDER, "build", lambda *arguments: pytest.fail("it builds"))
    monkeypatch.setattr(registry, "ENGINES", (engine_kind("tensorrt-rtx"),))
    monkeypatch.setattr(choice, "TorchEngine", lambda *arguments: "the reference")
    request = EngineRequest(tiny_generator(MODEL), MODEL.sampling(), "cuda", "weights")
    reason = r"finds no cuda that it can use (here: NVIDIA Pretended, compute capability 9.0); use --engine auto"
    with caplog.at_level(logging.WARNING, "cdal_sdk"):
        assert make_engine("auto", request) == "the reference"
    assert f"engine tensorrt-rtx is passed over: the engine 'tensorrt-rtx' {reason}" in caplog.text
    with pytest.raises(EngineError, match=re.escape(reason)):
        make_engine("tensorrt-rtx", request)


def test_built_elsewhere_it_has_a_precision_in_which_it_opens() -> None:
    for wanted, found in (("bf16", "fp16"), ("fp16", "fp16"), ("fp32", "fp32")):
        assert fitting_precisions(engine_kind("tensorrt-rtx"), BUILDER.offers, wanted) == (found,)


def test_another_gpu_is_no_hindrance_to_building_ahead_of_time(gpu, tmp_path) -> None:
    gpu(9, 0)
    target = small_target(device="cuda")
    assert not BUILDER.needs_device
    BUILDER.build(tiny_generator(MODEL), target, tmp_path / "engine")
    assert (tmp_path / "engine").stat().st_size > 10_000
