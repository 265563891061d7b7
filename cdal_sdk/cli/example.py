"""`cdal example`: a synthetic image to try the tool on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cdal_sdk.cli.paths import parse_path

__all__ = ["example"]


def example(
    out: Annotated[Path, typer.Option("--out", "-o", parser=parse_path, help="Folder to write to.")],
) -> None:
    """Write a small synthetic MR crop as a DICOM series and as NIfTI, with its known mask."""
    from cdal_sdk.example import write_example

    write_example(out)
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"A synthetic example is in {out}. Try: cdal segment {out} --out masks", markup=False)
