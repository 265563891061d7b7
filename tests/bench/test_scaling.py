"""The scaling study: its fits, and that it asks for what it says."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cdal_bench import end_to_end, scaling
from cdal_bench.configurations import Subject
from cdal_bench.contenders import choose
from cdal_bench.memory import largest_mb, peak_mb, resident_mb
from cdal_bench.plots import draw_plots
from cdal_bench.report import report_markdown
from cdal_bench.request import Request
from cdal_bench.series import fit
from cdal_sdk.errors import UsageError
from tests.bench.test_publish import RESULT, row
from tests.tiny_model import VOLUME


def test_a_line_and_a_power_law_are_found():
    line = fit("votes", "milliseconds", [1, 2, 4, 8], [15, 25, 45, 85])
    assert (line.slope, line.intercept) == (pytest.approx(10), pytest.approx(5))
    square = fit("side", "milliseconds", [8, 16, 32], [2 * 64, 2 * 256, 2 * 1024])
    assert square.exponent == pytest.approx(2)
    assert fit("cases", "megabytes", [1, 2], [5, 5]).exponent is None


def test_the_better_fit_is_drawn():
    sizes = [1.0, 2.0, 4.0, 8.0]
    line = fit("votes", "milliseconds", sizes, [15, 25, 45, 85])
    assert line.straight
    assert line.fitted() == pytest.approx([15, 25, 45, 85])
    square = fit("side", "milliseconds", sizes, [3, 12, 48, 192])
    assert not square.straight
    assert square.fitted() == pytest.approx([3, 12, 48, 192])


@pytest.mark.parametrize(
    ("asked", "made", "chosen"),
    [
        (["onnx", "openvino"], ["cdal-openvino", "cdal-onnx"], "onnx"),
        (["tensorrt", "openvino"], ["cdal-openvino"], "openvino"),
        (["torch", "openvino"], ["cdal-plain", "cdal-openvino"], "torch"),
        (["auto"], ["cdal-published", "cdal-plain", "cdal-openvino", "cdal-onnx"], "openvino"),
        (["auto"], ["cdal-plain"], "torch"),
    ],
)
def test_the_first_engine_asked_for_is_studied(asked, made, chosen):
    result = replace(RESULT, rows=tuple(row(name, name, 1.0) for name in made))
    assert scaling.first_engine(asked, result) == chosen


def test_without_an_engine_of_ours_there_is_nothing_to_study():
    with pytest.raises(UsageError, match="no engine of ours"):
        scaling.first_engine(["onnx"], replace(RESULT, rows=(row("cdal-published", "", 1.0),)))


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="elsewhere the peak is inherited")
def test_a_fat_parent_is_not_taken_for_its_child():
    fat = np.ones(800_000_000, np.uint8)
    assert largest_mb() > 800
    command = [sys.executable, "-c", "from cdal_bench.memory import largest_mb; print(largest_mb())"]
    child = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)  # noqa: S603 - our own
    assert 10 < child < 700
    del fat


@pytest.mark.skipif(resident_mb() is None, reason="this system does not tell memory")
def test_memory_is_seen():
    size = 200
    held = peak_mb(lambda: np.ones(size * 1_000_000 // 8).sum(), "cpu")
    if held is None:
        pytest.skip("this system does not forget a peak")
    assert held - resident_mb() > 0.8 * size
    kept = torch.ones(size * 1_000_000 // 4)
    assert resident_mb() > 0.8 * size
    del kept


def test_every_axis_is_studied(model: Path, task: Path, monkeypatch, tmp_path):
    monkeypatch.setattr(scaling, "_CASES", 3)
    monkeypatch.setattr(scaling, "_RUNS", 1)
    seen: list[tuple[int, ...]] = []
    cost = scaling._cost

    def spied(engine, images):
        seen.append((images.shape[0], images.shape[2], engine._sampler.x_T.shape[0], engine._sampler.schedule.steps))
        return cost(engine, images)

    monkeypatch.setattr(scaling, "_cost", spied)
    series = scaling.study_scaling(Request(str(model), choose([], ["torch"]), data=task), "torch")
    assert [(s.axis, s.x) for s in series if s.cost == "milliseconds"] == [
        ("side", (16, 32, 48, 64)),
        ("batch", (1, 2, 4, 8)),
        ("votes", (1, 2, 4, 8)),
        ("steps", (1, 2, 4, 8)),
        ("cases", (1, 2, 3)),
    ]
    batch, side, votes, steps = (sorted({entry[i] for entry in seen}) for i in range(4))
    assert (batch, votes, steps) == ([1, 2, 4, 8],) * 3
    assert side == [16, 32, 48, 64]
    assert all(min(s.y) > 0 for s in series)
    result = RESULT.__class__(**{**RESULT.__dict__, "scaling": series, "scaling_engine": "torch"})
    assert len(draw_plots(result, tmp_path)) == 6
    page = report_markdown(result)
    assert "votes^" in page
    assert "Growth with the engine torch:" in page


class Started(Exception):  # noqa: N818 - no error
    """The segmenter was made, with these settings."""


@pytest.mark.parametrize("study", ["cases", "file to file"])
def test_cases_run_on_the_device_that_was_asked_for(study, monkeypatch):
    def start(*_, **settings):
        raise Started(settings["device"])

    for module in (scaling, end_to_end):
        monkeypatch.setattr(module, "Segmenter", start)
    subject = Subject("hippocampus", VOLUME, trained=True)
    with pytest.raises(Started, match="cuda"):
        if study == "cases":
            next(scaling._cases(subject, "torch", "cuda", Path()))
        else:
            end_to_end.time_cases(subject, {}, Path(), device="cuda", repetitions=1)
