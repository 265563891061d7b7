"""`cdal verify`: does what a run wrote still hold."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from cdal_sdk.cli.output import tell
from cdal_sdk.cli.paths import parse_name, parse_path

__all__ = ["verify"]


def verify(
    out: Annotated[Path, typer.Argument(metavar="OUT", parser=parse_path, help="The --out of a run.")],
    sources: Annotated[
        list[Path] | None,
        typer.Option("--source", parser=parse_path, help="The run's input, to compare with; repeatable."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(parser=parse_name, help="The run's model, to compare the labels with.")
    ] = None,
    volume: Annotated[int | None, typer.Option(min=0, help="The run's --volume.")] = None,
    read_timeout: Annotated[
        float, typer.Option(help="Seconds that one source, or the search of one folder, may take.")
    ] = 600.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Read again what a run wrote, and compare: report, hashes, geometry, label values, sizes and the sources.

    Sources are known by their bytes, so that they may have been moved. Exit code 0: all holds. 1: something does not.
    2: wrong usage, or no finished case in the folder.
    """
    from cdal_sdk.bundle import read_manifest
    from cdal_sdk.readers import IsolatedReader, discover
    from cdal_sdk.segmenter import check_read_timeout
    from cdal_sdk.segmenter.verify import verify as check

    check_read_timeout(read_timeout)
    manifest = None if model is None else read_manifest(model)
    with closing(IsolatedReader(read_timeout)) as reader:
        given = discover(sources, exclude=out, volume=volume, reader=reader) if sources else ()
        found = check(out, given, manifest, reader.read, read_timeout)
    if as_json:
        tell(json.dumps(found.to_data(), indent=2) + "\n")
    else:
        problems = "".join(f"{problem.case}: {problem.what}\n" for problem in found.problems)
        compared = f", {found.sources} compared with their sources" if sources else ""
        verdict = f"{len(found.problems)} problem(s)" if found.problems else "all holds"
        tell(f"{problems}{found.cases} case(s), {found.files} file(s){compared}: {verdict}\n")
    raise typer.Exit(1 if found.problems else 0)
