"""Table 1 of the paper as a loop over settings: what latent, attention and its scale are worth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from cdal_sdk.bundle import read_manifest
from cdal_sdk.writers import atomic
from cdal_trainer.recipe import Recipe

__all__ = ["ablation_table", "variants"]


def variants(part: Literal["latent", "attention", "scale"], recipe: Recipe) -> Mapping[str, tuple[str, ...]]:
    """The settings of each variant of a part of the method, by name.

    The scales are a 16th, an 8th and a 4th of the recipe's `image_size`: 16, 32 and 64 at the paper's 256.
    """
    match part:
        case "latent":
            return {"with-latent": (), "without-latent": ("network.latent=false",)}
        case "attention":
            return {"with-attention": (), "without-attention": ("attention.scale=0",)}
        case "scale":
            scales = (recipe.network.image_size // share for share in (16, 8, 4))
            return {f"scale-{scale}": (f"attention.scale={scale}",) for scale in scales}


def ablation_table(best: Mapping[str, Path], out: Path) -> str:
    """The validation Dice of each variant's best checkpoint as Markdown, and as JSON in `out`."""
    metrics = {name: dict(read_manifest(path).provenance.metrics) for name, path in best.items()}
    with atomic(out) as aside:
        aside.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    columns = list(next(iter(metrics.values())))
    lines = [f"| variant | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(f'{row[c]:.4f}' for c in columns)} |" for name, row in metrics.items()]
    return "\n".join(lines)
