"""Speed on a GPU in a few minutes: `python -m cdal_bench.gpu_speed`, ways of one configuration by batch size.

For a GPU that is at hand for minutes: each way's rows are stored as it ends, and one that fails tells why and stops no
other. Configuration: the paper's chest X-ray network (`paper:cxr`, 256 x 256, T = 2, K = 5) with random weights. Times
run from images in the host's memory to maps there. Opponents are timed by parts where the whole takes long
(`cdal_bench.timing`).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cdal_bench.configurations import Subject, load_subject
from cdal_bench.contenders import prepare_contender
from cdal_bench.machine import describe_machine
from cdal_bench.own_engines import rate_of
from cdal_bench.results import Machine
from cdal_bench.timing import task
from cdal_sdk.atomic import atomic
from cdal_sdk.bundle import load_model
from cdal_sdk.diffusion import VoteStatistics
from cdal_sdk.engines import Engine, Target, VoteMaps
from cdal_sdk.engines.base import fold_for

__all__ = ["GpuRow", "GpuSpeed", "main", "measure", "table"]

_MODEL = "paper:cxr"
_HALF = {"cuda": ("fp16", torch.float16), "cpu": ("bf16", torch.bfloat16)}
_OURS = ("plain", "autocast", "compiled", "cuda-graph", "tensorrt", "tensorrt-rtx")
_OPPONENTS = ("cdal-published", "segdiff-published", "segdiff-fast", "unet")
_MOST_RUNS, _SECONDS = 40, 1.5


@dataclass(frozen=True)
class GpuRow:
    """A way at a batch size.

    Attributes:
        way: of `main`'s choices.
        precision: of its products.
        batch: images at once.
        median_ms: of the whole batch; so are the others.
        low_ms: the quickest run.
        high_ms: the slowest; None where it was not kept.
        runs: how many.
        first_s: the first run of this size, which compiles and records; None where it was not kept.
        extrapolated: how it follows from parts, where it does.
        difference: of one image's vote mean from the reference, at most, on a scale from -1 to 1; of ours.
    """

    way: str
    precision: str
    batch: int
    median_ms: float
    low_ms: float
    high_ms: float | None
    runs: int
    first_s: float | None
    extrapolated: str | None = None
    difference: float | None = None


@dataclass
class GpuSpeed:
    """What `main` stores: where it ran, operations of one image in GFLOP, rows, and who could not run and why."""

    machine: Machine
    gflop: float
    rows: list[GpuRow] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class _Autocast:
    """The folded sampler in PyTorch, its products in half precision; compiled, maybe."""

    def __init__(self, sampler: nn.Module, device: str, *, compiled: bool) -> None:
        self.name, self.device = "autocast", device
        self.precision, dtype = _HALF[device]

        def forward(image: Tensor) -> VoteStatistics:
            with torch.autocast(device, dtype=dtype):
                mean, spread = sampler(image)
            return VoteStatistics(mean.float(), spread.float())

        self._run = torch.compile(forward, dynamic=False) if compiled else forward

    def run(self, images: NDArray[np.float32]) -> VoteMaps:
        """See `Engine.run`."""
        with torch.no_grad():
            mean, spread = self._run(torch.from_numpy(images).to(self.device))
        return VoteMaps(mean.cpu().numpy(), spread.cpu().numpy())


def measure(
    ways: Sequence[str], batches: Sequence[int], device: str, model: str = _MODEL
) -> Iterator[tuple[GpuSpeed, str]]:
    """Measure one way after the other; yields all that there is so far, and the way that has just ended."""
    with tempfile.TemporaryDirectory() as folder:
        subject = load_subject(model, Path(folder), 0)
        size, channels = subject.manifest.plan.canvas, subject.manifest.network.image_channels
        cost = prepare_contender("cdal-plain", subject, size, device=device).cost
        speed = GpuSpeed(describe_machine(device), cost.flop / 1e9)
        images = np.random.default_rng(0).standard_normal((max(batches), channels, *size)).astype(np.float32)
        reference = cache(lambda: _engine("plain", subject, device).run(images[:1]).mean)
        for way in ways:
            try:
                engine = _engine(way, subject, device)
                difference = None
                for batch in batches if way in _OURS else batches[:1]:
                    row = _time(way, engine, images[:batch])
                    if way in _OURS and difference is None:
                        difference = float(np.abs(engine.run(images[:1]).mean - reference()).max())
                    speed.rows.append(replace(row, difference=difference))
            except Exception as error:  # noqa: BLE001 - whatever a library does on a GPU that nobody has tried
                speed.failed[way] = f"{type(error).__name__}: {error}"
            yield speed, way


def _engine(way: str, subject: Subject, device: str) -> Engine:
    if way not in ("autocast", "compiled"):
        name = f"cdal-{way}" if way in _OURS else way
        return prepare_contender(name, subject, subject.manifest.plan.canvas, device=device).make()
    model = load_model(subject.reference)
    target = Target(model.manifest.sampling(seed=0), device, "fp16", "benchmark", fixed_size=True)
    return _Autocast(fold_for(model.generator, target).to(device), device, compiled=way == "compiled")


def _time(way: str, engine: Engine, images: NDArray[np.float32]) -> GpuRow:
    job = task(engine, images, full=way in _OURS)
    first, seconds = job.seconds(), [job.seconds()]
    while len(seconds) < _MOST_RUNS and sum(seconds) < _SECONDS:
        seconds.append(job.seconds())
    low, middle, high = (1000 * value for value in (min(seconds), statistics.median(seconds), max(seconds)))
    precision = str(getattr(engine, "precision", "fp32"))
    return GpuRow(way, precision, len(images), middle, low, high, len(seconds), first, job.extrapolated)


def table(speed: GpuSpeed) -> str:
    """The rows for a document, with the share of the machine's matrix rate of the same precision."""
    compared = any(row.difference is not None for row in speed.rows)  # not in results of earlier versions
    lines = [
        "| way | precision | batch | median | range | runs | one image | share of the matrix rate |",
        "|---|---|---|---|---|---|---|---|",
    ]
    if compared:
        lines = [lines[0] + " largest difference |", lines[1] + "---|"]
    for row in speed.rows:
        spread = f"{row.low_ms:.1f} to {row.high_ms:.1f} ms" if row.high_ms is not None else f"from {row.low_ms:.1f} ms"
        rate = speed.gflop * row.batch / row.median_ms * 1000 / speed.machine.gflops[rate_of(row.precision)]
        share = f"{100 * rate:.1f} %" if row.way in _OURS else ""
        lines.append(
            f"| {row.way} | {row.precision} | {row.batch} | {row.median_ms:.1f} ms | {spread} | {row.runs} "
            f"| {row.median_ms / row.batch:.1f} ms | {share} |"
            + (f" {'' if row.difference is None else f'{row.difference:.1g}'} |" if compared else "")
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, store after each way, and show the table."""
    parser = argparse.ArgumentParser("python -m cdal_bench.gpu_speed", description=__doc__.splitlines()[0])
    parser.add_argument("--ways", nargs="*", choices=[*_OURS, *_OPPONENTS], help="by default all")
    parser.add_argument(
        "--batches", nargs="*", type=int, default=[1, 8, 32], help="images at once; opponents: the first"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda", help="cpu is for a trial")
    parser.add_argument("--out", type=Path, default=Path("gpu-speed.json"), help="JSON to write")
    options = parser.parse_args(arguments)
    for speed, way in measure(options.ways or [*_OURS, *_OPPONENTS], options.batches, options.device):
        with atomic(options.out) as aside:
            aside.write_bytes(msgspec.json.format(msgspec.json.encode(speed)))
        sys.stderr.write(f"{way}: {speed.failed.get(way, 'measured')}\n")
    sys.stdout.write(f"{table(speed)}\n\nwritten: {options.out}\n")


if __name__ == "__main__":
    main()
