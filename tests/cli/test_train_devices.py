"""Several devices: the processes that the command starts train one model."""

from __future__ import annotations

import json
import subprocess
import sys

from trainer.conftest import write_folder

from cdal_sdk.bundle import load_model
from cdal_trainer.logbook import read_log


def test_two_devices_train_one_model(tmp_path):
    """By the command, as users do; only the first process validates, writes and tells."""
    data = write_folder(tmp_path / "Task")
    settings = {
        "network.width": 8,
        "network.multipliers": [1, 1],
        "network.blocks_per_level": 1,
        "network.encoder_blocks": 1,
        "plan.divisor": 2,
        "plan.domain": {},
        "data.folds": 3,
        "data.per_patient": 1,
        "data.crop": [16, 16],
        "data.validation_cases": 1,
        "discriminator.width": 4,
        "discriminator.every": 1,
        "diffusion.votes": 1,
        "optimisation.steps": 3,
        "optimisation.batch": 2,
        "optimisation.validate_every": 2,
    }
    changes = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    command = [sys.executable, "-m", "cdal_sdk.cli", "train", "--data", str(data), "--out", str(tmp_path / "run")]
    result = subprocess.run(  # noqa: S603
        [*command, *changes, "--device", "cpu", "--devices", "2", "--precision", "32-true", "--workers", "0"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("the best weights are in") == 1
    assert result.stdout.count("best weights, all held-out cases") == 1
    assert [row["step"] for row in read_log(tmp_path / "run/log.csv")] == [2, 3]
    assert load_model(tmp_path / "run/best.pt").manifest.provenance.metrics.keys() == {
        "dice_Anterior",
        "dice_Posterior",
    }
