"""What a benchmark found, as data: the JSON from which tables, plots and documents are made."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from cdal_bench.intervals import Interval, median
from cdal_bench.series import Series
from cdal_sdk.atomic import atomic
from cdal_sdk.bundle.strict import convert_strictly
from cdal_sdk.errors import ReadError

__all__ = [
    "SCHEMA_VERSION",
    "Latency",
    "Machine",
    "Ratio",
    "Result",
    "Row",
    "Setting",
    "Start",
    "Throughput",
    "Verdict",
    "read_result",
    "write_result",
]

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Machine:
    """Where a benchmark ran: hardware and software, no names of hosts or users, no paths.

    Attributes:
        processor: its model.
        cores: that the process may use.
        threads: that PyTorch uses.
        memory_gb: of the machine.
        accelerator: model of the GPU, where the benchmark ran on one.
        system: operating system and architecture.
        software: version by package.
        gflops: measured rate of large matrix products by precision, the roof of the roofline.
    """

    processor: str
    cores: int
    threads: int
    memory_gb: float
    accelerator: str | None
    system: str
    software: dict[str, str]
    gflops: dict[str, float]


@dataclass(frozen=True)
class Setting:
    """What was compared, and how.

    Attributes:
        model: name of the model or configuration.
        trained: whether its weights are trained; without, there are times but no Dice.
        image: (channel, h, w) of one network input.
        labels: channels of the label.
        votes: "equal" (everybody the model's) or "published" (everybody its publication's).
        device: "cpu" or "cuda".
        seed: of all noise.
        warmup: runs before the measured ones.
        repetitions: measured rounds; in each, every contender runs once, in shuffled order.
        images: where the images come from.
    """

    model: str
    trained: bool
    image: tuple[int, int, int]
    labels: int
    votes: str
    device: str
    seed: int
    warmup: int
    repetitions: int
    images: str


@dataclass(frozen=True)
class Latency:
    """Milliseconds for one image or one case, a sample a round.

    The tails have no intervals, for which their samples are too few: both ends are the figure itself. Results stored
    before have the bootstrap's there, which hold the truth in 60 to 90 of a hundred cases.
    """

    samples_ms: tuple[float, ...]
    p50: Interval
    p95: Interval
    p99: Interval

    @classmethod
    def of(cls, samples_ms: tuple[float, ...]) -> Latency:
        """Percentiles of samples."""
        tails = (float(value) for value in np.percentile(samples_ms, (95, 99)))
        return cls(samples_ms, median(samples_ms), *(Interval(value, value, value) for value in tails))


@dataclass(frozen=True)
class Throughput:
    """Images a second at a batch size."""

    batch: int
    images_per_second: float


@dataclass(frozen=True)
class Start:
    """A fresh process up to its first result.

    Attributes:
        cold_s: from the start of the process to the first result, imports included, with every cache filled; None
            where the first result would take too long.
        build_s: with empty caches, from loading weights to the end of the first run (of an extrapolated inference, of
            each part once): what building or compiling costs whoever comes first.
        peak_mb: largest memory of the process of the cold start; on a GPU, of PyTorch's allocator there.
    """

    cold_s: float | None
    build_s: float | None
    peak_mb: float | None


@dataclass(frozen=True)
class Verdict:
    """What the gate says of an engine on the benchmark's own images; engines are timed whatever it says.

    Attributes:
        passed: whether the SDK would use it.
        figures: how far it is from the float32 reference.
    """

    passed: bool
    figures: str


@dataclass(frozen=True)
class Row:
    """One contender.

    Attributes:
        name: as typed.
        title: as read.
        precision: in which it computes.
        steps: of the reverse process; 0 for a network without one.
        votes: that are averaged.
        evaluations: of the network for one image, encoder apart (NFE).
        encoder_evaluations: of the image encoder for one image.
        gflop: arithmetic for one image.
        network: latency of the network alone for one 2-D image in memory.
        extrapolated: how, where the latency was measured on a part of the inference; None where it ran whole.
        roofline: share of the machine's measured matrix rate that it reaches, 0 to 1.
        stages_ms: median of each stage of a case, from file to file.
        case: the sum of those, a sample a repetition.
        throughput: by batch size.
        start: of a fresh process.
        joules: energy of one image, where the driver tells it.
        dice: by label, on the labelled images given; empty without.
        note: what has to be told with its Dice, such as "not converged".
        gate: the verdict on one of our engines; None for others, and for random weights.
    """

    name: str
    title: str
    precision: str
    steps: int
    votes: int
    evaluations: int
    encoder_evaluations: int
    gflop: float
    network: Latency
    extrapolated: str | None = None
    roofline: float | None = None
    stages_ms: dict[str, float] = field(default_factory=dict)
    case: Latency | None = None
    throughput: tuple[Throughput, ...] = ()
    start: Start | None = None
    joules: float | None = None
    dice: dict[str, float] = field(default_factory=dict)
    note: str = ""
    gate: Verdict | None = None


class Ratio(msgspec.Struct, frozen=True, rename={"against": "slow", "contender": "fast"}):
    """How many times as fast one contender is as another, by their median network latencies; below 1 it is slower.

    The JSON calls the two slow and fast, whichever was, as it did before.

    Attributes:
        against: name of the one that it is compared with.
        contender: its own name, one of ours.
        times: measured.
        arithmetic: what the operations alone would give.
    """

    against: str
    contender: str
    times: Interval
    arithmetic: float


@dataclass(frozen=True)
class Result:
    """One run of the benchmark.

    Attributes:
        setting: what was compared.
        machine: where.
        rows: the contenders.
        ratios: of ours to the others.
        unavailable: reasons by contender: a package that is not installed, or an engine of another device.
        failed: reasons by contender that should run here and could not be made.
        scaling: how costs grow.
        scaling_engine: ours that was studied for it; "" without.
        version: of the SDK.
        schema: of this format.
    """

    setting: Setting
    machine: Machine
    rows: tuple[Row, ...]
    ratios: tuple[Ratio, ...]
    unavailable: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    scaling: tuple[Series, ...] = ()
    scaling_engine: str = ""
    version: str = ""
    schema: int = SCHEMA_VERSION

    def row(self, name: str) -> Row | None:
        """The contender's row, where it took part."""
        return next((row for row in self.rows if row.name == name), None)


def write_result(result: Result, path: Path) -> None:
    """Write the JSON, figures rounded to five significant digits.

    Raises:
        OutputError: if the file cannot be written.
    """
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(_rounded(msgspec.to_builtins(result)), indent=1) + "\n", encoding="utf-8")


def _rounded(data: object) -> object:
    match data:
        case float():
            return float(f"{data:.5g}")
        case dict():
            return {key: _rounded(value) for key, value in data.items()}
        case list() | tuple():
            return [_rounded(value) for value in data]
        case _:
            return data


def read_result(path: Path) -> Result:
    """Read the JSON of a benchmark.

    Raises:
        ReadError: if it is none, or of another schema version.
    """
    remedy = "write it again with cdal benchmark"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReadError(f"this cannot be read as JSON ({error})", where=path, remedy=remedy) from None
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA_VERSION:
        raise ReadError(f"this has schema {schema}, not {SCHEMA_VERSION}", where=path, remedy=remedy)
    try:
        return convert_strictly(data, Result)
    except msgspec.ValidationError as error:
        raise ReadError(f"this is no result of a benchmark ({error})", where=path, remedy=remedy) from None
