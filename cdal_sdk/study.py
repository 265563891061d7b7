"""The data that travels: an image with its geometry on the way in, a segmentation on the way out.

In memory all geometry is RAS (x grows to the patient's right, y to anterior, z to superior), in millimetres
and float64. Only the DICOM modules speak LPS.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Code", "Label", "LabelSize", "Segmentation", "Source", "SourceKind", "Study", "View"]

SourceKind = Literal["nifti", "dicom", "image", "array"]
View = Literal["frontal", "lateral", "turned"]


@dataclass(frozen=True)
class Source:
    """Where a study came from.

    Attributes:
        kind: the family of the format.
        paths: the files, for a DICOM series in the order of the slices along the last array axis.
        frames: those that were read of a multi-frame file with several volumes, from 0; empty for all.
    """

    kind: SourceKind
    paths: tuple[Path, ...] = ()
    frames: tuple[int, ...] = ()


@dataclass(frozen=True)
class Study:
    """One case as it was read, before any preparation.

    Attributes:
        case: its name in outputs: the file's stem, or the SeriesInstanceUID.
        image: float32 [channel, i, j, k]. For a volume, i, j, k are the source's voxel axes (for DICOM: column, row,
            slice). For a planar image: [channel, row, column, 1].
        affine: float64 [4, 4], voxel index (i, j, k) to RAS millimetres; None for a planar image.
        pixel_spacing: (between rows, between columns) in mm of a planar image, where known.
        modality: the DICOM modality ("MR", "CT", "CR", "DX", ...) where the source says so.
        view: how a projection shows the patient, where the source says so; "turned" is not upright.
        source: the files that it was read from.
        doubts: what about the source somebody should look at, in words.
        burnt_in: whether the pixels may show the patient's name, so that no preview may show them.
    """

    case: str
    image: NDArray[np.float32]
    affine: NDArray[np.float64] | None
    source: Source
    pixel_spacing: tuple[float, float] | None = None
    modality: str | None = None
    view: View | None = None
    doubts: tuple[str, ...] = ()
    burnt_in: bool = False

    @property
    def planar(self) -> bool:
        """Whether this is a single 2-D picture without a place in the patient."""
        return self.affine is None

    @property
    def grid(self) -> tuple[int, int, int]:
        """Voxels along i, j, k."""
        i, j, k = self.image.shape[1:]
        return i, j, k

    @property
    def spacing(self) -> tuple[float, float, float] | None:
        """Millimetres between voxel centres along i, j, k; None where unknown."""
        if self.affine is None:
            return None if self.pixel_spacing is None else (*self.pixel_spacing, 1.0)
        i, j, k = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return float(i), float(j), float(k)


@dataclass(frozen=True)
class Code:
    """A coded concept, by default of SNOMED CT."""

    value: str
    meaning: str
    scheme: str = "SCT"


@dataclass(frozen=True)
class Label:
    """A structure that a model segments.

    Attributes:
        name: as in reports.
        value: its number in masks, 1 to 255.
        type: what it is, coded.
        modifier: which part or side of that, coded, where the type alone does not say.
        category: the kind of thing that it is, coded.
        colour: sRGB, for contours and viewers.
    """

    name: str
    value: int
    type: Code
    modifier: Code | None = None
    category: Code = Code("123037004", "Anatomical Structure")
    colour: tuple[int, int, int] = (230, 60, 60)


@dataclass(frozen=True)
class LabelSize:
    """How large a label is, with the interval that the votes leave open.

    Volumes are in millilitres (1 ml = 1000 mm^3), areas in pixels and mm^2. What does not apply is None.
    """

    volume_ml: float | None = None
    volume_ml_interval: tuple[float, float] | None = None
    area_px: int | None = None
    area_px_interval: tuple[int, int] | None = None
    area_mm2: float | None = None


@dataclass(frozen=True)
class Segmentation:
    """The result for one case, on the voxel grid of its source.

    Attributes:
        study: the study that was segmented.
        mask: uint8 [i, j, k], 0 for background, else the label's number.
        probability: float32 [label, i, j, k] in [0, 1], the vote mean of each foreground label.
        spread: float32 [label, i, j, k], standard deviation over the votes on the same scale.
        volumes: size by label name.
    """

    study: Study
    mask: NDArray[np.uint8]
    probability: NDArray[np.float32]
    spread: NDArray[np.float32]
    volumes: dict[str, LabelSize]

    @property
    def case(self) -> str:
        """The case's name in outputs."""
        return self.study.case

    @cached_property
    def mean_spread(self) -> float:
        """Mean spread over the voxels that any label claims (probability over one half); 0 where none does."""
        claimed = (self.probability > 0.5).any(axis=0)
        return float(self.spread.max(axis=0)[claimed].mean()) if claimed.any() else 0.0
