"""The ONNX file is a product of its own: valid, self-contained, typed as it says, with names that people recognise."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the extra [onnx] is not installed")

from cdal_sdk.engines import FoldedSampler  # noqa: E402
from cdal_sdk.engines.fingerprint import GRAPH_VERSION  # noqa: E402
from cdal_sdk.engines.onnx_graph import GraphOptions, write_graph  # noqa: E402
from cdal_sdk.engines.onnx_writer import OPSET  # noqa: E402
from cdal_sdk.errors import EngineError  # noqa: E402
from tests.engines.conftest import MODEL  # noqa: E402
from tests.tiny_model import tiny_generator  # noqa: E402

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


@pytest.fixture(scope="module")
def sampler() -> FoldedSampler:
    return FoldedSampler(tiny_generator(MODEL), MODEL.schedule, MODEL.sampling().noise())


def types(model: onnx.ModelProto) -> dict[str, int]:
    """The type of every value, as onnx infers it strictly."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, check_type=True)
    return {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}


def test_inputs_outputs_and_opset(sampler: FoldedSampler) -> None:
    model = write_graph(sampler, GraphOptions())
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == ["image"]
    assert [value.name for value in model.graph.output] == ["mean", "spread"]
    shape = [
        dimension.dim_param or dimension.dim_value for dimension in model.graph.input[0].type.tensor_type.shape.dim
    ]
    assert shape == ["batch", 2, "height", "width"]
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]


def test_inputs_of_a_graph_with_free_noise() -> None:
    free = FoldedSampler(tiny_generator(MODEL), MODEL.schedule, MODEL.sampling().noise(), free_noise=True)
    model = write_graph(free, GraphOptions(free_noise=True))
    onnx.checker.check_model(model, full_check=True)
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in model.graph.input
    }
    assert shapes == {
        "image": ["batch", 2, "height", "width"],
        "x_T": [3, 3, "height", "width"],
        "z": [2, 3, 4],
        "posterior": [2, 3, 3, "height", "width"],
    }


@pytest.mark.parametrize("size", [None, (16, 16)])
def test_votes_meet_their_constants_without_a_gather(sampler: FoldedSampler, size: tuple[int, int] | None) -> None:
    kinds = [node.op_type for node in write_graph(sampler, GraphOptions(precision="fp16", size=size)).graph.node]
    assert "Gather" not in kinds
    assert kinds.count("Shape") <= 2, "sizes are worked out once"


def test_the_steps_share_their_weights(sampler: FoldedSampler) -> None:
    stored = sum(np.prod(c.dims) for c in write_graph(sampler, GraphOptions()).graph.initializer if len(c.dims) == 4)
    convolutions = sum(p.numel() for n, p in sampler.generator.state_dict().items() if "weight" in n and p.dim() == 4)
    assert stored < 1.5 * convolutions


def test_statistics_of_a_skip_are_computed_once(sampler: FoldedSampler) -> None:
    """Both where it was made and where it is joined to what comes up."""
    nodes = write_graph(sampler, GraphOptions(norm="moments")).graph.node
    joined = {name for node in nodes if node.op_type == "Concat" for name in node.output}
    reduced = [node.input[0] for node in nodes if node.op_type == "ReduceL2"]
    assert len(reduced) == len(set(reduced)) > 10
    assert not joined & set(reduced)


@pytest.mark.parametrize("norm", ["instance", "centred", "moments"])
def test_in_half_precision_only_convolutions_and_products_are_half(sampler: FoldedSampler, norm: str) -> None:
    model = write_graph(sampler, GraphOptions(precision="fp16", norm=norm, size=(16, 16)))
    kinds = types(model)
    for node in model.graph.node:
        kind = kinds.get(node.output[0], FLOAT)
        if node.op_type in ("Conv", "MatMul") and "norm" not in node.name:
            assert kind == HALF, node.name
        if node.op_type in ("InstanceNormalization", "Softmax", "Tanh", "Sqrt") or "posterior" in node.name:
            assert kind == FLOAT, node.name
    assert {types_of.type.tensor_type.elem_type for types_of in model.graph.output} == {FLOAT}


def test_an_island_stays_in_float32(sampler: FoldedSampler) -> None:
    island = "step1.down.0.blocks.0.conv2"
    kinds = types(write_graph(sampler, GraphOptions(precision="fp16", islands=frozenset({island}))))
    assert kinds[island] == FLOAT
    assert kinds["step0.down.0.blocks.0.conv2"] == HALF


def test_what_has_no_onnx_form_is_an_error(sampler: FoldedSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = type(sampler.generator).denoise
    monkeypatch.setattr(type(sampler.generator), "denoise", lambda *arguments: forward(*arguments).cosh())
    with pytest.raises(EngineError, match="no ONNX form"):
        write_graph(sampler, GraphOptions())


GRAPHS = {6: "1120bf39b5d058c4"}
"""The first digits of what `digest` gives, by version."""


def digest() -> str:
    """Of the nodes of several graphs, without the weights' values."""
    nodes = []
    for free in (False, True):
        noise = MODEL.sampling().noise()
        sampler = FoldedSampler(tiny_generator(MODEL), MODEL.schedule, noise, free_noise=free)
        for norm in ("instance", "centred", "moments"):
            for size, precision in ((None, "fp32"), ((16, 16), "fp16")):
                options = GraphOptions(size, precision, norm, free_noise=free, probes=free)  # type: ignore[arg-type]
                graph = write_graph(sampler, options).graph
                for node in graph.node:
                    settings = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
                    nodes.append(f"{node.op_type} {node.name} {[*node.input]} {[*node.output]} {settings}")
    return hashlib.sha256("\n".join(nodes).encode()).hexdigest()[:16]


def test_a_graph_that_is_written_otherwise_has_another_version() -> None:
    """Engines of the older graph would be taken for this one's."""
    assert digest() == GRAPHS[GRAPH_VERSION], "raise GRAPH_VERSION, and put the new digest down beside it"
