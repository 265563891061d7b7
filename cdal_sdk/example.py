"""A synthetic MR crop with its known mask, so that anybody can try the tool without data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdal_sdk.phantom import synthesise
from cdal_sdk.study import Source, Study
from cdal_sdk.writers import write_mr_series, write_nifti

__all__ = ["Example", "example_study", "write_example"]

_SHAPE = (36, 52, 36)
# Axial slices of 1 mm, columns to the patient's left, rows to the back, as a scanner stores them.
_CENTRE = np.array([-27.0, -21.0, -14.0])  # of the hippocampus, RAS millimetres from the middle of the head
_FIRST_VOXEL = np.array([20.5, 23.5, -15.5])  # from that centre


@dataclass(frozen=True)
class Example:
    """What was written.

    Attributes:
        dicom: the folder of the DICOM series.
        nifti: the folder with the same image as NIfTI, and nothing else.
        label: the known mask as NIfTI (1 anterior, 2 posterior); marked as labels, so that it is no input.
    """

    dicom: Path
    nifti: Path
    label: Path


def write_example(out: Path) -> Example:
    """Write a synthetic T1-weighted crop around a left hippocampus, the same voxels as DICOM and as NIfTI.

    It is the same every time. The names of the DICOM files do not follow the order of the slices, as in many exports.

    Args:
        out: folder, made as needed; older files of an example are replaced.

    Returns:
        Where things are.

    Raises:
        OutputError: a file cannot be written.
    """
    image, mask, affine = _synthetic()
    study = _study(image, affine)
    example = Example(out / "dicom", out / "nifti", out / "example_label.nii.gz")
    numbers = np.random.default_rng(0).permutation(image.shape[2])
    names = [f"IM{number:04d}.dcm" for number in numbers]
    write_mr_series(image, affine, example.dicom, names, "Synthetic^Example")
    write_nifti(study.image[0], study, example.nifti / "example.nii.gz")
    write_nifti(mask, study, example.label)
    return example


def example_study() -> Study:
    """The example in memory."""
    image, _, affine = _synthetic()
    return _study(image, affine)


def _study(image: NDArray[np.int16], affine: NDArray[np.float64]) -> Study:
    return Study("example", image[np.newaxis].astype(np.float32), affine, Source("array"), modality="MR")


def _synthetic() -> tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.float64]]:
    """Image, mask and affine."""
    around_hippocampus = np.diag([-1.0, -1.0, 1.0, 1.0])
    around_hippocampus[:3, 3] = _FIRST_VOXEL
    image, mask = synthesise(_SHAPE, around_hippocampus)
    affine = around_hippocampus.copy()
    affine[:3, 3] += _CENTRE
    return image, mask, affine
