"""What `cdal_bench.engine_speed` found, as data and as the tables of docs/export.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import msgspec

from cdal_bench.report import machine_sentence
from cdal_bench.results import Machine
from cdal_sdk.atomic import atomic
from cdal_sdk.bundle.strict import convert_strictly
from cdal_sdk.errors import ReadError

__all__ = ["EngineSpeed", "ExportTime", "SpeedRow", "VolumeTime", "read_speed", "speed_sections", "write_speed"]


@dataclass(frozen=True)
class SpeedRow:
    """One way of running the configuration.

    Attributes:
        way: its name.
        seconds: median for one image.
        samples: seconds of every run.
        build_seconds: to build and open the engine and run it once; 0 for eager ways.
        peak_memory_gb: of its process, which runs nothing else.
        difference: largest of the vote mean from the fused way in float32, on the label scale.
        run: when it was measured, and of which commit.
    """

    way: str
    seconds: float
    samples: tuple[float, ...]
    build_seconds: float
    peak_memory_gb: float
    difference: float
    run: str = ""

    @property
    def eight_bits(self) -> bool:
        """Whether it computes in INT8."""
        return self.way.endswith("int8")


@dataclass(frozen=True)
class VolumeTime:
    """One hippocampus volume, from file to saved result, with everything loaded and compiled before.

    Attributes:
        engine: its name.
        samples: seconds of every run.
        run: when it was measured, and of which commit.
    """

    engine: str
    samples: tuple[float, ...]
    run: str = ""


@dataclass(frozen=True)
class ExportTime:
    """One export of a bundled model, with its gate, in a process of its own.

    Attributes:
        model: its name.
        engine: its name.
        precision: that was asked for.
        seconds: from the call to the written folder.
        peak_memory_gb: of its process.
        refused: what the gate said, where it refused.
        run: when it was measured, and of which commit.
    """

    model: str
    engine: str
    precision: str
    seconds: float
    peak_memory_gb: float
    refused: str | None = None
    run: str = ""


@dataclass(frozen=True)
class EngineSpeed:
    """Everything that was measured; parts of several runs may stand together, each with its run.

    Attributes:
        machine: where; its bfloat16 rate is the better of two measurements, before and after the rows.
        gigaflop: arithmetic of the fused way for one image.
        rows: ways, slowest first.
        volumes: by engine.
        exports: where they were measured.
    """

    machine: Machine
    gigaflop: float
    rows: tuple[SpeedRow, ...]
    volumes: tuple[VolumeTime, ...]
    exports: tuple[ExportTime, ...] = ()

    @property
    def fastest(self) -> SpeedRow:
        """The row with the least time, eight bits apart: whether a model bears them, random weights cannot tell."""
        rows = [row for row in self.rows if not row.eight_bits] or self.rows
        return min(rows, key=lambda row: row.seconds)

    def times_faster(self, way: str) -> float | None:
        """How many times as long as the fastest a way takes; None where it was not measured."""
        return next((row.seconds / self.fastest.seconds for row in self.rows if row.way == way), None)

    @property
    def share_of_roof(self) -> float | None:
        """The fastest way's arithmetic a second over the machine's bfloat16 matrix rate."""
        roof = self.machine.gflops.get("bfloat16")
        return self.gigaflop / self.fastest.seconds / roof if roof else None


def write_speed(speed: EngineSpeed, path: Path) -> None:
    """Store as JSON.

    Raises:
        OutputError: if the file cannot be written.
    """
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(asdict(speed), indent=2) + "\n", encoding="utf-8")


def read_speed(path: Path) -> EngineSpeed:
    """What `write_speed` stored.

    Raises:
        ReadError: if the file is missing or holds something else.
    """
    try:
        return convert_strictly(json.loads(path.read_text(encoding="utf-8")), EngineSpeed)
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise ReadError(
            f"this is no result of the engines' speed ({error})",
            where=path,
            remedy="run python -m cdal_bench.engine_speed",
        ) from error


def speed_sections(speed: EngineSpeed) -> str:
    """Tables and the headline figures, as Markdown."""
    lines = [
        "The paper's chest X-ray configuration (256 x 256, T = 2, K = 5), one image; each way in a process of its own.",
        "",
        "| way | one image, median | range | runs | times faster than published | build and first run | peak memory "
        "| largest difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    published = next((row.seconds for row in speed.rows if row.way == "published"), None)
    for row in speed.rows:
        ratio = "" if published is None else f"{published / row.seconds:.1f}"
        build = f"{row.build_seconds:.1f} s" if row.build_seconds else ""
        runs = f"{_range(row.samples)} | {len(row.samples)}"
        lines.append(
            f"| {row.way} | {row.seconds:.2f} s | {runs} | {ratio} | {build} | {row.peak_memory_gb:.1f} GB | "
            f"{row.difference:.1g} |"
        )
    ratios = {way: speed.times_faster(way) for way in ("published", "published-by-vote", "plain")}
    told = [f"{ratio:.1f} times as fast as {way}" for way, ratio in ratios.items() if ratio is not None]
    share = speed.share_of_roof
    told += [] if share is None else [f"{100 * share:.0f} % of the machine's bfloat16 matrix rate"]
    lines += ["", f"Fastest: {speed.fastest.way}, {', '.join(told)} ({speed.gigaflop:.0f} GFLOP an image)."]
    lines[-1] += "".join(
        f" With `--int8`, where a model bears it: {row.way}, {published / row.seconds:.1f} times."
        for row in speed.rows
        if row.eight_bits and published is not None
    )
    if speed.volumes:
        told = [
            f"{volume.engine} {median(volume.samples):.2f} s ({_range(volume.samples)}, {len(volume.samples)} run(s))"
            for volume in speed.volumes
        ]
        lines += [
            "",
            f"A hippocampus volume from file to saved result, warm (all loaded and compiled): {'; '.join(told)}.",
        ]
    if speed.exports:
        lines += ["", "Exports, once each:"]
        lines += ["", "| export, gate included | engine | precision | time | peak memory |", "|---|---|---|---|---|"]
        lines += [
            f"| {export.model} | {export.engine} | {export.precision} | {export.seconds:.0f} s"
            f"{', refused by the gate' if export.refused else ''} | {export.peak_memory_gb:.1f} GB |"
            for export in speed.exports
        ]
    return "\n".join([*lines, "", _runs(speed), "", machine_sentence(speed.machine)])


def _range(samples: Sequence[float]) -> str:
    return f"{min(samples):.2f} to {max(samples):.2f} s" if len(samples) > 1 else ""


def _runs(speed: EngineSpeed) -> str:
    """Which run each part comes from."""
    parts = {
        "ways": {row.run for row in speed.rows},
        "volumes": {volume.run for volume in speed.volumes},
        "exports": {export.run for export in speed.exports},
    }
    told = {name: ", ".join(sorted(runs - {""})) for name, runs in parts.items()}
    return f"Measured: {'; '.join(f'{name} on {runs}' for name, runs in told.items() if runs)}."
