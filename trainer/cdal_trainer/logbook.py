"""What a run tells while it goes: to its caller, to `log.csv` and to TensorBoard."""

from __future__ import annotations

import csv
import io
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

from cdal_sdk.atomic import atomic
from cdal_sdk.errors import OutputError
from cdal_trainer.pictures import draw_curves

__all__ = ["Clock", "Logbook", "Progress", "read_log"]


@dataclass(frozen=True)
class Progress:
    """What a run tells while it goes.

    Attributes:
        step: steps done.
        steps: of the whole run.
        losses: by name, averaged since the last report.
        seconds_left: estimate for the rest of the run, validations and the scoring at the end included.
        samples_per_second: since the last report, over all devices; validations and saving not counted.
        dice: by label, where a validation has just been made.
        at_least: whether no validation has been made, so that `seconds_left` knows of none.
        final: whether `dice` is that of the best weights on all held-out cases with all votes.
    """

    step: int
    steps: int
    losses: Mapping[str, float]
    seconds_left: float
    samples_per_second: float
    dice: Mapping[str, float] = field(default_factory=dict)
    at_least: bool = False
    final: bool = False


class Clock:
    """Measures steps and validations apart, and tells from them how long the rest takes.

    Args:
        steps: of the whole run.
        validate_every: steps between validations.
        final: how long the scoring at the end takes, in validations.
    """

    def __init__(self, steps: int, validate_every: int, final: float) -> None:
        self.steps, self.validate_every, self.final = steps, validate_every, final
        self._laps: deque[float] = deque(maxlen=200)
        self._first = True
        self._validation = 0.0
        self._last = time.monotonic()

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = time.monotonic()
        passed, self._last = now - self._last, now
        return passed

    def stepped(self) -> float:
        """A step is done; its seconds."""
        passed = self.lap()
        if self._first:  # it also starts processes and fills caches: it counts until there is another
            self._first, self._laps = len(self._laps) == 0, deque(maxlen=200)
        self._laps.append(passed)
        return passed

    def validated(self) -> None:
        """A validation is done."""
        passed = self.lap()
        self._validation = (self._validation + passed) / 2 if self._validation else passed

    @property
    def complete(self) -> bool:
        """Whether it has met a validation, too."""
        return self._validation > 0

    def seconds_left(self, step: int) -> float:
        """Steps and validations that are still to come, at their recent pace."""
        if step >= self.steps:
            return self.final * self._validation
        validations = -(-self.steps // self.validate_every) - step // self.validate_every
        return (self.steps - step) * sum(self._laps) / len(self._laps) + (validations + self.final) * self._validation


class Logbook:
    """Writes each progress to `log.csv`, `curves.png` and, for TensorBoard, to the folder `tensorboard`.

    Args:
        out: run folder.
        terms: names of the losses' terms.
        labels: names of the labels.
        step: where the run goes on; later entries of a run that was killed are dropped.

    Raises:
        OutputError: if the log cannot be written.
    """

    def __init__(self, out: Path, terms: Sequence[str], labels: Sequence[str], step: int) -> None:
        self.path = out / "log.csv"
        self.columns = ["step", *terms, "samples_per_second", *(f"dice_{name}" for name in labels)]
        kept = [row for row in _rows(self.path) if row[0].isdecimal() and int(row[0]) <= step]
        with atomic(self.path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([self.columns, *(row for row in kept if len(row) == len(self.columns))])
        self._events = out / "tensorboard" / f"events.out.tfevents.{time.time_ns()}"
        self._tell_board(file_version="brain.Event:2")
        self._tell_board(step=step + 1, session_log={"status": "START"})  # there, too, later entries are dropped

    def add(self, progress: Progress) -> None:
        """One entry; after a validation the curves are drawn again.

        Raises:
            OutputError: naming the file that cannot be written.
        """
        values = {name: round(value, 6) for name, value in progress.losses.items()}
        values["samples_per_second"] = round(progress.samples_per_second, 2)
        values |= {f"dice_{name}": round(value, 6) for name, value in progress.dice.items()}
        row = io.StringIO(newline="")
        csv.DictWriter(row, self.columns, restval="").writerow({"step": progress.step, **values})
        _append(self.path, row.getvalue().encode())
        scalars = [{"tag": name.replace("_", "/", 1), "simple_value": value} for name, value in values.items()]
        self._tell_board(step=progress.step, summary={"value": scalars})
        if progress.dice:
            with atomic(self.path.with_name("curves.png")) as aside:
                draw_curves(read_log(self.path), aside)

    def _tell_board(self, **event: Any) -> None:
        """Write one of TensorBoard's events here and now: its own writer does so in a thread, whose errors get lost."""
        record = io.BytesIO()
        RecordWriter(record).write(Event(wall_time=time.time(), **event).SerializeToString())
        _append(self._events, record.getvalue())


def _append(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(content)
    except OSError as error:
        raise OutputError(
            f"the log cannot be written ({error.strerror})", where=path, remedy="free disk space"
        ) from error


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a `log.csv`, empty cells left out; none where there is no such file."""
    header, *rows = _rows(path) or [[]]
    return [{name: float(cell) for name, cell in zip(header, row, strict=True) if cell} for row in rows]


def _rows(path: Path) -> list[list[str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))
