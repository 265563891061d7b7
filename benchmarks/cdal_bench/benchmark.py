"""The whole benchmark: contenders made, timed together, and told as one result."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import cdal_sdk
from cdal_bench.configurations import Subject, load_subject
from cdal_bench.contenders import OWN, PLAIN, PUBLISHED, Contender, prepare_contender
from cdal_bench.end_to_end import mean_dice, time_case
from cdal_bench.energy import joules_of
from cdal_bench.inputs import Inputs, find_inputs
from cdal_bench.intervals import ratio_of_medians
from cdal_bench.machine import describe_machine, matrix_rates
from cdal_bench.own_engines import engine_precision
from cdal_bench.probe import Probe, probe
from cdal_bench.results import Latency, Machine, Ratio, Result, Row, Setting, Throughput
from cdal_bench.timing import Task, interleave, task
from cdal_sdk.engines import Engine
from cdal_sdk.errors import EngineError, MissingExtraError, UsageError

__all__ = ["Request", "run_benchmark"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What to compare, and how.

    Attributes:
        model: a bundled model's name, a model folder, a checkpoint, or "paper:NAME" (random weights).
        contenders: names, from `choose`.
        votes: "equal" or "published".
        batches: sizes for the throughput.
        device: "cpu" or "cuda".
        data: labelled cases; None takes a synthetic one.
        cases: most labelled cases that are scored; 0 leaves out everything from file to file.
        seed: of everything random.
        repetitions: measured rounds.
        warmup: unmeasured runs before them.
        seconds: after so many no further round begins.
        full: run long inferences whole instead of extrapolating.
        cold: whether fresh processes measure cold start and memory.
        weights: checkpoints of trained baselines by contender or group, such as "segdiff".
    """

    model: str
    contenders: tuple[str, ...]
    votes: str = "equal"
    batches: tuple[int, ...] = (1,)
    device: str = "cpu"
    data: Path | None = None
    cases: int = 3
    seed: int = 0
    repetitions: int = 5
    warmup: int = 1
    seconds: float | None = None
    full: bool = False
    cold: bool = True
    weights: Mapping[str, Path] = field(default_factory=lambda: MappingProxyType({}))

    def weights_of(self, name: str) -> Path | None:
        """The checkpoint of a contender, if one was given."""
        return self.weights.get(name) or self.weights.get(name.partition("-")[0])


@dataclass(frozen=True)
class _Entry:
    """A contender that could be made."""

    contender: Contender
    engine: Engine
    task: Task

    @property
    def precision(self) -> str:
        """The engine's own word for it, else what its kind computes in."""
        return engine_precision(self.engine, self.contender.precision)


def run_benchmark(request: Request, say: Say = lambda _: None) -> Result:
    """Measure everything that a request asks for.

    Args:
        request: what.
        say: told what is being done.

    Raises:
        UsageError: if no contender can be made.
        ModelError: if there is no such model.
        TrainingError: if the data are unusable.
    """
    with tempfile.TemporaryDirectory() as folder:
        subject = load_subject(request.model, Path(folder), request.seed)
        inputs = find_inputs(subject.manifest, request.data, request.cases, Path(folder))
        say("measuring the machine")
        machine = describe_machine(request.device)
        entries, unavailable = _make(request, subject, inputs, say)
        samples = interleave(
            {name: entry.task for name, entry in entries.items()},
            repetitions=request.repetitions,
            warmup=request.warmup,
            seconds=request.seconds,
            report=lambda name, done: say(f"{name}: {f'round {done}' if done else 'warm-up'}"),
        )
        again = matrix_rates(request.device)  # whoever was busy during the first measurement lowered the roof
        roof = {name: max(rate, again[name]) for name, rate in machine.gflops.items()}
        machine = replace(machine, gflops=roof)
        rows = tuple(
            _measure_row(request, subject, inputs, machine, entry, samples[name], say)
            for name, entry in entries.items()
        )
    setting = Setting(
        model=subject.manifest.name,
        trained=subject.trained,
        image=(subject.manifest.network.image_channels, *inputs.images.shape[2:]),
        labels=subject.manifest.network.label_channels,
        votes=request.votes,
        device=request.device,
        seed=request.seed,
        warmup=request.warmup,
        repetitions=len(next(iter(samples.values()), ())),
        images=inputs.description,
    )
    return Result(setting, machine, rows, _ratios(rows), unavailable, version=cdal_sdk.__version__)


def _make(request: Request, subject: Subject, inputs: Inputs, say: Say) -> tuple[dict[str, _Entry], dict[str, str]]:
    entries: dict[str, _Entry] = {}
    unavailable: dict[str, str] = {}
    height, width = inputs.images.shape[2:]
    for name in request.contenders:
        say(f"{name}: making it")
        contender = prepare_contender(
            name,
            subject,
            (height, width),
            mode=request.votes,
            device=request.device,
            seed=request.seed,
            weights=request.weights_of(name),
        )
        try:
            engine = contender.make()
        except (EngineError, MissingExtraError, UsageError) as error:  # not installed, or not for this device
            unavailable[name] = error.brief()
            continue
        entries[name] = _Entry(contender, engine, task(engine, inputs.batch(1), full=request.full))
    return entries, unavailable


def _measure_row(
    request: Request,
    subject: Subject,
    inputs: Inputs,
    machine: Machine,
    entry: _Entry,
    samples_ms: tuple[float, ...],
    say: Say,
) -> Row:
    """Everything of a contender beyond its latency."""
    contender, engine, cost = entry.contender, entry.engine, entry.contender.cost
    latency = Latency.of(samples_ms)
    whole = entry.task.extrapolated is None
    rate = cost.flop / latency.p50.value / 1e6  # GFLOP/s
    row = Row(
        name=contender.name,
        title=contender.title,
        precision=entry.precision,
        steps=cost.steps,
        votes=cost.votes,
        evaluations=cost.evaluations,
        encoder_evaluations=cost.encoder_evaluations,
        gflop=cost.flop / 1e9,
        network=latency,
        extrapolated=entry.task.extrapolated,
        roofline=rate / machine.gflops[entry.precision] if entry.precision in machine.gflops else None,
        throughput=_throughput(request, inputs, entry, latency, say),
        joules=joules_of(lambda: engine.run(inputs.batch(1)), request.device) if whole else None,
    )
    if request.cases:
        say(f"{contender.name}: from file to file")
        case = time_case(subject, engine if whole else latency.p50.value, inputs.paths[0], min(3, request.repetitions))
        row = replace(row, stages_ms=case.stages_ms, case_ms=case.case_ms)
        if inputs.labelled and contender.trained and whole:
            say(f"{contender.name}: Dice on {len(inputs.labelled)} case(s)")
            row = replace(row, dice=mean_dice(subject, engine, inputs.labelled, cost, request.seed))
    if request.cold:
        say(f"{contender.name}: in a fresh process")
        weights = request.weights_of(contender.name)
        order = Probe(
            contender.name,
            subject.reference,
            "" if weights is None else str(weights.resolve()),
            request.votes,
            request.device,
            request.seed,
            request.full,
        )
        row = replace(row, start=probe(order))
    return row


def _throughput(request: Request, inputs: Inputs, entry: _Entry, latency: Latency, say: Say) -> tuple[Throughput, ...]:
    """Images a second by batch size; what takes too long whole is told for single images only."""
    measured = [Throughput(1, 1000 / latency.p50.value)]
    for batch in sorted(set(request.batches) - {1}):
        if entry.task.extrapolated is None:
            job = task(entry.engine, inputs.batch(batch), full=True)
            name = entry.contender.name
            say(f"{name}: {batch} images at once")
            (samples,) = interleave({name: job}, repetitions=min(3, request.repetitions), warmup=1).values()
            measured.append(Throughput(batch, 1000 * batch / sorted(samples)[len(samples) // 2]))
    return tuple(measured)


def _ratios(rows: tuple[Row, ...]) -> tuple[Ratio, ...]:
    """Every one of our engines against everybody else, and against the plain one."""
    ours = [row for row in rows if row.name.startswith(OWN) and row.name != PUBLISHED]
    return tuple(
        Ratio(
            other.name,
            own.name,
            ratio_of_medians(other.network.samples_ms, own.network.samples_ms),
            other.gflop / own.gflop,
        )
        for own in ours
        for other in rows
        if other.name != own.name and (other not in ours or other.name == PLAIN)
    )
