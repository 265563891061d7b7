"""The ways of a GPU, tried on a CPU, and the stored rows."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cdal_bench import gpu_speed
from cdal_bench.gpu_speed import GpuRow, GpuSpeed, main, measure, table
from cdal_bench.results import Machine

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(gpu_speed, "_SECONDS", 0.0)


def test_each_way_is_measured_and_a_failing_one_stops_no_other():
    for speed, _ in measure(["tensorrt", "autocast", "unet"], [1, 2], "cpu", "hippocampus"):
        told = speed
    assert [(row.way, row.precision, row.batch) for row in told.rows] == [
        ("autocast", "bf16", 1),
        ("autocast", "bf16", 2),
        ("unet", "fp32", 1),
    ]
    assert all(0 < row.low_ms <= row.median_ms <= row.high_ms for row in told.rows)
    assert told.failed.keys() == {"tensorrt"}
    assert all(0 < row.difference < 0.05 for row in told.rows[:2])
    assert told.rows[2].difference is None
    assert table(told).splitlines()[0].endswith("| share of the matrix rate | largest difference |")


def test_what_is_stored_can_be_read_again(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu_speed, "_MODEL", "hippocampus")
    monkeypatch.setattr(
        gpu_speed, "measure", lambda ways, batches, device: measure(ways, batches, device, "hippocampus")
    )
    main(["--device", "cpu", "--ways", "plain", "--batches", "1", "--out", str(tmp_path / "out.json")])
    speed = msgspec.json.decode((tmp_path / "out.json").read_bytes(), type=GpuSpeed)
    assert [row.way for row in speed.rows] == ["plain"]
    assert table(speed) in capsys.readouterr().out


def test_the_share_is_that_of_the_rate_of_the_same_precision():
    machine = Machine("CPU", 1, 1, 1.0, "GPU", "Linux", {}, {"float32": 1000.0, "float16": 4000.0})
    rows = [
        GpuRow("cuda-graph", "fp16", 2, 100.0, 90.0, 110.0, 5, 1.0),
        GpuRow("plain", "fp32", 1, 1000.0, 1.0, None, 5, None),
    ]
    half, single = table(GpuSpeed(machine, 100.0, rows)).splitlines()[2:]
    assert half == "| cuda-graph | fp16 | 2 | 100.0 ms | 90.0 to 110.0 ms | 5 | 50.0 ms | 50.0 % |"
    assert single == "| plain | fp32 | 1 | 1000.0 ms | from 1.0 ms | 5 | 1000.0 ms | 10.0 % |"


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks/results/gpu").glob("*.json")), ids=lambda path: path.stem)
def test_the_document_says_what_the_stored_rows_hold(path):
    speed = msgspec.json.decode(path.read_bytes(), type=GpuSpeed)
    assert table(speed) in (ROOT / "docs/export.md").read_text(encoding="utf-8")
