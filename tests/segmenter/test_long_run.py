"""Memory over many cases; opt-in, since it takes minutes: set CDAL_LONG_RUN=2000."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from cdal_sdk import Segmenter, segment_cases
from cdal_sdk.readers import discover
from cdal_sdk.segmenter import CaseReport
from tests.segmenter.conftest import write_volume

CASES = int(os.environ.get("CDAL_LONG_RUN", "0"))
STATUS = Path("/proc/self/status")


def resident_mb() -> float:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


@pytest.mark.skipif(CASES < 100, reason="set CDAL_LONG_RUN to the number of cases, at least 100")
@pytest.mark.skipif(not STATUS.exists(), reason="needs /proc")
def test_memory_does_not_grow_with_the_cases(volume_model: Path, tmp_path: Path) -> None:
    first = write_volume(tmp_path / "in/0.nii.gz")
    for number in range(1, CASES):
        shutil.copy(first, tmp_path / f"in/{number}.nii.gz")
    memory: list[float] = []
    began = time.monotonic()

    def on_case(case: CaseReport) -> None:
        assert case.status == "ok", case.error
        memory.append(resident_mb())

    segment_cases(
        Segmenter(volume_model, engine="torch"), discover([tmp_path / "in"]), tmp_path / "out", on_case=on_case
    )
    early, late = max(memory[CASES // 10 : CASES // 5]), max(memory[-CASES // 10 :])
    assert late - early < 30, f"from {early:.0f} to {late:.0f} MB"
    took = time.monotonic() - began
    print(f"{CASES} cases in {took:.0f} s: {early:.0f} MB early, {late:.0f} MB late, {late - early:+.0f} MB")  # noqa: T201 - with -s, the measurement
