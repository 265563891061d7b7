"""The regression guard: in a few minutes, the ratios that must hold on any machine, against stored ones.

    python -m cdal_bench.quick            # compare; exit code 1 where a ratio fell
    python -m cdal_bench.quick --write    # store the ratios of this machine

Ratios only, never times: all contenders run interleaved in one process, so that a slow or busy machine changes both
sides. The limits are wide, half of the stored ratio, so that only a real loss trips them. A stored ratio that cannot be
measured is a loss, too, unless a package is missing or the machine has no such device.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from cdal_bench.benchmark import run_benchmark
from cdal_bench.contenders import choose
from cdal_bench.request import Request
from cdal_bench.results import Result
from cdal_sdk.errors import ReadError

__all__ = ["SLACK", "losses", "measure", "quick_request", "read_ratios", "write_ratios"]

SLACK = 0.5
_STORED = Path(__file__).with_name("quick.json")


def quick_request(model: str = "hippocampus") -> Request:
    """What the guard runs: everybody on single images, nothing from file to file."""
    return Request(
        model=model,
        contenders=choose(["segdiff-published", "segdiff-fast", "cdal-published"], ["auto"]),
        cases=0,
        repetitions=9,
        warmup=1,
        seconds=90.0,
        longest_s=1.0,
        cold=False,
    )


def measure(result: Result) -> dict[str, float]:
    """Ratios by "against/contender"."""
    return {f"{ratio.against}/{ratio.contender}": ratio.times.value for ratio in result.ratios}


def losses(
    found: Mapping[str, float], stored: Mapping[str, float], excused: Collection[str] = (), slack: float = SLACK
) -> list[str]:
    """A sentence for each stored ratio that fell below its limit, or is missing.

    Args:
        found: measured.
        stored: expected.
        excused: contenders that cannot run here, whose ratios may be missing.
        slack: share of the stored ratio that must be left.
    """
    lost = []
    for pair, expected in stored.items():
        if pair in found and found[pair] < slack * expected:
            lost.append(f"{pair}: {found[pair]:.3g} times, stored {expected:.3g}, limit {slack * expected:.3g}")
        elif pair not in found and not set(pair.split("/")) & set(excused):
            lost.append(f"{pair}: not measured, stored {expected:.3g}")
    return lost


def read_ratios(path: Path = _STORED) -> dict[str, float]:
    """The stored ratios.

    Raises:
        ReadError: if they cannot be read.
    """
    try:
        return {str(pair): float(value) for pair, value in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        raise ReadError(
            "the stored ratios cannot be read", where=path, remedy="write them with python -m cdal_bench.quick --write"
        ) from None


def write_ratios(found: Mapping[str, float], path: Path = _STORED) -> None:
    """Store ratios, rounded to three digits."""
    text = json.dumps({pair: float(f"{value:.3g}") for pair, value in found.items()}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")


def run(arguments: list[str], tell: Callable[[str], object], request: Request | None = None) -> int:
    """Measure, then store or compare; returns the exit code."""
    result = run_benchmark(request or quick_request())
    found = measure(result)
    if "--write" in arguments:
        write_ratios(found)
        return 0
    for pair, value in found.items():
        tell(f"{pair}: {value:.3g}\n")
    for name, reason in result.failed.items():
        tell(f"failed: {name}: {reason}\n")
    lost = losses(found, read_ratios(), result.unavailable)
    for sentence in lost:
        tell(f"worse than it was: {sentence}\n")
    return 1 if lost else 0


if __name__ == "__main__":
    raise SystemExit(run(sys.argv[1:], sys.stdout.write))
