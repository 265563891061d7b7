"""A result as a page to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cdal_bench.intervals import Interval
from cdal_bench.results import Machine, Ratio, Result, Row

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
        f"interleaved round(s) in shuffled order after {setting.warmup} warm-up run(s). Intervals: 95 %, bootstrap.",
        "",
        machine_sentence(result.machine),
        "",
        *tables(result),
    ]
    if result.unavailable:
        lines += ["", "Not available here:", ""]
        lines += [f"- {name}: {reason}" for name, reason in result.unavailable.items()]
    for title, name in (pictures or {}).items():
        lines += ["", f"![{title}]({name})"]
    return "\n".join(lines) + "\n"


def headline(result: Result) -> str:
    """The result in a sentence: our fastest against SegDiff, with the arithmetic beside it."""
    told = []
    for slow, words in (("segdiff-published", "SegDiff as published"), ("segdiff-fast", "SegDiff made fast")):
        candidates = [ratio for ratio in result.ratios if ratio.slow == slow]
        if candidates:
            best = max(candidates, key=lambda ratio: ratio.times.value)
            row, theirs = result.row(best.fast), result.row(slow)
            suffix = ", extrapolated" if theirs is not None and theirs.extrapolated else ""
            title = row.title if row is not None else best.fast
            told.append(f"{title} is {times(best.times.value)} faster than {words} ({_range(best.times)}{suffix})")
    where = result.machine.accelerator or f"{result.machine.threads} CPU thread(s)"
    return f"On {where}: {'; '.join(told)}." if told else f"On {where}."


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
    rows = sorted(result.rows, key=lambda row: -row.network.p50.value)
    labels = sorted({label for row in rows for label in row.dice})
    header = ["contender", "NFE (steps x votes)", "encoder runs", "GFLOP", "precision", "one image, p50", "roofline"]
    if any(row.case_ms for row in rows):
        header.append("file to file")
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
        if any(other.case_ms for other in rows):
            cells.append(f"{duration(row.case_ms.value)}{mark}" if row.case_ms else "")
        cells += [f"{row.dice[label]:.3f}" if label in row.dice else "" for label in labels]
        lines.append(_line(cells))
    notes = [f"- {row.title}: {row.extrapolated}." for row in rows if row.extrapolated]
    return [*lines, "", *notes]


def ratio_table(ratios: Sequence[Ratio], rows: Mapping[str, Row]) -> list[str]:
    """Who is how much faster than whom, beside what the arithmetic alone would give."""
    if not ratios:
        return []
    lines = ["", _line(["faster", "than", "measured", "by arithmetic"]), _line(["---"] * 4)]
    for ratio in ratios:
        mark = " *extrapolated*" if rows[ratio.slow].extrapolated or rows[ratio.fast].extrapolated else ""
        measured = f"{times(ratio.times.value)} ({_range(ratio.times)}){mark}"
        lines.append(_line([rows[ratio.fast].title, rows[ratio.slow].title, measured, times(ratio.arithmetic)]))
    return lines


def _details(rows: Sequence[Row]) -> list[str]:
    """Tails, throughput, start, memory, energy; columns in which nobody has anything are left out."""
    columns = {
        "samples": [str(len(row.network.samples_ms)) for row in rows],
        "p95": [_tail(row, row.network.p95, _HONEST_P95) for row in rows],
        "p99": [_tail(row, row.network.p99, _HONEST_P99) for row in rows],
        "images/s by batch": [
            ", ".join(f"{entry.batch}: {entry.images_per_second:.3g}" for entry in row.throughput) for row in rows
        ],
        "cold start": [
            duration(1000 * row.start.cold_s) if row.start and row.start.cold_s is not None else "" for row in rows
        ],
        "building": [duration(1000 * row.start.build_s) if row.start else "" for row in rows],
        "peak memory": [f"{row.start.peak_mb:,.0f} MB" if row.start else "" for row in rows],
        "energy": ["" if row.joules is None else f"{row.joules:.3g} J" for row in rows],
    }
    told = {name: cells for name, cells in columns.items() if any(cells)}
    lines = ["", _line(["contender", *told]), _line(["---"] * (len(told) + 1))]
    return lines + [_line([row.title, *(cells[number] for cells in told.values())]) for number, row in enumerate(rows)]


def _tail(row: Row, value: Interval, samples: int) -> str:
    """A high percentile, where there are samples enough for it."""
    return _spread(value) if len(row.network.samples_ms) >= samples else ""


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
    lines = ["", _line(["grows with", "cost", "from", "to", "slope", "power law"]), _line(["---"] * 6)]
    for series in result.scaling:
        first, last = (f"{y:.4g} at {x:g}" for x, y in ((series.x[0], series.y[0]), (series.x[-1], series.y[-1])))
        power = "" if series.exponent is None else f"{series.axis}^{series.exponent:.2f}"
        lines.append(_line([series.axis, series.cost, first, last, f"{series.slope:.3g} each", power]))
    return lines


def _spread(interval: Interval) -> str:
    if interval.low == interval.high:
        return duration(interval.value)
    return f"{duration(interval.value)} ({duration(interval.low)} to {duration(interval.high)})"


def _range(interval: Interval) -> str:
    return f"{times(interval.low)} to {times(interval.high)}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
