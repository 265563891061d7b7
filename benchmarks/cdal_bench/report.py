"""A result as a page to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cdal_bench.intervals import Interval, interval_words
from cdal_bench.results import Latency, Machine, Ratio, Result, Row

__all__ = [
    "duration",
    "headline",
    "machine_sentence",
    "ratio_table",
    "report_markdown",
    "stage_table",
    "table",
    "times",
]

_MINUTE, _HOUR = 60.0, 3600.0
_HONEST_P95, _HONEST_P99 = 20, 100  # fewer samples hold nothing of such a tail


def duration(milliseconds: float) -> str:
    """A time with three digits and the unit that suits it."""
    seconds = milliseconds / 1000
    if seconds < 1:
        return f"{milliseconds:.3g} ms"
    if seconds < 2 * _MINUTE:
        return f"{seconds:.3g} s"
    if seconds < 2 * _HOUR:
        return f"{seconds / _MINUTE:.3g} min"
    return f"{seconds / _HOUR:.3g} h"


def times(value: float) -> str:
    """A ratio as people say it, without digits that the measurement does not carry."""
    return f"{value:.2g}x" if value < 10 else f"{round(value, -len(str(int(value))) + 2):,.0f}x"


def report_markdown(result: Result, pictures: Mapping[str, str] | None = None) -> str:
    """The whole page.

    Args:
        result: what was found.
        pictures: file name by title, beside the page.
    """
    setting = result.setting
    weights = "trained" if setting.trained else "random (times only)"
    lines = [
        f"# Benchmark: {setting.model}",
        "",
        headline(result),
        "",
        f"One image of {' x '.join(map(str, setting.image))} (channels, height, width), {setting.labels} label "
        f"channel(s), {setting.votes} votes, weights {weights}; images: {setting.images}. {setting.repetitions} "
        f"interleaved round(s) in shuffled order after {setting.warmup} warm-up run(s).",
        "",
        machine_sentence(result.machine),
        "",
        *tables(result),
    ]
    for words, reasons in (("Not available here:", result.unavailable), ("Failed here:", result.failed)):
        if reasons:
            lines += ["", words, "", *(f"- {name}: {reason}" for name, reason in reasons.items())]
    for title, name in (pictures or {}).items():
        lines += ["", f"![{title}]({name})"]
    return "\n".join(lines) + "\n"


def headline(result: Result) -> str:
    """The result in a sentence: our fastest that the gate has not refused, against SegDiff.

    Against SegDiff as published, that is, and against whichever SegDiff with all its steps was fastest.
    """
    where = f"On {result.machine.accelerator or f'{result.machine.threads} CPU thread(s)'}"
    rows = {row.name: row for row in result.rows}
    ratios = {(ratio.against, ratio.contender): ratio for ratio in result.ratios}
    rivals = _rivals(result.rows)
    compared = [rows[contender] for against, contender in ratios if against in {row.name for row in rivals}]
    ours = [row for row in compared if row.gate is None or row.gate.passed]
    if not ours:
        return f"{where}."
    best = min(ours, key=_median)
    told = [
        f"{times(ratio.times.value)} faster than {row.title} in {row.precision} ({_ends(ratio, rows)})"
        for row in rivals
        if (ratio := ratios.get((row.name, best.name)))
    ]
    return f"{where}, {best.title} in {best.precision}: {'; '.join(told)}."


def _rivals(rows: Sequence[Row]) -> list[Row]:
    """SegDiff as published, and the fastest one with all its steps, where they took part."""
    segdiff = [row for row in rows if row.name.startswith("segdiff")]
    whole = [row for row in segdiff if row.steps == max(other.steps for other in segdiff)]
    published = [row for row in whole if row.name == "segdiff-published"]
    return published + [row for row in sorted(whole, key=_median)[:1] if row not in published]


def _median(row: Row) -> float:
    return row.network.p50.value


def _ends(ratio: Ratio, rows: Mapping[str, Row]) -> str:
    """The interval of a ratio, what it is, and whether it was extrapolated."""
    pair = rows[ratio.against], rows[ratio.contender]
    words = interval_words(min(len(row.network.samples_ms) for row in pair))
    ends = [f"{times(ratio.times.low)} to {times(ratio.times.high)}, {words}"] if words else []
    return ", ".join([*ends, *(["extrapolated"] if any(row.extrapolated for row in pair) else [])] or ["one round"])


def machine_sentence(machine: Machine) -> str:
    """Hardware and software."""
    accelerator = f", {machine.accelerator}" if machine.accelerator else ""
    software = ", ".join(f"{name} {version}" for name, version in machine.software.items())
    rates = ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in machine.gflops.items())
    roof = f" Measured matrix rate: {rates}." if rates else ""
    return (
        f"Machine: {machine.processor}, {machine.cores} core(s), {machine.threads} thread(s), "
        f"{machine.memory_gb:.0f} GB{accelerator}; {machine.system}; {software}.{roof}"
    )


def tables(result: Result) -> list[str]:
    """Everything measured, as tables."""
    return [
        *table(result),
        *_details(result.rows),
        *ratio_table(result.ratios, {row.name: row for row in result.rows}),
        *stage_table(result.rows),
        *_scaling_table(result),
    ]


def table(result: Result) -> list[str]:
    """Contenders, slowest first."""
    rows = sorted(result.rows, key=_median, reverse=True)
    labels = sorted({label for row in rows for label in row.dice})
    header = ["contender", "NFE (steps x votes)", "encoder runs", "GFLOP", "precision"]
    header += [_median_header("one image", [row.network for row in rows]), "roofline"]
    cases = [row.case for row in rows if row.case]
    if cases:
        header.append(_median_header("file to file", cases))
    gated = any(row.gate for row in rows)
    header += ["gate"] * gated
    header += [f"Dice {label}" for label in labels]
    lines = [_line(header), _line(["---"] * len(header))]
    for row in rows:
        mark = " *extrapolated*" if row.extrapolated else ""
        cells = [
            row.title,
            f"{row.evaluations} ({row.steps} x {row.votes})" if row.steps else str(row.evaluations),
            str(row.encoder_evaluations) if row.encoder_evaluations else "",
            f"{row.gflop:,.4g}" if row.gflop < 1e4 else f"{row.gflop:,.0f}",
            row.precision,
            f"{_spread(row.network.p50)}{mark}",
            "" if row.roofline is None else f"{100 * row.roofline:.0f} %",
        ]
        if cases:
            cells.append(f"{_spread(row.case.p50)}{mark}" if row.case else "")
        if gated:
            cells.append("" if row.gate is None else "passed" if row.gate.passed else "refused")
        note = f" ({row.note})" if row.note else ""
        cells += [f"{row.dice[label]:.3f}{note}" if label in row.dice else "" for label in labels]
        lines.append(_line(cells))
    notes = [f"- {row.title}: {row.extrapolated}." for row in rows if row.extrapolated]
    refused = [row for row in rows if row.gate and not row.gate.passed]
    notes += [f"- {row.title}: refused by the gate ({row.gate.figures})." for row in refused if row.gate]
    return [*lines, "", *notes]


def _median_header(what: str, latencies: Sequence[Latency]) -> str:
    words = interval_words(min(len(latency.samples_ms) for latency in latencies))
    return f"{what}, p50 ({words})" if words else f"{what}, p50"


def ratio_table(ratios: Sequence[Ratio], rows: Mapping[str, Row]) -> list[str]:
    """Who is how many times as fast as whom, beside what the arithmetic alone would give."""
    if not ratios:
        return []
    words = interval_words(min(len(row.network.samples_ms) for row in rows.values()))
    header = ["contender", "against", "times as fast" + (f" ({words})" if words else ""), "by arithmetic"]
    lines = ["", _line(header), _line(["---"] * 4)]
    for ratio in ratios:
        mark = " *extrapolated*" if rows[ratio.against].extrapolated or rows[ratio.contender].extrapolated else ""
        measured = f"{times(ratio.times.value)}{_range(ratio.times)}{mark}"
        lines.append(_line([rows[ratio.contender].title, rows[ratio.against].title, measured, times(ratio.arithmetic)]))
    return lines


def _details(rows: Sequence[Row]) -> list[str]:
    """Tails, throughput, start, memory, energy; columns in which nobody has anything are left out."""
    columns = {
        "samples": [str(len(row.network.samples_ms)) for row in rows],
        "p95": [_tail(row.network, row.network.p95, _HONEST_P95) for row in rows],
        "p99": [_tail(row.network, row.network.p99, _HONEST_P99) for row in rows],
        "file to file, p95": [_tail(row.case, row.case.p95, _HONEST_P95) if row.case else "" for row in rows],
        "images/s by batch": [_throughput(row) for row in rows],
        "build and first run, caches empty": [_seconds(row.start.build_s if row.start else None) for row in rows],
        "cold start, caches full": [_seconds(row.start.cold_s if row.start else None) for row in rows],
        "peak memory": [f"{row.start.peak_mb:,.0f} MB" if row.start and row.start.peak_mb else "" for row in rows],
        "energy": ["" if row.joules is None else f"{row.joules:.3g} J" for row in rows],
    }
    told = {name: cells for name, cells in columns.items() if any(cells)}
    lines = ["", _line(["contender", *told]), _line(["---"] * (len(told) + 1))]
    return lines + [_line([row.title, *(cells[number] for cells in told.values())]) for number, row in enumerate(rows)]


def _tail(latency: Latency, value: Interval, samples: int) -> str:
    """A high percentile, where there are samples enough for it; the bootstrap's interval of one covers too little."""
    return duration(value.value) if len(latency.samples_ms) >= samples else ""


def _throughput(row: Row) -> str:
    told = ", ".join(f"{entry.batch}: {entry.images_per_second:.3g}" for entry in row.throughput)
    return f"{told} *extrapolated*" if told and row.extrapolated else told


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else duration(1000 * seconds)


def stage_table(rows: Sequence[Row]) -> list[str]:
    """Where the time of a case goes."""
    staged = [row for row in rows if row.stages_ms]
    if not staged:
        return []
    stages = list(staged[0].stages_ms)
    lines = ["", _line(["one case, file to file", *stages]), _line(["---"] * (len(stages) + 1))]
    for row in staged:
        mark = " *extrapolated*" if row.extrapolated else ""
        cells = [duration(row.stages_ms[s]) + (mark if s == "engine" else "") for s in stages]
        lines.append(_line([row.title, *cells]))
    return lines


def _scaling_table(result: Result) -> list[str]:
    if not result.scaling:
        return []
    header = ["grows with", "cost", "from", "to", "slope", "power law", "better fit"]
    lines = ["", f"Growth with the engine {result.scaling_engine}:", "", _line(header), _line(["---"] * len(header))]
    for series in result.scaling:
        first, last = (f"{y:.4g} at {x:g}" for x, y in ((series.x[0], series.y[0]), (series.x[-1], series.y[-1])))
        power = "" if series.exponent is None else f"{series.axis}^{series.exponent:.2f}"
        better = "line" if series.straight else "power law"
        lines.append(_line([series.axis, series.cost, first, last, f"{series.slope:.3g} each", power, better]))
    return lines


def _spread(interval: Interval) -> str:
    if interval.low == interval.high:
        return duration(interval.value)
    return f"{duration(interval.value)} ({duration(interval.low)} to {duration(interval.high)})"


def _range(interval: Interval) -> str:
    return "" if interval.low == interval.high else f" ({times(interval.low)} to {times(interval.high)})"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
