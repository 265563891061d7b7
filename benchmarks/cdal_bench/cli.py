"""`cdal benchmark`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from cdal_sdk.cli.output import tell
from cdal_sdk.cli.paths import parse_name, parse_path

if TYPE_CHECKING:
    from cdal_bench.results import Result

__all__ = ["benchmark"]

_RESULT = "result.json"


def benchmark(
    out: Annotated[
        Path, typer.Option("--out", "-o", parser=parse_path, help="Folder for result.json, report.md and plots.")
    ],
    model: Annotated[
        str,
        typer.Option(parser=parse_name, help="Model, or paper:monuseg, paper:cxr, paper:hippocampus (random weights)."),
    ] = "hippocampus",
    against: Annotated[
        str,
        typer.Option(
            help="Whom to compare with, by commas: segdiff (or segdiff-published, -fast, -openvino, -ddim), "
            "cdal-published, unet, unetplusplus, resunet (or, compiled, unet-openvino and so on)."
        ),
    ] = "segdiff,cdal-published,unet,unet-openvino",
    engine: Annotated[str, typer.Option(help="Our engines, by commas; auto is all that run here.")] = "auto",
    votes: Annotated[
        Literal["equal", "published"], typer.Option(help="Everybody the model's votes, or as each was published.")
    ] = "equal",
    batch: Annotated[str, typer.Option(help="Batch sizes for the throughput, by commas.")] = "1",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to run.")] = "auto",
    data: Annotated[
        Path | None, typer.Option(parser=parse_path, help="Labelled cases, as for cdal train; gives Dice.")
    ] = None,
    cases: Annotated[int, typer.Option(help="Most cases that are scored; 0 times the network only.")] = 3,
    weights: Annotated[
        list[str] | None, typer.Option(help="Trained baseline, such as segdiff=run/best.pt; repeatable.")
    ] = None,
    note: Annotated[
        list[str] | None,
        typer.Option(help="What its Dice needs beside it, such as segdiff='not converged'; repeatable."),
    ] = None,
    repetitions: Annotated[int, typer.Option(help="Measured rounds.")] = 5,
    warmup: Annotated[int, typer.Option(help="Unmeasured runs before them.")] = 1,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0, help="After so many no further round of networks begins; after as many again, none of files."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    full: Annotated[bool, typer.Option("--full", help="Run long inferences whole; on a CPU that takes hours.")] = False,
    cold: Annotated[bool, typer.Option("--cold/--no-cold", help="Measure cold start in fresh processes.")] = True,
    scaling: Annotated[
        bool,
        typer.Option(
            "--scaling",
            help="Also how time and memory grow with each size, with the first of our engines that is named.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compare cDAL with SegDiff and others on this machine, interleaved, with intervals.

    Exit code 1: a contender that should run here failed, or an engine does not compute what the model does; the others'
    figures are written.
    """
    from cdal_sdk.errors import MissingExtraError, UsageError

    try:
        from cdal_bench.benchmark import run_benchmark
        from cdal_bench.contenders import choose
        from cdal_bench.request import Request
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), "bench") from None
    from dataclasses import replace
    from importlib.util import find_spec

    from cdal_bench.results import write_result
    from cdal_sdk.atomic import check_place
    from cdal_sdk.engines import pick_device

    if find_spec("matplotlib") is None:  # told now, not after an hour of measuring
        raise MissingExtraError("matplotlib", "bench")

    _check(repetitions=(repetitions, 1), warmup=(warmup, 0), cases=(cases, 0), seed=(seed, 0))
    request = Request(
        model=model,
        contenders=choose(_names(against), _names(engine)),
        votes=votes,
        batches=_numbers(batch),
        device=pick_device(device),
        data=data,
        cases=cases,
        seed=seed,
        repetitions=repetitions,
        warmup=warmup,
        seconds=seconds,
        full=full,
        cold=cold,
        weights={name: _file(path) for name, path in _settings("weights", weights or []).items()},
        notes=_settings("note", note or []),
    )
    if scaling and not _names(engine):
        raise UsageError("--scaling studies an engine of ours", remedy="name one with --engine")
    check_place(out / _RESULT)
    with _progress() as say:
        result = run_benchmark(request, say)
        write_result(result, out / _RESULT)  # what comes next may fail
        if scaling:
            from cdal_bench.scaling import first_engine, study_scaling

            chosen = first_engine(_names(engine), result)
            result = replace(result, scaling=study_scaling(request, chosen, say), scaling_engine=chosen)
    _write(result, out, as_json=as_json)
    if result.failed or any(row.gate is not None and not row.gate.passed for row in result.rows):
        raise typer.Exit(1)


def _write(result: Result, out: Path, *, as_json: bool) -> None:
    """Write data, plots and page, and show one of them."""
    from cdal_bench.plots import draw_plots
    from cdal_bench.report import report_markdown
    from cdal_bench.results import write_result
    from cdal_sdk.atomic import atomic

    write_result(result, out / _RESULT)
    text = report_markdown(result, draw_plots(result, out))
    with atomic(out / "report.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    if as_json:
        tell((out / _RESULT).read_text(encoding="utf-8"))
    else:
        Console(soft_wrap=True, highlight=False).print(text, markup=False)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> tuple[int, ...]:
    from cdal_sdk.errors import UsageError

    names = _names(text)
    if not names or not all(name.isdecimal() and int(name) > 0 for name in names):
        raise UsageError(f"--batch is '{text}'", remedy="give sizes such as 1,4,16")
    return tuple(int(name) for name in names)


def _settings(option: str, given: Collection[str]) -> dict[str, str]:
    """Values by name, from "name=value"."""
    from cdal_sdk.errors import UsageError

    chosen = {}
    for setting in given:
        name, _, value = setting.partition("=")
        if not name or not value:
            raise UsageError(f"--{option} is '{setting}'", remedy="give a name and a value, such as segdiff=...")
        chosen[name] = value
    return chosen


def _file(path: str) -> Path:
    from cdal_sdk.errors import UsageError

    if not Path(path).is_file():
        raise UsageError(f"--weights: there is no file '{path}'", remedy="give one, such as segdiff=run/best.pt")
    return Path(path)


def _check(**values: tuple[int, int]) -> None:
    from cdal_sdk.errors import UsageError

    for name, (value, least) in values.items():
        if value < least:
            raise UsageError(f"--{name} is {value}", remedy=f"give at least {least}")


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """What is being done, on a terminal; elsewhere nothing."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status("starting") as status:
        yield status.update
