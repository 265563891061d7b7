"""INT8 is made by an export, on images that its gate does not see, and passes or fails the same gate."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cdal_export.exporter import ExportOptions, export_model
from cdal_sdk import Segmenter
from cdal_sdk.cli.app import app
from cdal_sdk.engines import BuiltEngine, Target, builder_of, engine_kind
from cdal_sdk.errors import EngineError, GateError, UsageError
from cdal_sdk.gate import Limits
from tests.engines.conftest import target as small_target
from tests.tiny_model import PLANAR, save_tiny, tiny_generator

pytest.importorskip("nncf", reason="the extra [int8] is not installed")
STRICT = Limits(dice=1.01)  # more than any engine reaches
LENIENT = Limits(dice=0.5, flips=0.5, shifts=1.0, volume_change=1.0, spread_change=10.0)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cases: one calibrates, one judges."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (2, 16, 16), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def int8(pictures: Path) -> ExportOptions:
    return ExportOptions(int8=True, limits=LENIENT, data=pictures)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, int8: ExportOptions) -> Path:
    folder = tmp_path_factory.mktemp("int8")
    return export_model(save_tiny(PLANAR, folder / "tiny"), folder / "out", int8).folder


def test_an_exported_engine_is_used_and_close(exported: Path) -> None:
    segmenter = Segmenter(exported)
    assert (segmenter.engine.name, segmenter.engine.precision) == ("openvino-int8", "int8")
    image = np.random.default_rng(0).random((2, 1, 16, 16)).astype(np.float32)
    difference = np.abs(segmenter.engine.run(image).mean - Segmenter(exported, engine="torch").engine.run(image).mean)
    assert 1e-4 < difference.mean() < 0.2, "rounded, but no other network"


def test_the_rest_computes_as_the_engine_in_floating_point_does(exported: Path) -> None:
    """Left in float32 on a CPU with bfloat16, eight bits were slower than that."""
    hints, environments = [], []
    for name in ("openvino-int8", "openvino"):
        engine = Segmenter(exported, engine=name).engine
        engine.run(np.zeros((1, 1, 16, 16), np.float32))
        (request,) = engine._requests.values()  # type: ignore[attr-defined]
        hints.append(request.get_compiled_model().get_property("INFERENCE_PRECISION_HINT"))
        environments.append(builder_of(engine_kind(name)).environment("cpu"))
    assert hints[0] == hints[1]
    assert environments[0] == environments[1], "so that a file is not used on a CPU that rounds otherwise"


def test_only_convolutions_behind_a_norm_are_quantised(exported: Path) -> None:
    import openvino

    from cdal_sdk.engines.openvino_cpu import openvino_core

    with zipfile.ZipFile(next(exported.glob("engines/openvino-int8*.zip"))) as archive:
        xml, weights = archive.read("model.xml"), np.frombuffer(archive.read("model.bin"), np.uint8)
    nodes = openvino_core().read_model(xml, openvino.Tensor(weights)).get_ops()

    def name(node: openvino.Node) -> str:
        return node.get_friendly_name().removesuffix("/WithoutBiases")

    def kinds_before(node: openvino.Node) -> set[str]:
        return {value.get_node().get_type_name() for value in node.input_values()}

    convolutions = [node for node in nodes if node.get_type_name() == "Convolution"]
    inner = [node for node in convolutions if name(node).endswith((".conv1", ".conv2"))]
    assert 0 < len(inner) < len(convolutions)
    assert {name(node) for node in nodes if "FakeQuantize" in kinds_before(node)} == {name(node) for node in inner}


def test_it_is_quantised_once_and_runs_without_the_steps_that_the_gate_reads(
    int8: ExportOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nncf

    builder = builder_of(engine_kind("openvino-int8"))
    quantise, load = nncf.quantize, builder.load
    quantised: list[object] = []
    outputs: list[list[str]] = []

    def opened(path: Path, target: Target) -> BuiltEngine:
        engine = load(path, target)
        outputs.append([output.any_name for output in engine._model.outputs])  # type: ignore[attr-defined]
        return engine

    monkeypatch.setattr(nncf, "quantize", lambda *args, **options: quantised.append(args) or quantise(*args, **options))
    monkeypatch.setattr(builder, "load", opened)
    (engine,) = export_model(save_tiny(PLANAR, tmp_path / "tiny"), tmp_path / "out", int8).engines
    assert len(quantised) == 1
    assert outputs == [["mean", "spread"], ["mean", "spread", *(f"step{step.step}" for step in engine.steps)]]


def test_a_single_case_cannot_both_calibrate_and_judge(int8: ExportOptions, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"two cases at least.*--data"):
        export_model(save_tiny(PLANAR, tmp_path / "tiny"), tmp_path / "out", replace(int8, data=None))


@pytest.mark.parametrize("other", ["--bf16", "--fp32", "--islands", "--free-noise"])
def test_what_it_would_ignore_is_refused(other: str, tmp_path: Path) -> None:
    order = ["export", "--checkpoint", "hippocampus", "--out", str(tmp_path / "out"), "--int8", other]
    refused = CliRunner().invoke(app, order)
    assert f"--int8 and {other} exclude each other" in str(refused.exception)


def test_who_asks_for_more_precision_gets_it(exported: Path) -> None:
    for precision in ("fp32", "bf16"):
        engine = Segmenter(exported, precision=precision).engine
        assert engine.name != "openvino-int8"
        assert engine.precision != "int8"
    with pytest.raises(EngineError, match="does not compute in fp32; it has int8"):
        Segmenter(exported, engine="openvino-int8", precision="fp32")


def test_another_seed_has_no_engine(exported: Path) -> None:
    with pytest.raises(EngineError, match=r"no engine 'openvino-int8' for these votes, this seed"):
        Segmenter(exported, engine="openvino-int8", seed=3)


def test_the_gate_s_own_limits_hold_for_it(int8: ExportOptions, tmp_path: Path) -> None:
    strict = replace(int8, limits=STRICT)
    with pytest.raises(GateError, match=r"openvino-int8.*in int8 it disagrees.*leave --int8 out"):
        export_model(save_tiny(PLANAR, tmp_path / "tiny"), tmp_path / "out", strict)
    assert not (tmp_path / "out").exists()


def test_only_an_export_makes_it(int8: ExportOptions, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cdal export --int8"):
        Segmenter(save_tiny(PLANAR, tmp_path / "tiny"), engine="openvino-int8")
    with pytest.raises(UsageError, match=r"'onnx' has no INT8.*--engine tensorrt-rtx"):
        export_model(tmp_path / "tiny", tmp_path / "out", replace(int8, engines=("onnx",)))


def test_a_damaged_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "engine.zip").write_bytes(b"no archive")
    with pytest.raises(EngineError, match="does not open"):
        builder_of(engine_kind("openvino-int8")).load(tmp_path / "engine.zip", None)  # type: ignore[arg-type]


def test_tensorrt_s_is_built_and_rehearsed_without_a_gpu(
    int8: ExportOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = pytest.importorskip("cdal_sdk.engines.tensorrt_rtx", reason="the extra [tensorrt-rtx] is not installed")
    monkeypatch.setattr(trt, "build_plan", partial(trt.build_plan, architectures=("SM89",)))  # all take minutes
    model = save_tiny(PLANAR, tmp_path / "tiny")
    exported = export_model(model, tmp_path / "out", replace(int8, engines=("tensorrt-rtx",)))
    (engine,) = exported.engines
    assert (engine.name, engine.precision, engine.agreement) == ("tensorrt-rtx-int8", "int8", None)
    assert (exported.folder / engine.file).stat().st_size > 0
    assert engine.rehearsal is not None
    assert 1e-6 < engine.rehearsal.probability < 0.3, "rounded, but no other network"
    told = json.loads((exported.folder / engine.file).with_name("tensorrt-rtx-int8-cuda-int8.json").read_text())
    assert (told["gate"], told["gpu"]) == (None, ""), "so that it is gated at its first use"
    assert told["rehearsal"] == str(engine.rehearsal)


def test_a_model_that_does_not_bear_eight_bits_is_refused_before_a_gpu_sees_it(
    int8: ExportOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = pytest.importorskip("cdal_sdk.engines.tensorrt_rtx", reason="the extra [tensorrt-rtx] is not installed")
    monkeypatch.setattr(trt, "build_plan", lambda *_: b"a plan")
    strict = replace(int8, engines=("tensorrt-rtx",), limits=STRICT)
    with pytest.raises(GateError, match=r"'emulated': in int8 it disagrees.*leave --int8 out"):
        export_model(save_tiny(PLANAR, tmp_path / "tiny"), tmp_path / "out", strict)
    assert not (tmp_path / "out").exists()


def test_tensorrt_s_convolutions_are_quantised_symmetrically(tmp_path: Path) -> None:
    from cdal_sdk.engines.onnx_int8 import write_int8_graph

    trt = pytest.importorskip("cdal_sdk.engines.tensorrt_rtx", reason="the extra [tensorrt-rtx] is not installed")
    images = np.random.default_rng(0).random((2, 1, 16, 16)).astype(np.float32)
    target = replace(small_target(), sampling=PLANAR.sampling(), precision="int8", calibration=(images,))
    layers = trt.describe_network(write_int8_graph(tiny_generator(PLANAR), target))
    quantised = [layer for layer in layers if layer.kind == "QUANTIZE"]
    assert {layer.precision for layer in quantised} == {"INT8"}
    inner = [layer for layer in layers if layer.kind == "CONVOLUTION" and layer.name.endswith((".conv1", ".conv2"))]
    assert len(quantised) >= len(inner) > 0
    assert {layer.precision for layer in layers if layer.kind in ("NORMALIZATION", "SOFTMAX")} == {"FLOAT"}


def test_large_images_are_cropped_for_calibration_and_the_engine_takes_the_canvas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = pytest.importorskip("cdal_sdk.engines.openvino_int8")
    seen: list[tuple[int, ...]] = []
    quantise = engine._quantise
    values = 12 * 12 * PLANAR.votes * len(PLANAR.betas) * PLANAR.network.width
    monkeypatch.setattr(engine, "_VALUES", values)
    monkeypatch.setattr(engine, "_LEAST", 1)
    monkeypatch.setattr(
        engine, "_quantise", lambda model, images: seen.extend(i.shape for i in images) or quantise(model, images)
    )
    images = np.random.default_rng(0).random((1, 1, 16, 16)).astype(np.float32)
    target = replace(
        small_target(), sampling=PLANAR.sampling(), precision="int8", calibration=(images,), fixed_size=True
    )
    engine.BUILDER.build(tiny_generator(PLANAR), target, tmp_path / "engine.zip")
    assert seen == [(1, 12, 12)]
    assert engine.BUILDER.load(tmp_path / "engine.zip", target).run(images).mean.shape == (1, 1, 16, 16)
