"""The whole benchmark: contenders made, timed together, and told as one result."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import cdal_sdk
from cdal_bench.configurations import Subject, load_subject
from cdal_bench.contenders import PLAIN, Contender, is_ours, prepare_contender
from cdal_bench.end_to_end import CaseTime, mean_dice, time_cases
from cdal_bench.energy import joules_of
from cdal_bench.inputs import Inputs, find_inputs
from cdal_bench.intervals import ratio_of_medians
from cdal_bench.machine import describe_machine, matrix_rates
from cdal_bench.own_engines import rate_of
from cdal_bench.probe import Probe, probe
from cdal_bench.request import Request
from cdal_bench.results import Latency, Machine, Ratio, Result, Row, Setting, Throughput, Verdict
from cdal_bench.timing import Task, expected_seconds, interleave, task
from cdal_sdk.engines import BuiltEngine
from cdal_sdk.errors import EngineError, MissingExtraError, UsageError
from cdal_sdk.gate import Gate

__all__ = ["run_benchmark"]

_LONGEST_BATCH_S = 30.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class _Entry:
    """A contender that could be made."""

    contender: Contender
    engine: BuiltEngine
    task: Task

    @property
    def whole(self) -> bool:
        """Whether its inference runs whole, so that it has masks."""
        return self.task.extrapolated is None

    @property
    def precision(self) -> str:
        """In which it computes, by the names of the machine's matrix rates."""
        return rate_of(self.engine.precision)


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
        made = _make(request, subject, inputs, say)
        entries = made.entries
        samples = interleave(
            {name: entry.task for name, entry in entries.items()},
            repetitions=request.repetitions,
            warmup=request.warmup,
            seconds=request.seconds,
            report=lambda name, done: say(f"{name}: {f'round {done}' if done else 'warm-up'}"),
        )
        cases = _time_cases(request, subject, inputs, entries, samples, say)
        gate = _gate(request, subject, inputs, entries)
        again = matrix_rates(request.device)  # whoever was busy during the first measurement lowered the roof
        roof = {name: max(rate, again[name]) for name, rate in machine.gflops.items()}
        machine = replace(machine, gflops=roof)
        rows = tuple(
            replace(
                _measure_row(request, subject, inputs, machine, entry, samples[name], cases.get(name), say),
                gate=_verdict(gate, entry),
            )
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
        repetitions=len(next(iter(samples.values()))),
        images=inputs.description,
    )
    return Result(setting, machine, rows, _ratios(rows), made.unavailable, made.failed, version=cdal_sdk.__version__)


@dataclass(frozen=True)
class _Made:
    """Who takes part; who cannot here, and who should but fails, with reasons."""

    entries: dict[str, _Entry] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def _make(request: Request, subject: Subject, inputs: Inputs, say: Say) -> _Made:
    made, images = _Made(), inputs.batch(1)
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
        except (EngineError, MissingExtraError, UsageError) as error:
            excused = isinstance(error, MissingExtraError) or not contender.expected
            (made.unavailable if excused else made.failed)[name] = error.brief()
            continue
        in_a_case = len(inputs.images) if request.cases else 1
        full = request.full or in_a_case * expected_seconds(engine, images) <= request.longest_s
        made.entries[name] = _Entry(contender, engine, task(engine, images, full=full))
    if not made.entries:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in {**made.unavailable, **made.failed}.items())
        raise UsageError(f"nobody can be measured here ({reasons or 'nobody was named'})", remedy="name others")
    return made


def _time_cases(
    request: Request,
    subject: Subject,
    inputs: Inputs,
    entries: Mapping[str, _Entry],
    samples: Mapping[str, tuple[float, ...]],
    say: Say,
) -> dict[str, CaseTime]:
    """The first case from file to file; with its extrapolated time for whoever did not run whole."""
    if not request.cases:
        return {}
    engines = {
        name: entry.engine if entry.whole else Latency.of(samples[name]).p50.value for name, entry in entries.items()
    }
    return time_cases(
        subject,
        engines,
        inputs.paths[0],
        device=request.device,
        repetitions=request.repetitions,
        seconds=request.seconds,
        report=lambda name, done: say(f"{name}: from file to file, {f'round {done}' if done else 'warm-up'}"),
    )


def _gate(request: Request, subject: Subject, inputs: Inputs, entries: Mapping[str, _Entry]) -> Gate | None:
    """What holds our engines against the reference; None where there is nothing to hold."""
    if not subject.trained or not any(_gated(entry) for entry in entries.values()):
        return None
    reference = prepare_contender(
        PLAIN, subject, inputs.images.shape[2:], mode=request.votes, device=request.device, seed=request.seed
    )
    return Gate(subject.manifest, reference.make(), inputs.samples)


def _gated(entry: _Entry) -> bool:
    return is_ours(entry.contender.name) and entry.contender.name != PLAIN


def _verdict(gate: Gate | None, entry: _Entry) -> Verdict | None:
    if gate is None or not _gated(entry):
        return None
    agreement = gate.compare(entry.engine)
    return Verdict(agreement.passes(gate.limits), str(agreement))


def _measure_row(
    request: Request,
    subject: Subject,
    inputs: Inputs,
    machine: Machine,
    entry: _Entry,
    samples_ms: tuple[float, ...],
    case: CaseTime | None,
    say: Say,
) -> Row:
    """Everything of a contender beyond its latency."""
    contender, engine, cost = entry.contender, entry.engine, entry.contender.cost
    latency = Latency.of(samples_ms)
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
        joules=joules_of(lambda: engine.run(inputs.batch(1)), request.device) if entry.whole else None,
        note=request.note_of(contender.name) if contender.trained else "",
    )
    if case is not None:
        row = replace(row, stages_ms=case.stages_ms, case=case.case)
    if request.cases and inputs.labelled and contender.trained and entry.whole:
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
            entry.whole,
        )
        row = replace(row, start=probe(order))
    return row


def _throughput(request: Request, inputs: Inputs, entry: _Entry, latency: Latency, say: Say) -> tuple[Throughput, ...]:
    """Images a second by batch size; batches that would take too long are left out."""
    measured = [Throughput(1, 1000 / latency.p50.value)]
    for batch in sorted(set(request.batches) - {1}):
        if entry.whole and batch * latency.p50.value <= 1000 * _LONGEST_BATCH_S:
            job = task(entry.engine, inputs.batch(batch), full=True)
            name = entry.contender.name
            say(f"{name}: {batch} images at once")
            (samples,) = interleave({name: job}, repetitions=min(3, request.repetitions), warmup=1).values()
            measured.append(Throughput(batch, 1000 * batch / sorted(samples)[len(samples) // 2]))
    return tuple(measured)


def _ratios(rows: tuple[Row, ...]) -> tuple[Ratio, ...]:
    """Every one of our engines against everybody else, and against the plain one."""
    ours = [row for row in rows if is_ours(row.name)]
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
