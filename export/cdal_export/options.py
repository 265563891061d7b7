"""What an export shall make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cdal_sdk.engines import Precision
from cdal_sdk.gate import Limits

__all__ = ["ExportOptions"]

_LIMITS = Limits()


@dataclass(frozen=True)
class ExportOptions:
    """What an export shall make.

    Attributes:
        engines: names; "auto" is the best that this machine can build and run.
        precision: of the engines' convolutions; fp16 also stores the weights in half precision.
        votes: K of the engines and default of the exported model; None keeps the model's.
        seed: the same for the seed.
        data: images for the gate; without it, those that travel with the model, else a synthetic one.
        keep_images: store the gate's images in the model folder, so that later builds are held against them, too.
        islands: where half precision fails the gate, retry with the offending layers in float32.
        free_noise: engines take their noise as inputs; it is gated for two seeds.
        int8: quantise the engines, on cases that the gate does not see; it takes two at least.
        limits: of the gate.
    """

    engines: tuple[str, ...] = ("auto",)
    precision: Precision = "fp32"
    votes: int | None = None
    seed: int | None = None
    data: Path | None = None
    keep_images: bool = False
    islands: bool = False
    free_noise: bool = False
    int8: bool = False
    limits: Limits = _LIMITS
