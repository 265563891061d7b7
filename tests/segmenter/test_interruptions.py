"""Killed at any moment, interrupted, and two at once: what is in the folder is whole, and a further run completes it.

Two kills by default; for a long run set CDAL_KILLS=100.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from cdal_sdk import Segmenter, segment_cases
from cdal_sdk.errors import UsageError
from cdal_sdk.readers import discover
from cdal_sdk.segmenter.verify import verify
from tests.segmenter.conftest import write_volume

KILLS = int(os.environ.get("CDAL_KILLS", "2"))
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals")

# Says when it is about to begin, and what became of each case.
SCRIPT = """
import signal
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
from cdal_sdk import Segmenter, segment_cases
from cdal_sdk.errors import UsageError
from cdal_sdk.readers import discover
model, source, out = map(Path, sys.argv[1:])
segmenter = Segmenter(model, engine="torch")
cases = discover([source])
print("ready", flush=True)
sys.stdin.readline()
tell = lambda case: print(case.case, flush=True)
report = segment_cases(segmenter, cases, out, formats=("probability",), on_case=tell)
print(",".join(f"{case.case}={case.status}" for case in report.cases), flush=True)
"""


def begin(model: Path, source: Path, out: Path) -> subprocess.Popen[str]:
    """A process that waits to be told to begin."""
    return ready(start(model, source, out))


def start(model: Path, source: Path, out: Path) -> subprocess.Popen[str]:
    """A process that will wait to be told to begin, once it is ready."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(  # noqa: S603 - our own script
        [sys.executable, "-c", SCRIPT, str(model), str(source), str(out)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def ready(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    for number in range(4):
        write_volume(tmp_path / f"in/{number}.nii.gz", number)
    return tmp_path / "in"


def assert_whole(out: Path) -> None:
    """Every visible file can be read, and what is recorded as finished holds."""
    for path in out.rglob("*"):
        if path.name.startswith(".") or ".cdal-ledger" in path.parts or not path.is_file():
            continue
        if path.suffix == ".png":
            Image.open(path).load()
        elif path.suffix == ".gz":
            np.asarray(nibabel.load(path).dataobj)
        elif path.suffix == ".json":
            json.loads(path.read_text())
    if any((out / ".cdal-ledger").glob("*.json")):
        told = {p.what for p in verify(out).problems if p.what != "no finished case accounts for this file"}
        assert not [what for what in told if "the run was interrupted, or is still at work" not in what]


def test_killing_leaves_nothing_half(volume_model: Path, inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    chance = random.Random(0)
    began, when = time.monotonic(), Counter[str]()
    waiting = deque([start(volume_model, inputs, out)])  # importing takes longest: the next one does it meanwhile
    for number in range(KILLS):
        process = ready(waiting.popleft())
        waiting += [start(volume_model, inputs, out)] if number + 1 < KILLS else []
        go(process)
        lines = 0
        if number % 2:  # at some moment of the first case, or after some cases
            assert process.stdout is not None
            lines += bool(process.stdout.readline())
        time.sleep(chance.uniform(0, 1.5))
        process.kill()
        lines += len(process.communicate()[0].splitlines())
        when["before the first case was done" if not lines else "between cases" if lines < 5 else "after the end"] += 1
        assert_whole(out)
        if number % 10 == 9:
            for path in (out / ".cdal-ledger").glob("*.json"):
                path.unlink()
    segment_cases(Segmenter(volume_model, engine="torch"), discover([inputs]), out, formats=("probability",))
    found = verify(out, discover([inputs]))
    assert (found.cases, found.problems) == (4, [])
    told = ", ".join(f"{count} {moment}" for moment, count in sorted(when.items()))
    print(f"{KILLS} kills in {time.monotonic() - began:.0f} s: {told}")  # noqa: T201 - with -s, the measurement


def test_ctrl_c_leaves_a_valid_report(volume_model: Path, inputs: Path, tmp_path: Path) -> None:
    for number in range(4, 40):  # so many that the signal comes before the last, however busy the machine is
        write_volume(inputs / f"{number}.nii.gz", number)
    process = begin(volume_model, inputs, tmp_path / "out")
    go(process)
    assert process.stdout is not None
    first = process.stdout.readline().strip()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    cases = json.loads((tmp_path / "out/report.json").read_text())["cases"]
    assert (cases[0]["case"], cases[0]["status"]) == (first, "ok")
    assert len(cases) < 40
    assert_whole(tmp_path / "out")
    interrupted = f"it tells of {len(cases)} of 40 cases: the run was interrupted, or is still at work"
    assert [problem.what for problem in verify(tmp_path / "out").problems] == [interrupted]


def test_two_processes_share_the_work(volume_model: Path, inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    processes = [begin(volume_model, inputs, out) for _ in range(2)]
    for process in processes:
        go(process)
    done = [process.communicate(timeout=120) for process in processes]
    outcomes = [dict(pair.split("=") for pair in output.splitlines()[-1].split(",")) for output, _ in done]
    for case in "0123":
        assert sorted(outcome[case] for outcome in outcomes) == ["ok", "skipped"], done
    found = verify(out, discover([inputs]))
    assert (found.cases, found.problems) == (4, [])
    assert not list((out / ".cdal-ledger").glob("*.lock"))


def test_another_seed_waits_for_the_run_at_work(volume_model: Path, inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number in range(4, 40):  # so many that it is still at work, however busy the machine is
        write_volume(inputs / f"{number}.nii.gz", number)
    other, few = Segmenter(volume_model, engine="torch", seed=1), discover([inputs / "0.nii.gz"])
    process = begin(volume_model, inputs, out)
    go(process)
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(UsageError, match="a run with another model or other settings is at work"):
        segment_cases(other, few, out)
    process.kill()
    process.communicate()

    report = segment_cases(other, few, out)

    assert [(case.status, case.settings["seed"]) for case in report.cases] == [("ok", 1)]
    assert_whole(out)
    assert not list((out / ".cdal-ledger").glob("*.run"))


def test_a_stopped_service_leaves_a_valid_report(volume_model: Path, inputs: Path, tmp_path: Path) -> None:
    for number in range(4, 40):
        write_volume(inputs / f"{number}.nii.gz", number)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "cdal_sdk.cli", "segment", str(inputs), "--out", str(out)]
    command += ["--model", str(volume_model), "--engine", "torch"]
    process = subprocess.Popen(  # noqa: S603 - our own command
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not list(out.glob(".cdal-ledger/?.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)  # the process that reads gets it, too
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert errors == ""
    cases = json.loads((out / "report.json").read_text())["cases"]
    assert 0 < len(cases) < 40
    assert {case["status"] for case in cases} == {"ok"}
    assert "<tr class=" in (out / "report.html").read_text()
    assert_whole(out)
