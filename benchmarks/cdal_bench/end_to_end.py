"""From file to file: what a user waits for, stage by stage, and what the masks are worth."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdal_bench.configurations import Subject
from cdal_bench.contenders import Cost
from cdal_bench.intervals import Interval, percentile
from cdal_sdk.engines import Engine, Precision, VoteMaps
from cdal_sdk.segmenter import Segmenter
from cdal_trainer.cases import LabelledCase
from cdal_trainer.evaluate import Trained, evaluate

__all__ = ["CaseTime", "mean_dice", "time_case"]


@dataclass(frozen=True)
class CaseTime:
    """Median of each stage, and their sum, in milliseconds."""

    stages_ms: dict[str, float]
    case_ms: Interval


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


def time_case(subject: Subject, engine: Engine | float, path: Path, repetitions: int) -> CaseTime:
    """Segment and save one case several times.

    Args:
        subject: the model, for everything but the engine.
        engine: that runs; or milliseconds for one image, where it is too slow to run.
        path: of the case.
        repetitions: measured runs, after one that is not.
    """
    segmenter = Segmenter(subject.reference, engine="torch", device="cpu", force=True)
    instant = _Instant(subject.manifest.network.label_channels)
    segmenter.engine = instant if isinstance(engine, float) else engine
    runs: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as out:
        for number in range(repetitions + 1):
            instant.images = 0
            result = segmenter(path)
            start = time.perf_counter()
            result.save(out)
            result.timing.write = 1000 * (time.perf_counter() - start)
            stages = asdict(result.timing)
            if isinstance(engine, float):
                stages["engine"] = instant.images * engine
            if number:
                runs.append(stages)
    medians = {stage: float(np.median([run[stage] for run in runs])) for stage in runs[0]}
    return CaseTime(medians, percentile([sum(run.values()) for run in runs], 50))


def mean_dice(
    subject: Subject, engine: Engine, cases: Sequence[LabelledCase], cost: Cost, seed: int
) -> dict[str, float]:
    """Dice by label, averaged over cases, by the trainer's own evaluation."""
    trained = Trained(subject.manifest, engine.name, engine, cost.votes, seed, cost.evaluations, batch=4)
    summary = evaluate(trained, cases).summary
    return {label: float(metrics["dice"].mean) for label, metrics in summary.items()}
