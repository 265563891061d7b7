"""A Triton repository: a configuration that fits the model, beside the engine's file."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from cdal_export import cli
from cdal_export.exporter import Exported, ExportedEngine
from cdal_export.triton import check_engines, model_config, write_repository
from cdal_sdk.engines import BatchProfile
from cdal_sdk.errors import OutputError, UsageError
from tests.tiny_model import PLANAR, VOLUME


def exported(folder: Path, *names: str) -> Exported:
    engines = []
    for name in names:
        file = f"engines/{name}-cpu-fp32.bin"
        (folder / "engines").mkdir(exist_ok=True)
        (folder / file).write_text(name)
        engines.append(ExportedEngine(name, file, "fp32", None))
    return Exported(folder, VOLUME, tuple(engines), "nothing")


def test_what_triton_runs_is_written(tmp_path: Path) -> None:
    files = write_repository(exported(tmp_path, "onnx"), tmp_path / "repository")
    config, model = tmp_path / "repository/tiny-volume-onnx/config.pbtxt", tmp_path / "repository/tiny-volume-onnx/1"
    assert files == [config, model / "model.onnx"]
    assert (model / "model.onnx").read_text() == "onnx"
    assert 'platform: "onnxruntime_onnx"' in config.read_text()
    assert "dynamic_batching" in config.read_text()


def test_a_repository_is_written_where_nobody_takes_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(text: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("cdal_export.exporter.export_model", lambda *_: exported(tmp_path, "onnx"))
    monkeypatch.setattr(cli, "tell", lost)
    with pytest.raises(BrokenPipeError):
        cli.export("hippocampus", engines=["onnx"], triton=tmp_path / "repository", as_json=True)
    assert (tmp_path / "repository/tiny-volume-onnx/1/model.onnx").is_file()


def test_a_server_meets_no_half_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, folder = exported(tmp_path, "onnx"), tmp_path / "repository"
    _, model = write_repository(given, folder)

    def fail(source: Path, target: Path) -> None:
        Path(target).write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr("cdal_export.triton.shutil.copyfile", fail)
    with pytest.raises(OutputError):
        write_repository(given, folder)
    assert model.read_text() == "onnx"
    assert [path.name for path in model.parent.iterdir()] == [model.name]


@pytest.mark.parametrize("name", ["../../out", "a/b", 'q"x', "in two\nlines", "..", "Läsion"])
def test_no_name_or_description_leaves_its_place(tmp_path: Path, name: str) -> None:
    manifest = replace(VOLUME, name=name, description='Lungs\nname: "other"')
    given = replace(exported(tmp_path, "onnx"), manifest=manifest)
    config, model = write_repository(given, tmp_path / "repository")
    assert config.parent.parent == tmp_path / "repository"
    assert model.is_file()
    lines = config.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("name:")] == [f'name: "{config.parent.name}"']
    assert re.fullmatch(r"[A-Za-z0-9._-]+-onnx", config.parent.name)


@pytest.mark.parametrize(
    ("names", "free_noise", "says"),
    [
        (["openvino"], False, "'openvino' is none that Triton runs; use --triton with --engine onnx or"),
        (["onnx", "auto"], False, "'auto' is none that Triton runs"),
        (["onnx"], True, "takes an image only; leave --free-noise or"),
    ],
)
def test_what_it_does_not_run_is_refused(names: list[str], free_noise: bool, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        check_engines(names, free_noise=free_noise)
    check_engines(["onnx", "tensorrt"], free_noise=False)


def test_sizes_names_and_types() -> None:
    free = model_config(VOLUME, "onnx", "x", BatchProfile(1, 4, 32))
    assert re.findall(r"dims: \[ (.*?) \]", free) == ["3, -1, -1", "3, -1, -1", "3, -1, -1"]
    assert re.findall(r'name: "(\w+)", data', free) == ["image", "mean", "spread"]
    assert "max_batch_size: 32" in free
    fixed = model_config(PLANAR, "tensorrt", "x", BatchProfile())
    assert re.findall(r"dims: \[ (.*?) \]", fixed) == ["1, 16, 16"] * 3
    assert re.findall(r'name: "(\w+)", data', fixed) == ["image__0", "mean__0", "spread__1"]
    for text in (free, fixed):
        assert text.count("{") == text.count("}")
        assert text.count("[") == text.count("]")
