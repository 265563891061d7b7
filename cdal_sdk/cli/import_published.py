"""`cdal import-published`: a checkpoint of the authors' release becomes one of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cdal_sdk.cli.paths import parse_path

__all__ = ["import_published"]


def import_published(
    checkpoint: Annotated[
        Path, typer.Argument(parser=parse_path, help="The published .pth with the generator's state dict.")
    ],
    config: Annotated[Path, typer.Option(parser=parse_path, help="The parameters.json of the published run.")],
    out: Annotated[Path, typer.Option("--out", "-o", parser=parse_path, help="Checkpoint to write, such as best.pt.")],
) -> None:
    """Turn a published cDAL checkpoint into one that `cdal export` and `cdal segment` take."""
    from cdal_sdk.bundle import convert_published

    manifest = convert_published(checkpoint, config, out)
    console = Console(soft_wrap=True, highlight=False)
    console.print(
        f"{out}: {manifest.name}, T = {len(manifest.betas)}, K = {manifest.votes}, "
        f"labels {', '.join(label.name for label in manifest.labels)}",
        markup=False,
    )
