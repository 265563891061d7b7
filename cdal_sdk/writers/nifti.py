"""Masks and probabilities as NIfTI, on the voxels of their source."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from cdal_sdk.atomic import atomic
from cdal_sdk.errors import OutputError
from cdal_sdk.study import Study

__all__ = ["write_nifti", "write_nifti_maps"]

_SCANNER, _ALIGNED = 1, 2  # what the affine refers to: NIFTI_XFORM_SCANNER_ANAT and NIFTI_XFORM_ALIGNED_ANAT

_SPATIAL = 0b111  # bits of xyzt_units
_MILLIMETRES = {1: 1000.0, 3: 0.001}  # of a metre and of a micron, by their code


def write_nifti(array: NDArray[np.uint8] | NDArray[np.float32], study: Study, path: Path) -> None:
    """Write one map on a study's grid as NIfTI, and read it back.

    Where the study came from NIfTI, the file has the source's shape, affine, sform and qform codes and units.
    Otherwise it has the study's affine with the code for scanner coordinates. A planar picture, which has no place
    in the patient, is written as [column, row, 1] with the first row on top, as other converters do.

    Args:
        array: a mask, uint8 [i, j, k], or an image, float32.
        study: the study that it belongs to.
        path: ends in .nii or .nii.gz.

    Raises:
        OutputError: the shapes differ, the file cannot be written or does not read back as intended.
    """
    _write(array, study, path, "label" if array.dtype == np.uint8 else "none")


def write_nifti_maps(maps: NDArray[np.float32], study: Study, path: Path) -> None:
    """Write one map per label, such as the vote mean or spread, as 4-D NIfTI with the labels last.

    Args:
        maps: float32 [label, i, j, k].
        study: the study that they belong to.
        path: ends in .nii or .nii.gz.

    Raises:
        OutputError: the shapes differ, the file cannot be written or does not read back as intended.
    """
    _write(np.moveaxis(maps, 0, -1), study, path, "estimate")


def _write(array: NDArray[np.uint8] | NDArray[np.float32], study: Study, path: Path, intent: str) -> None:
    """Write [i, j, k] or [i, j, k, label]. The intent keeps results from being taken for images to segment."""
    if array.shape[:3] != study.grid:
        raise OutputError(f"the shape {array.shape[:3]} of the result is not that of its source, {study.grid}")
    image = _like_source(array, study) if study.source.kind == "nifti" else _in_scanner(array, study)
    image.header.set_intent(intent)
    with atomic(path) as temporary:
        nibabel.save(image, temporary)
        _check(temporary, image, path)


def _like_source(array: NDArray[np.uint8] | NDArray[np.float32], study: Study) -> Any:
    source = study.source.paths[0]
    kind, header = _header(source)
    affine = header.get_best_affine()
    unit = _MILLIMETRES.get(int(header["xyzt_units"]) & _SPATIAL, 1.0)  # the file keeps its own, studies have none
    if study.affine is None or not np.allclose(np.diag([unit, unit, unit, 1]) @ affine, study.affine):
        raise OutputError("the source has changed since it was read", where=source, remedy="run the case again")
    header.set_data_dtype(array.dtype)
    header.set_slope_inter(1, 0)
    header["cal_max"] = header["cal_min"] = 0  # the source's display window
    for text in {"descrip", "aux_file", "db_name", "intent_name"}.intersection(header.keys()):
        header[text] = b""  # free text of the source, where names of patients may stand
    header.extensions.clear()
    shape = header.get_data_shape()
    if array.ndim == 3 and math.prod(shape) == array.size:  # else one volume of several
        array = array.reshape(shape)
    return kind(array, affine, header)


def _header(path: Path) -> tuple[Any, Any]:
    """The class of image (NIfTI-1 or 2) and the header of a file, compressed or not."""
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    with gzip.open(path) if packed else path.open("rb") as stream:
        head = stream.read(8)
        stream.seek(0)
        kind: Any = nibabel.Nifti2Image if head[4:7] == b"n+2" else nibabel.Nifti1Image
        return kind, kind.header_class.from_fileobj(stream)


def _in_scanner(array: NDArray[np.uint8] | NDArray[np.float32], study: Study) -> Any:
    if study.affine is not None:
        affine, code = study.affine, _SCANNER
    else:
        rows, columns = study.pixel_spacing or (1.0, 1.0)
        affine, code = np.diag([-columns, -rows, 1.0, 1.0]), _ALIGNED
        array = array.swapaxes(0, 1)
    kind: Any = nibabel.Nifti1Image
    image = kind(array, affine)
    image.set_sform(affine, code=code)
    image.set_qform(affine, code=code)
    image.header.set_xyzt_units(xyz="mm")
    return image


def _check(written: Path, image: Any, path: Path) -> None:
    again: Any = nibabel.load(written)
    same = (
        again.shape == image.shape
        and np.allclose(again.affine, image.affine, rtol=1e-5, atol=1e-4)
        and np.array_equal(np.asanyarray(again.dataobj), np.asanyarray(image.dataobj))
    )
    if not same:
        raise OutputError("the NIfTI file does not read back as it was written", where=path, remedy="check the disk")
