"""`cdal info`: which models there are, and what one of them is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from cdal_sdk.cli.output import tell
from cdal_sdk.cli.paths import parse_name

if TYPE_CHECKING:
    from cdal_sdk.bundle import Manifest

__all__ = ["info"]


def info(
    model: Annotated[
        str | None, typer.Argument(parser=parse_name, help="Bundled model, model folder or checkpoint.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell about the installation and its models, or about one model."""
    from cdal_sdk.bundle import bundled_models, manifest_to_json, read_manifest

    console = Console(soft_wrap=True, highlight=False)
    if model is None:
        installation = _installation()
        models = {name: read_manifest(name).description for name in bundled_models()}
        if as_json:
            tell(json.dumps({**installation, "models": models}, indent=2) + "\n")
            return
        console.print(_table({**installation, **{f"model {name}": text for name, text in models.items()}}))
        return
    manifest = read_manifest(model)
    if as_json:
        tell(manifest_to_json(manifest))
    else:
        console.print(_table(_describe(manifest)))


def _installation() -> dict[str, str]:
    import platform

    import torch

    import cdal_sdk

    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "cdal-sdk": cdal_sdk.__version__,
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "CUDA device": cuda,
        "threads": str(torch.get_num_threads()),
    }


def _describe(manifest: Manifest) -> dict[str, str]:
    plan, provenance = manifest.plan, manifest.provenance
    spacing = plan.domain.spacing_mm
    modalities = f", {', '.join(plan.domain.modalities)}" if plan.domain.modalities else ""
    rows = {
        "model": f"{manifest.name}, version {manifest.version}",
        "what": manifest.description,
        "labels": ", ".join(f"{label.value} {label.name}" for label in manifest.labels),
        "input": f"{plan.kind}, {plan.channels} channel(s){modalities}",
        "spacing": "any" if spacing is None else f"{spacing[0]:g} to {spacing[1]:g} mm",
        "sampler": f"T = {len(manifest.betas)}, K = {manifest.votes}, seed {manifest.seed}",
        "licence": provenance.licence,
        "data": provenance.data,
        "split": provenance.split,
        "metrics": ", ".join(f"{name} {value:.4g}" for name, value in provenance.metrics.items()),
        "limits": provenance.limits,
        "cite": provenance.citation,
    }
    return {name: text for name, text in rows.items() if text}


def _table(rows: dict[str, str]) -> Table:
    from rich.text import Text

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows.items():
        table.add_row(name, Text(text))
    return table
