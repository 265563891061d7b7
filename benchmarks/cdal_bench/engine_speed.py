"""Speed of the engines: `python -m cdal_bench.engine_speed` measures everything in one run.

From the way the authors' release computes to each engine that can run here (`engine_ways` says what they are), then
volumes through the whole segmenter, and with `--exports` every export of every bundled model. The result, with a
description of the machine, goes to benchmarks/results/engines/, from which `python -m cdal_bench.publish` writes the
tables of docs/export.md. What a run leaves out, such as exports, stays there with the date of its own run.
"""

from __future__ import annotations

import argparse
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import torch

from cdal_bench.engine_report import EngineSpeed, ExportTime, VolumeTime, read_speed, speed_sections, write_speed
from cdal_bench.engine_ways import arithmetic, fused_mean, measure_way, ways
from cdal_bench.machine import describe_machine, matrix_rates
from cdal_bench.memory import largest_mb
from cdal_sdk.bundle import bundled_models
from cdal_sdk.engines import engine_kind, pick_device
from cdal_sdk.engines.registry import builder_of
from cdal_sdk.errors import CdalError, GateError

__all__ = ["main"]

_RESULTS = Path("benchmarks/results/engines")
_EXPORTS = (
    ("openvino", "bf16"),
    ("openvino", "fp32"),
    ("onnx", "fp32"),
    ("torchscript", "fp32"),
    ("tensorrt-rtx", "fp16"),
)
_Result = TypeVar("_Result")


def alone(function: Callable[..., _Result], *arguments: object) -> _Result:
    """Run in a fresh process, so that memory and caches are its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def volume_time(engine: str, repeats: int) -> VolumeTime:
    """One synthetic hippocampus volume, from NIfTI to saved result, with everything loaded and compiled before."""
    from cdal_sdk import Segmenter
    from cdal_sdk.example import write_example

    with tempfile.TemporaryDirectory() as folder:
        path = next(p for p in write_example(Path(folder)).nifti.iterdir())
        segmenter = Segmenter("hippocampus", engine=engine)
        segmenter(path).save(Path(folder) / "masks")
        samples = []
        for _ in range(repeats):
            start = time.perf_counter()
            segmenter(path).save(Path(folder) / "masks")
            samples.append(time.perf_counter() - start)
    return VolumeTime(engine, tuple(samples))


def export_time(model: str, engine: str, precision: str) -> ExportTime:
    """One export with its gate on the model's own or synthetic images."""
    from cdal_export.exporter import ExportOptions, export_model

    refused = None
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        options = ExportOptions(engines=(engine,), precision=precision)  # type: ignore[arg-type]
        try:
            export_model(model, Path(folder) / "out.cdal", options)
        except GateError as error:
            refused = str(error)
        seconds = time.perf_counter() - start
    return ExportTime(model, engine, precision, seconds, largest_mb() / 1000, refused)


def measure(
    chosen: Sequence[str], repeats: int, volumes: Sequence[str], *, exports: bool, say: Callable[[str], None]
) -> EngineSpeed:
    """Measure everything.

    Args:
        chosen: ways.
        repeats: runs of each at least; exports run once.
        volumes: engines for a whole volume.
        exports: whether exports are timed, too.
        say: called with what is measured next.
    """
    device = pick_device("auto")
    run = _this_run()
    say("the machine")
    machine, operations, expected = describe_machine(device), alone(arithmetic), alone(fused_mean)
    rows = []
    for way in chosen:
        say(way)
        rows.append(replace(alone(measure_way, way, repeats, expected), run=run))
    rates = {name: max(rate, machine.gflops[name]) for name, rate in matrix_rates(device).items()}
    timed = []
    for engine in volumes:
        say(f"a volume with {engine}")
        timed.append(replace(alone(volume_time, engine, repeats), run=run))
    times = []
    for model, (engine, precision) in ((m, e) for m in bundled_models() for e in _EXPORTS if exports):
        if _installed(engine):
            say(f"export of {model} to {engine} in {precision}")
            times.append(replace(alone(export_time, model, engine, precision), run=run))
    return EngineSpeed(replace(machine, gflops=rates), operations / 1e9, tuple(rows), tuple(timed), tuple(times))


def _this_run() -> str:
    """The day, and the commit where there is one."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603
    except OSError:  # no git
        commit = ""
    day = datetime.now(UTC).date().isoformat()
    return f"{day} (commit {commit})" if commit else day


def joined(speed: EngineSpeed, path: Path) -> EngineSpeed:
    """With the parts that this run left out taken from what is stored, where something is."""
    if not path.is_file():
        return speed
    stored = read_speed(path)
    return replace(speed, volumes=speed.volumes or stored.volumes, exports=speed.exports or stored.exports)


def _installed(engine: str) -> bool:
    try:
        builder_of(engine_kind(engine))
    except CdalError:
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, store, and show the tables."""
    parser = argparse.ArgumentParser("python -m cdal_bench.engine_speed", description="Speed of the engines.")
    parser.add_argument("--repeats", type=int, default=3, help="runs at least; fast ways run more often")
    parser.add_argument("--ways", nargs="*", help='such as published "openvino bf16"; by default all')
    parser.add_argument("--volumes", nargs="*", default=["auto"], help="engines for a whole volume")
    parser.add_argument("--exports", action="store_true", help="also time every export of every bundled model")
    parser.add_argument("--out", type=Path, help=f"JSON to write; by default {_RESULTS}/<device>-<threads>.json")
    options = parser.parse_args(arguments)

    def say(what: str) -> None:
        sys.stderr.write(f"measuring {what}\n")

    speed = measure(options.ways or ways(), options.repeats, options.volumes, exports=options.exports, say=say)
    path = options.out or _RESULTS / f"{pick_device('auto')}-{torch.get_num_threads()}.json"
    speed = joined(speed, path)
    write_speed(speed, path)
    sys.stdout.write(f"{speed_sections(speed)}\n\nwritten: {path}\n")


if __name__ == "__main__":
    main()
