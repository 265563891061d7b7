"""The command line as a user and as a script see it: exit codes, one-sentence errors, speed of start."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_type_hints

import nibabel
import numpy as np
import pytest
import typer

from cdal_sdk import __version__
from cdal_sdk.cli.app import app, main
from tests.segmenter.conftest import planar_model, volume_model, write_volume  # noqa: F401 - fixtures


@dataclass(frozen=True)
class Outcome:
    """What a run of the command line left behind."""

    returncode: int
    stdout: str
    stderr: str


Cdal = Callable[..., Outcome]

_NAMES_OR_PATHS = ("checkpoint", "model", "recipe", "split")


@pytest.fixture
def cdal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cdal:
    """A function that runs the command line, in this process to save the time of its imports."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["cdal", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return Outcome(int(ended.value.code or 0), *capsys.readouterr())

    return run


def one_sentence(result: Outcome) -> str:
    """The error of a run, which is a single line and no traceback."""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_every_case_fine_is_0(cdal: Cdal, volume_model: Path, tmp_path: Path) -> None:  # noqa: F811
    write_volume(tmp_path / "in/a.nii.gz")
    result = cdal("segment", tmp_path / "in", "--out", tmp_path / "out", "--model", volume_model, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == json.loads((tmp_path / "out/report.json").read_text())
    assert result.stderr == "", "quiet when not a terminal"


def test_some_failed_is_1_and_the_others_are_written(cdal: Cdal, volume_model: Path, tmp_path: Path) -> None:  # noqa: F811
    write_volume(tmp_path / "in/good.nii.gz")
    (tmp_path / "in/text.dcm").write_text("this is no DICOM")
    missing = tmp_path / "in/missing.nii.gz"
    result = cdal("segment", tmp_path / "in", missing, "--out", tmp_path / "out", "--model", volume_model)
    assert result.returncode == 1
    assert (tmp_path / "out/good.nii.gz").exists()
    statuses = {c["case"]: c["status"] for c in json.loads((tmp_path / "out/report.json").read_text())["cases"]}
    assert (statuses["good"], statuses["missing"], sorted(statuses.values())) == (
        "ok",
        "failed",
        ["failed"] * 2 + ["ok"],
    )
    assert "missing.nii.gz" in result.stderr
    assert "this is no DICOM file" in result.stderr
    assert "text" not in result.stderr, "DICOM files are often named after patients"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: there is no such file or folder"),
        (["empty"], "nothing to segment"),
        (["in", "--model", "nothing"], "there is no model 'nothing'"),
        (["in", "--engine", "warp"], "there is no engine 'warp'"),
        (["in", "--votes", "0"], "votes is 0"),
        (["in", "--format", "gif"], "there is no format 'gif'"),
        (["in", "--read-timeout", "-1"], "the read timeout is -1 seconds"),
        (["in", "--read-timeout", "nan"], "the read timeout is nan seconds"),
    ],
)
def test_wrong_usage_is_2(
    cdal: Cdal, tmp_path: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write_volume(tmp_path / "in/a.nii.gz")
    result = cdal("segment", *arguments, "--out", "out")
    assert result.returncode == 2
    assert message in one_sentence(result)
    assert not (tmp_path / "out").exists()


def empty_paths() -> Iterator[list[str]]:
    """A call of each command with each of its parameters empty that is a path, or a name that may stand for one."""
    for name, command in typer.main.get_command(app).commands.items():
        for parameter, kind in get_type_hints(command.callback).items():
            if "pathlib" in repr(kind) or parameter in _NAMES_OR_PATHS:
                call = [name]
                for other in command.params:
                    if other.required or other.name == parameter:
                        option = other.opts[:1] if other.opts[0].startswith("-") else []
                        call += [*option, "" if other.name == parameter else "x"]
                yield call


@pytest.mark.parametrize("call", list(empty_paths()), ids=" ".join)
def test_an_empty_path_is_not_the_current_folder(
    cdal: Cdal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cdal(*call)
    assert result.returncode == 2
    assert "it is empty; name a file or folder" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_warning_is_one_line_where_nobody_looks(volume_model: Path, tmp_path: Path) -> None:  # noqa: F811
    source = write_volume(tmp_path / "a.nii.gz")
    command = [sys.executable, "-m", "cdal_sdk.cli", "segment", str(source), "--out", str(tmp_path / "out")]
    command += ["--model", str(volume_model), "--engine", "torch", "--format", "dicom-seg"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - pytest keeps the log here
    expected = r"[\d-]{10} [\d:]{8} WARNING --format dicom-seg is passed over for inputs that it cannot hold\n"
    assert re.fullmatch(expected, done.stderr)


def test_an_unknown_option_or_choice_is_2(cdal: Cdal, tmp_path: Path) -> None:
    assert cdal("segment", "--no-such-option").returncode == 2
    assert cdal("segment", tmp_path, "--out", tmp_path, "--device", "abacus").returncode == 2


def test_one_volume_of_several_is_taken_on_demand(cdal: Cdal, volume_model: Path, tmp_path: Path) -> None:  # noqa: F811
    single = nibabel.load(write_volume(tmp_path / "single.nii.gz"))
    values = np.asarray(single.dataobj)
    (tmp_path / "in").mkdir()
    nibabel.save(nibabel.Nifti1Image(np.stack([0 * values, values], -1), single.affine), tmp_path / "in/four.nii.gz")
    command = ("segment", tmp_path / "in", "--model", volume_model, "--engine", "torch", "--json")

    refused = cdal(*command, "--out", tmp_path / "refused")
    assert refused.returncode == 1
    assert "choose one with --volume, counted from 0" in refused.stderr
    assert cdal(*command, "--out", tmp_path / "none", "--volume", 2).returncode == 1

    assert cdal(*command, "--out", tmp_path / "out", "--volume", 1).returncode == 0
    alone = ("segment", tmp_path / "single.nii.gz", *command[2:], "--out", tmp_path / "alone")
    assert cdal(*alone).returncode == 0
    masks = [np.asarray(nibabel.load(tmp_path / name).dataobj) for name in ("out/four.nii.gz", "alone/single.nii.gz")]
    np.testing.assert_array_equal(*masks)
    assert masks[0].any()
    assert cdal("verify", tmp_path / "out", "--source", tmp_path / "in", "--volume", 1).returncode == 0
    assert cdal("verify", tmp_path / "out", "--source", tmp_path / "in").returncode == 1


def test_a_case_that_takes_too_long_to_read_fails(cdal: Cdal, volume_model: Path, tmp_path: Path) -> None:  # noqa: F811
    write_volume(tmp_path / "in/a.nii.gz")
    command = ("segment", tmp_path / "in", "--out", tmp_path / "out", "--model", volume_model, "--engine", "torch")
    result = cdal(*command, "--read-timeout", 0.05)  # less than the process takes to start
    assert result.returncode == 1
    assert "reading it took longer than 0.05 seconds" in result.stderr
    assert cdal(*command).returncode == 0


def test_an_input_on_a_drive_that_is_gone_fails(
    cdal: Cdal,
    volume_model: Path,  # noqa: F811
    tmp_path: Path,
    gone: Callable[[Path], None],
) -> None:
    good, bad, out = write_volume(tmp_path / "in/a.nii.gz"), tmp_path / "bad", tmp_path / "out"
    gone(bad)
    options = ("--out", out, "--model", volume_model, "--engine", "torch", "--read-timeout")
    alone = cdal("segment", bad, *options, 0.1)
    assert (alone.returncode, out.exists()) == (2, False)
    assert f"{bad}: reading it took longer than 0.1 seconds; check the drive" in one_sentence(alone)

    among = cdal("segment", bad, good, *options, 10)
    assert among.returncode == 1
    assert (out / "a.nii.gz").exists()
    cases = {case["case"][:6]: case for case in json.loads((out / "report.json").read_text())["cases"]}
    assert {name: case["status"] for name, case in cases.items()} == {"a": "ok", "silent": "failed"}
    assert "reading it took longer than 10 seconds" in cases["silent"]["error"]


def test_verify_tells_what_has_changed(cdal: Cdal, volume_model: Path, tmp_path: Path) -> None:  # noqa: F811
    write_volume(tmp_path / "in/a.nii.gz")
    out = tmp_path / "out"
    assert cdal("segment", tmp_path / "in", "--out", out, "--model", volume_model, "--engine", "torch").returncode == 0

    fine = cdal("verify", out, "--source", tmp_path / "in", "--model", volume_model)
    assert (fine.returncode, fine.stdout) == (0, "1 case(s), 2 file(s), 1 compared with their sources: all holds\n")
    assert json.loads(cdal("verify", out, "--json").stdout)["problems"] == []

    other = cdal("verify", out, "--model", "chest-xray")
    assert other.returncode == 1
    assert "its labels are not those of the model 'chest-xray'" in other.stdout
    (out / "a.nii.gz").write_bytes(b"something else")
    (out / "b.nii.gz").write_bytes(b"from nowhere")
    changed = cdal("verify", out)
    assert changed.returncode == 1
    assert changed.stdout.splitlines() == [
        "a: a.nii.gz has changed since it was written",
        "b.nii.gz: no finished case accounts for this file",
        "1 case(s), 2 file(s): 2 problem(s)",
    ]


def test_verify_reads_sources_in_another_process(cdal: Cdal, volume_model: Path, tmp_path: Path) -> None:  # noqa: F811
    write_volume(tmp_path / "in/a.nii.gz")
    out = tmp_path / "out"
    assert cdal("segment", tmp_path / "in", "--out", out, "--model", volume_model, "--engine", "torch").returncode == 0
    result = cdal("verify", out, "--source", tmp_path / "in", "--read-timeout", 0.05)  # less than the process needs
    assert result.returncode == 1
    assert "a: its source cannot be read: a.nii.gz: reading it took longer than 0.05 seconds" in result.stdout
    assert cdal("verify", out, "--read-timeout", 0).returncode == 2


def test_verify_of_nothing_is_2(cdal: Cdal, tmp_path: Path) -> None:
    result = cdal("verify", tmp_path)
    assert result.returncode == 2
    assert "no case was finished in this folder" in one_sentence(result)
    assert cdal("verify", tmp_path / "nowhere").returncode == 2


def test_the_output_folder_may_lie_among_the_inputs(cdal: Cdal, volume_model: Path, tmp_path: Path) -> None:  # noqa: F811
    write_volume(tmp_path / "scan.nii.gz")
    command = ("segment", tmp_path, "--out", tmp_path / "masks", "--model", volume_model, "--engine", "torch", "--json")
    for status in ("ok", "skipped"):
        (case,) = json.loads(cdal(*command).stdout)["cases"]
        assert (case["case"], case["status"]) == ("scan", status)


def test_an_unforeseen_error_is_one_sentence(cdal: Cdal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def burst(*arguments: object, **settings: object) -> None:
        raise ZeroDivisionError("details")

    monkeypatch.setattr("cdal_sdk.readers.discover", burst)
    result = cdal("segment", tmp_path, "--out", tmp_path / "out")
    assert result.returncode == 2
    assert "unexpected ZeroDivisionError" in one_sentence(result)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            "segment in --engine torch --out text",
            "text: nothing can be written to this folder (File exists); choose another --out",
        ),
        ("segment in --engine torch --out text/x", "text/x: nothing can be written to this folder (Not a directory)"),
        ("info text", "text: this is no readable PyTorch file (KeyError); give a best.pt"),
        ("import-published in --config text --out x.pt", "text: this is no readable JSON"),
        (
            "import-published in --config in --out x.pt",
            "in: the file cannot be opened (Is a directory); check the path",
        ),
        ("train --data nowhere --out x", "nowhere: there is no such folder; check --data"),
        ("train --data in --out x", "in/images: there is no such folder; give a folder with dataset.json"),
        ("train --data in --out x --device cuda", "there is no CUDA device here; use --device cpu"),
        ("evaluate --model hippocampus --data text --out x", "text: there is no such folder; check --data"),
    ],
)
def test_a_wrong_path_is_one_sentence_with_a_remedy(
    cdal: Cdal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    write_volume(tmp_path / "in/a.nii.gz")
    (tmp_path / "text").write_text("hello\n")
    result = cdal(*call.split())
    assert message in one_sentence(result)
    assert result.returncode == 2


@pytest.mark.parametrize(
    "call",
    [
        "segment in --out x --volume -1",
        "verify in --volume -1",
        "train --data in --out x --devices 0",
        "train --data in --out x --workers -1",
        "benchmark --out x --seconds -1",
    ],
)
def test_a_number_below_the_least_is_2(cdal: Cdal, call: str) -> None:
    result = cdal(*call.split())
    assert "Invalid value for" in result.stderr
    assert result.returncode == 2


@pytest.mark.parametrize(
    "call",
    [
        "export --checkpoint hippocampus --out x --triton text/x --engine onnx",
        "evaluate --model hippocampus --data data --engine torch --out text/x.json",
    ],
)
def test_a_place_that_takes_no_files_is_told_before_the_work(
    cdal: Cdal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cdal_export.exporter.export_model", None)
    monkeypatch.setattr("cdal_trainer.evaluate.evaluate", None)
    (tmp_path / "text").write_text("hello\n")
    for part in ("images", "masks"):
        write_volume(tmp_path / "data" / part / "a.nii.gz")
    result = cdal(*call.split())
    assert "text/x" in one_sentence(result)
    assert "there is a file where a folder is needed" in result.stderr
    assert result.returncode == 1


def test_what_the_system_refuses_is_named(cdal: Cdal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a folder of another user, for which `Path.exists` raises before Python 3.14; tests may run as root."""

    def refuse(*arguments: object, **settings: object) -> None:
        raise PermissionError(13, "Permission denied", "locked/dataset.json")

    monkeypatch.setattr("cdal_trainer.cases.decathlon_cases", refuse)
    (tmp_path / "dataset.json").touch()
    result = cdal("train", "--data", tmp_path, "--out", tmp_path / "run", "--device", "cpu")
    expected = "Error: locked/dataset.json: this cannot be used (Permission denied); check the path and its permissions"
    assert one_sentence(result) == expected
    assert result.returncode == 2


def test_info(cdal: Cdal, volume_model: Path) -> None:  # noqa: F811
    assert "cdal-sdk" in cdal("info").stdout
    text = cdal("info", volume_model).stdout
    assert "1 Anterior, 2 Posterior" in text
    assert json.loads(cdal("info", volume_model, "--json").stdout)["name"] == "tiny-volume"


def test_version(cdal: Cdal) -> None:
    result = cdal("--version")
    assert (result.returncode, result.stdout) == (0, f"cdal {__version__}\n")


def test_help_lists_every_command(cdal: Cdal) -> None:
    text = cdal("--help").stdout
    for command in typer.main.get_command(app).commands:
        assert f" {command} " in text


def test_start_is_instant() -> None:
    """The bounds of the contract, with room for a busy machine: the best of several runs counts."""

    def best(*command: str) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, capture_output=True)  # noqa: S603
            times.append(time.perf_counter() - start)
        return min(times)

    nothing = best("-c", "pass")
    assert best("-c", "import cdal_sdk") - nothing < 0.1
    assert best("-m", "cdal_sdk.cli", "--help") < 0.5


def test_importing_the_sdk_loads_nothing_heavy() -> None:
    heavy = {"torch", "monai", "pydicom", "nibabel", "scipy", "typer"}
    code = f"import sys, cdal_sdk; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert result.stdout.strip() == "[]"


def test_an_export_tells_its_figures_as_json(cdal: Cdal, volume_model: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "out.cdal"
    result = cdal("export", "--checkpoint", volume_model, "--engine", "torchscript", "--out", out, "--json")
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    (engine,) = told["engines"]
    assert (out / engine["file"]).stat().st_size == told["files"][engine["file"]]
    assert engine["agreement"]["flips"] == 0.0
    assert min(engine["agreement"]["dice"].values()) == 1.0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
def test_a_result_that_nobody_takes_does_not_change_the_exit_code(
    volume_model: Path,  # noqa: F811
    tmp_path: Path,
    options: tuple[str, ...],
) -> None:
    """Also where the encoding of the output lacks the letters of a name."""
    write_volume(tmp_path / "海馬.nii.gz")
    command = [sys.executable, "-m", "cdal_sdk.cli", "segment", str(tmp_path / "海馬.nii.gz"), "--engine", "torch"]
    command += ["--model", str(volume_model), "--out", str(tmp_path / "out"), *options]
    narrow = {**os.environ, "PYTHONUTF8": "0", "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, capture_output=True, env=narrow, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
    assert b"\\u6d77\\u99ac" in done.stdout
    assert not options or json.loads(done.stdout)["cases"][0]["case"] == "海馬"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=narrow, check=False)  # noqa: S603
    assert (done.returncode, done.stderr.count(b"cannot be printed")) == (0, 1), done.stderr
    closed = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    assert subprocess.run(closed, check=False).returncode == 0  # noqa: S603
