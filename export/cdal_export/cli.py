"""`cdal export`."""

from __future__ import annotations

import json
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from cdal_sdk.cli.output import tell
from cdal_sdk.cli.paths import parse_name, parse_path

if TYPE_CHECKING:
    from cdal_export.exporter import Exported
    from cdal_export.workshop import Say

__all__ = ["export"]


def export(
    checkpoint: Annotated[
        str, typer.Option(parser=parse_name, help="Training checkpoint, model folder, or bundled model.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", parser=parse_path, help="Model folder to write; best.pt gives best.cdal."),
    ] = None,
    precision: Annotated[
        Literal["fp32", "fp16", "bf16"] | None, typer.Option(hidden=True, help="The same as the three flags.")
    ] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Half precision: engines and stored weights.")] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Engines in bfloat16.")] = False,
    fp32: Annotated[bool, typer.Option("--fp32", help="Everything in single precision (default).")] = False,
    engines: Annotated[
        list[str] | None,
        typer.Option("--engine", help="auto, or a name of docs/export.md; repeatable."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(parser=parse_path, help="Images to hold the engine against; else a synthetic one.")
    ] = None,
    keep_images: Annotated[
        bool, typer.Option("--keep-images", help="Store these images in the model, for engines built later.")
    ] = False,
    islands: Annotated[
        bool, typer.Option("--islands", help="Where half precision fails, retry with the worst layers in float32.")
    ] = False,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8", help="Quantise OpenVINO or TensorRT-RTX after training, on half of the cases of --data."
        ),
    ] = False,
    free_noise: Annotated[
        bool, typer.Option("--free-noise", help="Engines that take their noise as inputs, for any seed.")
    ] = False,
    triton: Annotated[
        Path | None,
        typer.Option(parser=parse_path, help="Also write a Triton model repository; with --engine onnx or tensorrt."),
    ] = None,
    votes: Annotated[int | None, typer.Option(help="Instances that the engine averages.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the engine's noise.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Fuse a model and its sampler into engines, hold them against the reference, and write a model folder."""
    from cdal_export.exporter import ExportOptions, export_model
    from cdal_export.triton import check_engines, write_repository
    from cdal_sdk.atomic import check_place
    from cdal_sdk.engines import check_engine_name
    from cdal_sdk.errors import UsageError

    names = tuple(check_engine_name(engine) for engine in engines or ["auto"])
    for name, value, least in (("--votes", votes, 1), ("--seed", seed, 0)):
        if value is not None and value < least:
            raise UsageError(f"{name} is {value}", remedy=f"give at least {least}")
    target = out or Path(f"{Path(checkpoint).stem}.cdal")
    if triton is not None:
        check_engines(names, free_noise=free_noise)
        if target.resolve() in (triton.resolve(), *triton.resolve().parents):
            raise UsageError("the Triton repository would lie in the model folder", remedy="choose another --triton")
        check_place(triton / "config.pbtxt")
    flags = {"fp16": fp16, "bf16": bf16, "fp32": fp32}
    chosen = [name for name, given in flags.items() if given or name == precision]
    if len(chosen) > 1:
        raise UsageError(f"--{chosen[0]} and --{chosen[1]} exclude each other", remedy="give one of them")
    console = Console(soft_wrap=True, highlight=False, stderr=as_json)
    say = partial(console.print, markup=False)
    options = ExportOptions(
        engines=names,
        precision=chosen[0] if chosen else "fp32",  # type: ignore[arg-type]
        votes=votes,
        seed=seed,
        data=data,
        keep_images=keep_images,
        islands=islands,
        free_noise=free_noise,
        int8=int8,
    )
    if int8 and "fp32" in chosen:
        raise UsageError("--int8 and --fp32 exclude each other", remedy="leave one of them out")
    with console.status("exporting") if console.is_terminal else nullcontext():
        exported = export_model(checkpoint, target, options, say)
    written = [] if triton is None else write_repository(exported, triton)  # what is printed may be lost
    if as_json:
        tell(json.dumps(exported.to_data(), indent=2) + "\n")
    else:
        _tell(exported, say)
    for path in written:
        say(f"{path}")


def _tell(exported: Exported, say: Say) -> None:
    """How far each engine is from the reference, and the files."""
    for engine in exported.engines:
        say(f"{engine.name} in {engine.precision}: {engine.agreement or 'not yet gated'}")
        if engine.rehearsal is not None:
            say(f"  its arithmetic, emulated on the CPU: {engine.rehearsal}")
        for step in engine.steps:
            say(f"  {step}")
    for name in exported.manifest.files:
        say(f"{exported.folder / name}  {(exported.folder / name).stat().st_size / 1e6:.1f} MB")
