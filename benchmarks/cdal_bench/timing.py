"""Timing: interleaved rounds, warm-up apart, and inferences that are measured in parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdal_bench.runners import Divisible, Part
from cdal_sdk.engines import Engine

__all__ = ["Clock", "Task", "expected_seconds", "interleave", "task"]

Clock = Callable[[], float]

_SETTLE_S = 0.2  # for which idle threads of the library that ran before may still spin, and take a core from the next


@dataclass(frozen=True)
class Task:
    """Something to time.

    Attributes:
        parts: what to run; the whole inference is all of them, each as often as it says.
        extrapolated: how the time of the whole follows; None where a single part is the whole.
    """

    parts: tuple[Part, ...]
    extrapolated: str | None

    def seconds(self, clock: Clock = time.perf_counter) -> float:
        """Run every part once; the seconds of the whole."""
        total = 0.0
        for part in self.parts:
            start = clock()
            part.run()
            total += part.times * (clock() - start)
        return total


def task(engine: Engine, images: NDArray[np.float32], *, full: bool) -> Task:
    """The inference of some images: whole, or in parts where the engine can be taken apart and `full` is off."""
    if full or not isinstance(engine, Divisible):
        return Task((Part("inference", lambda: engine.run(images), 1),), None)
    parts = engine.parts(images)
    if all(part.times == 1 for part in parts):
        return Task(parts, None)
    text = " + ".join(f"{part.times} x {part.name}" for part in parts)
    return Task(parts, f"extrapolated: {text}, each measured once a round")


def expected_seconds(engine: Engine, images: NDArray[np.float32], clock: Clock = time.perf_counter) -> float:
    """What the whole inference should take, by its parts after a warm-up; 0 for what cannot be taken apart."""
    total = 0.0
    for part in engine.parts(images) if isinstance(engine, Divisible) else ():
        part.run()
        start = clock()
        part.run()
        total += part.times * (clock() - start)
    return total


def interleave(
    tasks: Mapping[str, Task],
    *,
    repetitions: int,
    warmup: int,
    seconds: float | None = None,
    clock: Clock = time.perf_counter,
    wait: Callable[[float], None] = time.sleep,
    report: Callable[[str, int], None] = lambda _name, _done: None,
) -> dict[str, tuple[float, ...]]:
    """Run every task once a round, in an order that is shuffled each round, so that drifts of the machine hit all.

    Args:
        tasks: by name.
        repetitions: measured rounds.
        warmup: unmeasured runs of each task before them.
        seconds: no further round begins after so many, at least one being measured.
        clock: seconds.
        wait: for so many seconds, before each measured run.
        report: called with a task's name and the rounds done (0 in warm-up) before it runs.

    Returns:
        Milliseconds of a whole inference by task, a sample a round.
    """
    begun = clock()
    for name, job in tasks.items():
        for _ in range(warmup):
            report(name, 0)
            for part in job.parts:
                part.run()
    rng = np.random.default_rng(0)
    samples: dict[str, list[float]] = {name: [] for name in tasks}
    names = list(tasks)
    for done in range(repetitions):
        if done and seconds is not None and clock() - begun > seconds:
            break
        for index in rng.permutation(len(names)):
            name = names[index]
            report(name, done + 1)
            wait(_SETTLE_S)
            samples[name].append(1000 * tasks[name].seconds(clock))
    return {name: tuple(values) for name, values in samples.items()}
