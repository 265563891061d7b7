"""A tiny model and its manifest."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch

from cdal_sdk.bundle import Provenance
from cdal_sdk.network import Generator
from cdal_sdk.study import Code, Label
from tests.tiny_model import VOLUME

MANIFEST = replace(
    VOLUME,
    labels=(
        Label("Head", 1, Code("5366008", "Hippocampus"), Code("255549009", "Anterior"), colour=(1, 2, 3)),
        Label("Täil", 4, Code("5366008", "Hippocampus")),
    ),
    plan=replace(VOLUME.plan, orientation="LPI", spacing_mm=(1.0, 1.0, 1.2)),
    votes=3,
    seed=11,
    provenance=Provenance("CC0-1.0", "none", "nobody", "0 and 0", {"dice": 0.1}, "not for use"),
)
"""An entry of every kind."""


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict of the tiny network."""
    return dict(_weights(seed))


@cache
def _weights(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return Generator(MANIFEST.network).state_dict()
