"""What a run tells while it goes: to its caller, to `log.csv` and to TensorBoard."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

__all__ = ["Clock", "Logbook", "Progress", "read_log"]


@dataclass(frozen=True)
class Progress:
    """What a run tells while it goes.

    Attributes:
        step: steps done.
        steps: of the whole run.
        losses: by name, averaged since the last report.
        seconds_left: estimate for the rest of the run, validations included.
        samples_per_second: throughput of training alone since the last report, over all devices.
        dice: by label, where a validation has just been made.
    """

    step: int
    steps: int
    losses: Mapping[str, float]
    seconds_left: float
    samples_per_second: float
    dice: Mapping[str, float] = field(default_factory=dict)


class Clock:
    """Measures steps and validations apart, and tells from them how long the rest takes."""

    def __init__(self, steps: int, validate_every: int) -> None:
        self.steps, self.validate_every = steps, validate_every
        self._step: float | None = None
        self._validation: float | None = None
        self._lap = time.monotonic()

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = time.monotonic()
        passed, self._lap = now - self._lap, now
        return passed

    def stepped(self) -> float:
        """A step is done; its seconds."""
        passed = self.lap()
        self._step = passed if self._step is None else 0.98 * self._step + 0.02 * passed
        return passed

    def validated(self) -> None:
        """A validation is done."""
        passed = self.lap()
        self._validation = passed if self._validation is None else (self._validation + passed) / 2

    def seconds_left(self, step: int) -> float:
        """Steps and validations that are still to come, at their recent pace."""
        validations = -(-self.steps // self.validate_every) - step // self.validate_every if step < self.steps else 0
        return (self.steps - step) * (self._step or 0.0) + validations * (self._validation or 0.0)


class Logbook:
    """Writes each progress to `log.csv` and, for TensorBoard, to the folder `tensorboard`.

    Args:
        out: run folder.
        terms: names of the losses' terms.
        labels: names of the labels.
        step: where the run goes on; later entries of a run that was killed are dropped.
    """

    def __init__(self, out: Path, terms: Sequence[str], labels: Sequence[str], step: int) -> None:
        self.path = out / "log.csv"
        self.columns = ["step", *terms, "samples_per_second", *(f"dice_{name}" for name in labels)]
        kept = [row for row in read_log(self.path) if row["step"] <= step]
        with self.path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(kept)
        self._board = SummaryWriter(out / "tensorboard", purge_step=step + 1)

    def add(self, progress: Progress) -> None:
        """One entry."""
        values = {name: round(value, 6) for name, value in progress.losses.items()}
        values["samples_per_second"] = round(progress.samples_per_second, 2)
        values |= {f"dice_{name}": round(value, 6) for name, value in progress.dice.items()}
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns, restval="").writerow({"step": progress.step, **values})
        for name, value in values.items():
            self._board.add_scalar(name.replace("_", "/", 1), value, progress.step)
        self._board.flush()

    def close(self) -> None:
        """Let go of the files."""
        self._board.close()


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a `log.csv`, empty cells left out; none where there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: float(cell) for name, cell in row.items() if name and cell} for row in csv.DictReader(file)]
