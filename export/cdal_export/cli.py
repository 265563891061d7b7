"""`cdal export`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

__all__ = ["export"]


def export(
    checkpoint: Annotated[str, typer.Option(help="Training checkpoint, model folder, or bundled model.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Model folder to write; best.pt gives best.cdal.")
    ] = None,
    fp16: Annotated[bool, typer.Option("--fp16/--fp32", help="Store weights in half precision.")] = False,
    engines: Annotated[list[str] | None, typer.Option("--engine", help="auto or torchscript; repeatable.")] = None,
    data: Annotated[Path | None, typer.Option(help="Images to hold the engine against; else a synthetic one.")] = None,
    votes: Annotated[int | None, typer.Option(help="Instances that the engine averages.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the engine's noise.")] = None,
) -> None:
    """Fuse a model and its sampler into an engine, hold it against the reference, and write a model folder."""
    from cdal_export.exporter import export_model
    from cdal_sdk.errors import UsageError

    for engine in engines or ["auto"]:
        if engine not in ("auto", "torchscript"):
            raise UsageError(f"there is no engine '{engine}' to export", remedy="choose auto or torchscript")
    for name, value, least in (("--votes", votes, 1), ("--seed", seed, 0)):
        if value is not None and value < least:
            raise UsageError(f"{name} is {value}", remedy=f"give at least {least}")
    console = Console(soft_wrap=True, highlight=False)
    target = out or Path(f"{Path(checkpoint).stem}.cdal")
    say = partial(console.print, markup=False)
    if "auto" in (engines or ["auto"]):
        say("engine: torchscript, which every installation can build and run")
    exported = export_model(checkpoint, target, half=fp16, votes=votes, seed=seed, data=data, say=say)
    console.print(f"agreement: {exported.agreement}", markup=False)
    for name in exported.manifest.files:
        size = (exported.folder / name).stat().st_size / 1e6
        console.print(f"{exported.folder / name}  {size:.1f} MB", markup=False)
