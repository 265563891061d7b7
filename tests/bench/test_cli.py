"""What `cdal benchmark` refuses before it measures, and what it keeps when something fails after."""

from __future__ import annotations

from dataclasses import replace

import pytest
import typer

from cdal_bench import cli
from cdal_bench.results import Verdict, read_result
from cdal_sdk.errors import EngineError, OutputError, UsageError
from tests.bench.test_publish import RESULT


def never(*_):
    raise AssertionError("it was measured")


@pytest.fixture
def measured(monkeypatch):
    monkeypatch.setattr("cdal_bench.benchmark.run_benchmark", lambda *_: RESULT)


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_folder_that_takes_no_files_is_refused_before_anything_is_measured(tmp_path, monkeypatch, below):
    monkeypatch.setattr("cdal_bench.benchmark.run_benchmark", never)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="a file where a folder is needed") as error:
        cli.benchmark(tmp_path / "file" / below)
    assert "file" in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": ["segdif=FILE"]}, "'segdif'"),
        ({"weights": ["segdiff"]}, "--weights is 'segdiff'"),
        ({"weights": ["segdiff=missing.pt"]}, "no file 'missing.pt'"),
        ({"note": ["resunet=not converged"]}, "'resunet'"),
        ({"scaling": True, "engine": ""}, "--scaling"),
        ({"batch": "1,x"}, "--batch"),
    ],
    ids=str,
)
def test_wrong_usage_is_refused_before_anything_is_measured(tmp_path, monkeypatch, settings, message):
    monkeypatch.setattr("cdal_bench.benchmark.run_benchmark", never)
    (tmp_path / "best.pt").touch()
    if "weights" in settings:
        settings = {"weights": [entry.replace("FILE", str(tmp_path / "best.pt")) for entry in settings["weights"]]}
    with pytest.raises(UsageError, match=message):
        cli.benchmark(tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_what_was_measured_is_kept_when_the_scaling_fails(tmp_path, monkeypatch, measured):
    def fail(*_):
        raise EngineError("it broke")

    monkeypatch.setattr("cdal_bench.scaling.study_scaling", fail)
    with pytest.raises(EngineError, match="it broke"):
        cli.benchmark(tmp_path, scaling=True)
    assert [row.name for row in read_result(tmp_path / "result.json").rows] == [row.name for row in RESULT.rows]


def test_the_engine_of_the_scaling_stands_in_the_result(tmp_path, monkeypatch, measured, capsys):
    monkeypatch.setattr("cdal_bench.scaling.study_scaling", lambda request, engine, say: ())
    cli.benchmark(tmp_path, scaling=True)
    assert read_result(tmp_path / "result.json").scaling_engine == "x"
    assert (tmp_path / "report.md").read_text() in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"result.json", "report.md", "latency.png"}


@pytest.mark.parametrize(
    "result",
    [
        replace(RESULT, failed={"cdal-onnx": "it broke"}),
        replace(
            RESULT, rows=(*RESULT.rows[:1], replace(RESULT.rows[1], gate=Verdict(passed=False, figures="Dice 0.9")))
        ),
    ],
    ids=["failed", "refused"],
)
def test_an_engine_that_fails_or_is_refused_shows_in_the_exit_code(tmp_path, monkeypatch, result):
    monkeypatch.setattr("cdal_bench.benchmark.run_benchmark", lambda *_: result)
    with pytest.raises(typer.Exit) as ended:
        cli.benchmark(tmp_path)
    assert ended.value.exit_code == 1
    assert read_result(tmp_path / "result.json").failed == result.failed
