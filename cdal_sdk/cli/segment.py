"""`cdal segment`: images in, masks and a report out."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from cdal_sdk.cli.output import tell
from cdal_sdk.cli.paths import parse_name, parse_path
from cdal_sdk.cli.status import show_status

if TYPE_CHECKING:
    from cdal_sdk.segmenter import CaseReport, Report

__all__ = ["segment"]


def segment(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT...", parser=parse_path, help="DICOM, NIfTI, PNG, JPEG or TIFF files, or folders with them."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", parser=parse_path, help="Folder for masks, previews and report.json.")
    ],
    model: Annotated[
        str, typer.Option(parser=parse_name, help="Bundled model, model folder or checkpoint.")
    ] = "hippocampus",
    engine: Annotated[str, typer.Option(help="auto, or a name of docs/export.md; torch is the reference.")] = "auto",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to run.")] = "auto",
    votes: Annotated[int | None, typer.Option(help="Instances to average; by default the model's own.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all noise; the same seed gives the same mask.")] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="Further outputs: nifti, probability; png of pictures, dicom-seg of DICOM."),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Slices or tiles of one case that the engine takes at once; by default what suits the device. "
            "Cases never share a batch, so that no result depends on its neighbours."
        ),
    ] = None,
    volume: Annotated[
        int | None, typer.Option(min=0, help="Of NIfTI files with several volumes, the one to take, from 0.")
    ] = None,
    read_timeout: Annotated[
        float, typer.Option(help="Seconds that one case, or the search of one folder, may take.")
    ] = 600.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Redo cases that could be skipped.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Accept what lies outside the model's domain.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Segment images and write masks, previews and a report.

    Exit code 0: every case is done or was skipped as unchanged. 1: some failed, the others are written. 2: wrong
    usage, or nothing to segment. 130 and 143: stopped by Ctrl-C or SIGTERM, with a report of what was done.
    """
    from cdal_sdk.readers import IsolatedReader, discover
    from cdal_sdk.segmenter import Segmenter, check_formats, check_read_timeout, segment_cases

    wanted = check_formats(formats or [])
    check_read_timeout(read_timeout)
    signal.signal(signal.SIGTERM, _stop)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    with show_status(console, "looking for images"), closing(IsolatedReader(read_timeout)) as reader:
        cases = discover(inputs, exclude=out, volume=volume, reader=reader)
    with show_status(console, "loading the model") as progress:
        segmenter = Segmenter(
            model,
            engine=engine,
            device=device,
            votes=votes,
            seed=seed,
            batch_size=batch_size,
            force=force,
            read_timeout=read_timeout,
            progress=progress,
        )
    with _progress(console, len(cases)) as on_case:
        report = segment_cases(segmenter, cases, out, formats=wanted, overwrite=overwrite, on_case=on_case)
    tell(json.dumps(asdict(report), indent=2) + "\n" if as_json else _summary(report, out))
    raise typer.Exit(1 if any(case.status == "failed" for case in report.cases) else 0)


def _stop(number: int, _: object) -> None:
    """End a run as Ctrl-C does, with its report written, when a service manager stops it; a second stop is ignored."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Callable[[CaseReport], None]]:
    """A bar with rate and time left on a terminal; elsewhere only failures are told."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("segmenting"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    began = time.monotonic()
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=total, rate="")

        def on_case(case: CaseReport) -> None:
            bar.advance(task)
            bar.update(task, rate=f"{bar.tasks[0].completed / (time.monotonic() - began):.2f} cases/s")
            if case.error is not None:
                console.print("failed:", case.error, style="red", markup=False)

        yield on_case


def _summary(report: Report, out: Path) -> str:
    """One line a case with its sizes, and where everything is."""
    lines = []
    for case in report.cases:
        sizes = ", ".join(f"{name} {_size(size)}" for name, size in case.labels.items())
        review = f"  to review: {'; '.join(case.review)}" if case.review else ""
        lines.append(f"{case.status:8}{case.case}  {sizes}{review}".rstrip())
    lines.append(
        f"{len(report.cases)} case(s) in {report.seconds['wall']:.1f} s, {report.output_share:.0%} of it to restore "
        f"and write; results in {out}, overview in report.html\n"
    )
    return "\n".join(lines)


def _size(size: dict[str, object]) -> str:
    for name, unit in (("volume_ml", "ml"), ("area_mm2", "mm2"), ("area_px", "px")):
        if name in size:
            return f"{size[name]} {unit}"
    return ""
