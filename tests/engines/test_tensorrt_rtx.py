"""TensorRT for RTX takes every operator of the graph, in the precision that the graph states; no GPU is needed."""

from __future__ import annotations

import pytest

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="the extra [tensorrt-rtx] is not installed")

from cdal_sdk.bundle import bundled_models, load_model  # noqa: E402
from cdal_sdk.engines import BatchProfile, FoldedSampler  # noqa: E402
from cdal_sdk.engines.onnx_graph import GraphOptions, write_graph  # noqa: E402
from cdal_sdk.engines.tensorrt_rtx import build_plan, network_layers  # noqa: E402
from cdal_sdk.errors import EngineError  # noqa: E402
from tests.engines.conftest import MODEL  # noqa: E402
from tests.tiny_model import tiny_generator  # noqa: E402


def half_graph(name: str | None = None) -> bytes:
    if name is None:
        generator, manifest = tiny_generator(MODEL), MODEL
    else:
        model = load_model(name)
        generator, manifest = model.generator, model.manifest
    sampler = FoldedSampler(generator, manifest.schedule, manifest.sampling(votes=2).noise())
    return write_graph(sampler, GraphOptions(precision="fp16")).SerializeToString()


@pytest.mark.parametrize("name", bundled_models())
def test_shipped_models_become_strongly_typed_networks(name: str) -> None:
    layers = network_layers(half_graph(name))
    kinds = {(layer, kind): count for (layer, kind), count in layers.items()}
    assert not {("CONVOLUTION", "FLOAT"), ("MATRIX_MULTIPLY", "FLOAT")} & kinds.keys()
    assert kinds["CONVOLUTION", "HALF"] > 100
    assert kinds["MATRIX_MULTIPLY", "HALF"] > 0
    assert kinds["NORMALIZATION", "FLOAT"] > 100
    assert kinds["SOFTMAX", "FLOAT"] > 0
    assert not {("NORMALIZATION", "HALF"), ("SOFTMAX", "HALF")} & kinds.keys()


def test_an_engine_builds_without_a_gpu() -> None:
    plan = build_plan(half_graph(), BatchProfile(1, 2, 4), (4, 4), (16, 16))
    assert len(plan) > 10_000


def test_a_refused_operator_is_an_error_with_trt_s_words() -> None:
    with pytest.raises(EngineError, match="TensorRT refuses the graph"):
        network_layers(half_graph().replace(b"Sigmoid", b"Sigmoit"))
