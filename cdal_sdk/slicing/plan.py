"""How a model wants its images: part of the manifest, so that training and inference can never differ in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cdal_sdk.errors import ModelError
from cdal_sdk.study import View

__all__ = ["Domain", "Fit", "Intensity", "Plan"]

Fit = Literal["pad", "resize", "tile"]


@dataclass(frozen=True)
class Intensity:
    """How raw values become the network's input.

    Attributes:
        method: "percentile" maps the case's percentiles (low, high) linearly to `target` and clips there (0 and 100
            are its minimum and maximum); "fixed" does so with the raw values (low, high); "standardise" subtracts
            `mean` and divides by `std`, a channel each.
        low: lower percentile or raw value.
        high: upper percentile or raw value.
        target: range of the result.
        mean: of each channel, in raw values.
        std: of each channel, in raw values.
    """

    method: Literal["percentile", "fixed", "standardise"]
    low: float = 0.0
    high: float = 100.0
    target: tuple[float, float] = (-1.0, 1.0)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True)
class Domain:
    """What the model was made for. An empty or absent bound does not restrict.

    Attributes:
        modalities: DICOM modalities; a source that does not tell its modality passes.
        spacing_mm: smallest and largest spacing on any axis.
        extent_mm: smallest and largest field of view on any axis.
        values: smallest and largest raw value, for models that map fixed values.
        views: of a projection; a source that does not tell its view passes.
    """

    modalities: tuple[str, ...] = ()
    spacing_mm: tuple[float, float] | None = None
    extent_mm: tuple[float, float] | None = None
    values: tuple[float, float] | None = None
    views: tuple[View, ...] = ()


@dataclass(frozen=True)
class Plan:
    """From a study to 2-D network inputs.

    Attributes:
        kind: whether the model takes volumes (cut into slices) or planar images.
        channels: channels of the source image: 1 gray, 3 RGB.
        intensity: mapping of the raw values.
        fit: how a slice gets the network's size: "pad" at the far edges to the divisor, "resize" to `canvas`, or
            "tile" it. A padded slice larger than the canvas is tiled, too.
        canvas: largest height and width that the network sees, and the extent of its noise.
        divisor: height and width are multiples of this.
        orientation: closest anatomical directions of the array axes of a volume; slices lie along the last.
        spacing_mm: spacing of a volume's axes before slicing, or None to keep the source's.
        context: neighbouring slices on each side that are stacked as further channels.
        resize_to: height and width to which a planar image is scaled before it is tiled.
        scale: pixels of the network's for one of a planar image's before it is tiled, which keeps the magnification
            whatever the picture's size; instead of `resize_to`.
        overlap: share of a tile that overlaps its neighbour.
        domain: what is accepted.
    """

    kind: Literal["volume", "planar"]
    channels: int
    intensity: Intensity
    fit: Fit
    canvas: tuple[int, int]
    divisor: int
    orientation: str = "RAS"
    spacing_mm: tuple[float, float, float] | None = None
    context: int = 0
    resize_to: tuple[int, int] | None = None
    scale: float | None = None
    overlap: float = 0.5
    domain: Domain = field(default_factory=Domain)

    def __post_init__(self) -> None:
        counts = {"channels": self.channels, "divisor": self.divisor, "canvas": min(self.canvas)}
        for name, value in counts.items():
            if value < 1:
                raise ModelError(f"{name} is {value}", where="plan", remedy="give it at least 1")
        if any(side % self.divisor for side in self.canvas):
            raise ModelError(
                f"the canvas {self.canvas} is no multiple of {self.divisor}", where="plan", remedy="choose one that is"
            )
        if self.context < 0:
            raise ModelError(f"context is {self.context}", where="plan", remedy="give it at least 0")
        moments = (len(self.intensity.mean), len(self.intensity.std))
        if self.intensity.method == "standardise" and moments != (self.channels, self.channels):
            raise ModelError(
                f"intensity has {moments[0]} mean(s) and {moments[1]} std(s) for {self.channels} channel(s)",
                where="plan",
                remedy="give one of each a channel",
            )
        if self.scale is not None and (self.scale <= 0 or self.resize_to is not None or self.fit == "resize"):
            what = f"a scale of {self.scale} is impossible, or another size is asked for"
            raise ModelError(what, where="plan", remedy="give one positive scale, or a size")
        if not 0 <= self.overlap < 1:
            raise ModelError(f"overlap is {self.overlap}", where="plan", remedy="give a share from 0 to below 1")

    @property
    def fixed_size(self) -> bool:
        """Whether every network input has the canvas's size; else any multiples of the divisor below it."""
        return self.fit != "pad"

    @property
    def by_parts(self) -> bool:
        """Whether a picture of any size can be segmented part by part: nothing depends on the whole of it."""
        local = self.intensity.method != "percentile" and self.resize_to is None
        return self.kind == "planar" and self.fit == "tile" and self.context == 0 and local

    @property
    def image_channels(self) -> int:
        """Channels that the network sees, context included."""
        return self.channels * (2 * self.context + 1)
