"""A contender in a fresh process: cold start, build time and peak memory. Run as `python -m cdal_bench.probe`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

from cdal_bench.results import Start

__all__ = ["Probe", "probe"]

_LONGEST_SECONDS = 600


@dataclass(frozen=True)
class Probe:
    """What the fresh process is told.

    Attributes:
        contender: its name.
        model: reference of the model.
        weights: of a trained baseline, or "".
        mode: of the votes.
        device: "cpu" or "cuda".
        seed: of everything random.
        full: whether a long inference is run whole.
    """

    contender: str
    model: str
    weights: str
    mode: str
    device: str
    seed: int
    full: bool


def probe(order: Probe) -> Start | None:
    """Start a process that imports, builds and runs; None if that fails or takes too long."""
    request = json.dumps({**asdict(order), "started": time.time()})
    command = [sys.executable, "-m", "cdal_bench.probe"]
    try:
        done = subprocess.run(  # noqa: S603 - this very interpreter and module
            command, input=request, capture_output=True, text=True, timeout=_LONGEST_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    return Start(**json.loads(done.stdout.splitlines()[-1])) if done.returncode == 0 and done.stdout else None


def _run(order: Probe, started: float) -> Start:
    from pathlib import Path

    import numpy as np
    import torch

    from cdal_bench.configurations import Subject
    from cdal_bench.contenders import prepare_contender
    from cdal_bench.memory import largest_mb
    from cdal_bench.timing import task
    from cdal_sdk.bundle import read_manifest

    manifest = read_manifest(order.model)
    subject = Subject(order.model, manifest, trained=True)
    contender = prepare_contender(
        order.contender,
        subject,
        manifest.plan.canvas,
        mode=order.mode,
        device=order.device,
        seed=order.seed,
        weights=Path(order.weights) if order.weights else None,
    )
    begun = time.perf_counter()
    engine = contender.make()
    build = time.perf_counter() - begun
    images = np.zeros((1, manifest.network.image_channels, *manifest.plan.canvas), np.float32)
    job = task(engine, images, full=order.full)
    for part in job.parts:
        part.run()
    cold = None if job.extrapolated else time.time() - started
    peak = torch.cuda.max_memory_allocated() / 1e6 if order.device == "cuda" else largest_mb()
    return Start(cold, build, peak)


def _main() -> None:
    request = json.loads(sys.stdin.read())
    started = request.pop("started")
    sys.stdout.write(json.dumps(asdict(_run(Probe(**request), started))) + "\n")


if __name__ == "__main__":
    _main()
