"""Table 1 of the paper as a loop over settings: what latent, attention and its scale are worth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from cdal_sdk.atomic import atomic
from cdal_sdk.bundle import read_manifest
from cdal_sdk.errors import UsageError
from cdal_trainer.recipe import Recipe

__all__ = ["ablation_table", "variants"]


def variants(part: Literal["latent", "attention", "scale"], recipe: Recipe) -> Mapping[str, tuple[str, ...]]:
    """The settings of each variant of a part of the method, by name.

    The scales are the recipe's own and its neighbours: 16, 32 and 64 at the paper's sizes.

    Raises:
        UsageError: if the recipe does not have that part.
    """
    scale = recipe.attention.scale
    if recipe.method != "cdal" or (scale is None and part != "latent"):
        raise UsageError(f"this recipe has no {part} to ablate", remedy="take one of cDAL with attention")
    match part:
        case "latent":
            return {"with-latent": ("network.latent=true",), "without-latent": ("network.latent=false",)}
        case "attention":
            return {"with-attention": (f"attention.scale={scale}",), "without-attention": ("attention.scale=0",)}
        case "scale":
            there = [recipe.network.image_size // share for share in (16, 8, 4, 2)]  # levels of the discriminator
            first = min(max(there.index(scale) - 1, 0), 1) if scale in there else 0
            return {f"scale-{s}": (f"attention.scale={s}",) for s in there[first : first + 3]}


def ablation_table(best: Mapping[str, Path], out: Path) -> str:
    """The validation Dice of each variant's best checkpoint as Markdown, and as JSON in `out`."""
    metrics = {name: dict(read_manifest(path).provenance.metrics) for name, path in best.items()}
    with atomic(out) as aside:
        aside.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    columns = list(next(iter(metrics.values())))
    lines = [f"| variant | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(f'{row[c]:.4f}' for c in columns)} |" for name, row in metrics.items()]
    return "\n".join(lines)
