"""From file to file: what a user waits for, stage by stage, and what the masks are worth."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from cdal_bench.configurations import Subject
from cdal_bench.contenders import Cost
from cdal_bench.results import Latency
from cdal_bench.runners import Part
from cdal_bench.timing import Task, interleave
from cdal_sdk.engines import Device, Engine, Precision, VoteMaps
from cdal_sdk.segmenter import Segmenter
from cdal_trainer.cases import LabelledCase
from cdal_trainer.evaluate import Trained, evaluate

__all__ = ["CaseTime", "mean_dice", "time_cases"]


@dataclass(frozen=True)
class CaseTime:
    """Median of each stage in milliseconds, and the whole case."""

    stages_ms: dict[str, float]
    case: Latency


class _Instant:
    """An engine that costs nothing: it leaves the other stages to be measured."""

    name, device = "instant", "cpu"
    precision: Precision = "fp32"

    def __init__(self, labels: int) -> None:
        self.labels = labels
        self.images = 0

    def run(self, images: NDArray[np.float32]) -> VoteMaps:
        """An undecided map for each image."""
        self.images += len(images)
        maps = np.zeros((len(images), self.labels, *images.shape[2:]), np.float32)
        return VoteMaps(maps, maps)


def time_cases(
    subject: Subject,
    engines: Mapping[str, Engine | float],
    path: Path,
    *,
    device: str,
    repetitions: int,
    seconds: float | None = None,
    report: Callable[[str, int], None] = lambda _name, _done: None,
) -> dict[str, CaseTime]:
    """Segment and save one case with each engine in turn, in interleaved rounds after one that does not count.

    Args:
        subject: the model, for everything but the engine.
        engines: that run, by name; or milliseconds for one image, where one is too slow to run.
        path: of the case.
        device: "cpu" or "cuda", which decides how many images an engine gets at once.
        repetitions: measured rounds.
        seconds: after so many no further round begins.
        report: as of `interleave`.
    """
    segmenter = Segmenter(subject.reference, engine="torch", device=cast("Device", device), force=True)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in engines}
    with tempfile.TemporaryDirectory() as out:

        def once(name: str, engine: Engine | float) -> None:
            instant = _Instant(subject.manifest.network.label_channels)
            segmenter.engine = instant if isinstance(engine, float) else engine
            result = segmenter(path)
            start = time.perf_counter()
            result.save(out)
            result.timing.write = 1000 * (time.perf_counter() - start)
            stages = asdict(result.timing)
            runs[name].append({**stages, "engine": instant.images * engine} if isinstance(engine, float) else stages)

        tasks = {name: _task(partial(once, name, engine)) for name, engine in engines.items()}
        interleave(tasks, repetitions=repetitions, warmup=1, seconds=seconds, report=report)
    return {name: _told(stages[1:]) for name, stages in runs.items()}


def _task(run: Callable[[], object]) -> Task:
    return Task((Part("case", run, 1),), None)


def _told(runs: Sequence[Mapping[str, float]]) -> CaseTime:
    medians = {stage: float(np.median([run[stage] for run in runs])) for stage in runs[0]}
    return CaseTime(medians, Latency.of(tuple(sum(run.values()) for run in runs)))


def mean_dice(
    subject: Subject, engine: Engine, cases: Sequence[LabelledCase], cost: Cost, seed: int
) -> dict[str, float]:
    """Dice by label, averaged over cases, by the trainer's own evaluation."""
    trained = Trained(subject.manifest, engine.name, engine, cost.votes, seed, cost.evaluations, batch=4)
    summary = evaluate(trained, cases).summary
    return {label: float(metrics["dice"].mean) for label, metrics in summary.items()}
