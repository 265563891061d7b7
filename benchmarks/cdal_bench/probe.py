"""A contender in fresh processes: build time, cold start and peak memory. Run as `python -m cdal_bench.probe`.

The first process meets an empty cache, so that it builds its engine; the second finds what the first has kept.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace

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
        full: whether its inference is run whole.
    """

    contender: str
    model: str
    weights: str
    mode: str
    device: str
    seed: int
    full: bool


def probe(order: Probe) -> Start | None:
    """Start processes that import, build and run, with empty caches and then with full ones; None if that fails."""
    with tempfile.TemporaryDirectory() as cache:
        first = _fresh(order, cache)
        second = first and _fresh(order, cache)
    return replace(second, build_s=first.build_s) if first and second else None


def _fresh(order: Probe, cache: str) -> Start | None:
    """One such process; None if it fails or takes too long."""
    caches = {"CDAL_CACHE": cache, "TORCHINDUCTOR_CACHE_DIR": cache}
    request = json.dumps({**asdict(order), "started": time.time()})
    command = [sys.executable, "-m", "cdal_bench.probe"]
    try:
        done = subprocess.run(  # noqa: S603 - this very interpreter and module
            command,
            input=request,
            capture_output=True,
            text=True,
            timeout=_LONGEST_SECONDS,
            check=False,
            env=os.environ | caches,
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
    images = np.zeros((1, manifest.network.image_channels, *manifest.plan.canvas), np.float32)
    begun = time.perf_counter()
    contender = prepare_contender(
        order.contender,
        subject,
        manifest.plan.canvas,
        mode=order.mode,
        device=order.device,
        seed=order.seed,
        weights=Path(order.weights) if order.weights else None,
    )
    job = task(contender.make(), images, full=order.full)
    for part in job.parts:
        part.run()
    build = time.perf_counter() - begun
    cold = None if job.extrapolated else time.time() - started
    peak = torch.cuda.max_memory_allocated() / 1e6 if order.device == "cuda" else largest_mb()
    return Start(cold, build, peak)


def _main() -> None:
    request = json.loads(sys.stdin.read())
    started = request.pop("started")
    sys.stdout.write(json.dumps(asdict(_run(Probe(**request), started))) + "\n")


if __name__ == "__main__":
    _main()
