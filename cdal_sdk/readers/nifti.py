"""NIfTI-1 and NIfTI-2 volumes, compressed or not, to studies."""

from __future__ import annotations

import gzip
import math
import zlib
from itertools import product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from cdal_sdk.errors import ReadError
from cdal_sdk.readers.limits import LIMITS, check_slices, check_voxels
from cdal_sdk.study import Source, Study

__all__ = ["read_labels", "read_nifti", "to_millimetres"]

_SPATIAL = 0b111  # bits of xyzt_units
_MILLIMETRES = {1: 1000.0, 3: 0.001}  # of a metre and of a micron, by their code
_SAME_SPACING = 0.01  # by which, as a share, two ways to tell it may differ
_RIGHT_ANGLE_DEGREES = 5  # by which axes may miss it: registration to a template shears a little


def read_nifti(case: str, path: Path, volume: int | None = None) -> Study:
    """Read one NIfTI volume.

    The affine is the one that nibabel chooses: the sform where its code is set, else the qform, else the spacing; in
    millimetres, whatever the file's unit.

    Args:
        case: its name in outputs.
        path: the file; whether it is compressed is seen from its content.
        volume: the one to take of a file with several, from 0; None refuses such a file.

    Returns:
        [1, i, j, k] on the file's own axes, scaled as the header says; a 2-D file is a volume of one slice. It is a
        doubt if the file does not say how it lies in the patient or says it in two ways that differ, or if its axes
        are not at right angles.

    Raises:
        ReadError: the file is truncated or damaged, holds more than one volume or no usable geometry.
    """
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if packed else path.open("rb") as stream:
            head = stream.read(8)
            stream.seek(0)
            kind: Any = nibabel.Nifti2Image if head[4:7] == b"n+2" else nibabel.Nifti1Image
            stored = kind.header_class.from_fileobj(stream, check=False)  # as it is, before nibabel repairs it
            _check_offset(stored, path)
            stream.seek(0)
            file = kind.from_stream(stream)
            _check_content(file, path, volume)
            _check_spacing(stored, min(len(file.shape), 3), path)
            voxels = np.asanyarray(file.dataobj, dtype=np.float32)
            if volume is not None and voxels.ndim > 3:
                voxels = voxels.reshape(*voxels.shape[:3], -1)[..., volume]
            stream.read(1)  # reaching the end makes gzip verify its checksum
    except (OSError, EOFError, ValueError, zlib.error, nibabel.spatialimages.HeaderDataError) as error:
        raise ReadError(
            f"the NIfTI file is truncated or damaged ({type(error).__name__})",
            where=path,
            remedy="copy or export it again",
        ) from error
    if not np.isfinite(voxels).all():
        raise ReadError("some voxels are not finite numbers", where=path, remedy="replace NaN and infinity first")
    affine = to_millimetres(file.header) @ np.asarray(file.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ReadError("the affine is singular or not finite", where=path, remedy="repair its sform or qform")
    while voxels.ndim < 3:
        voxels = voxels[..., np.newaxis]
    image = voxels.reshape(1, *voxels.shape[:3])
    return Study(case, image, affine, Source("nifti", (path,)), doubts=_doubts(file.header, affine))


def _doubts(header: Any, affine: NDArray[np.float64]) -> tuple[str, ...]:
    """What a model, which sees the patient from one side and voxels as cuboids, may not be given."""
    doubts = []
    if not (header["sform_code"] or header["qform_code"]):
        doubts.append("the file does not say how it lies in the patient, so that sides may be swapped")
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    largest = max(abs(float(axes[:, one] @ axes[:, other])) for one, other in ((0, 1), (0, 2), (1, 2)))
    missed = math.degrees(math.asin(min(largest, 1.0)))
    if missed > _RIGHT_ANGLE_DEGREES:
        doubts.append(f"its axes miss the right angle by {missed:.0f} degrees, as with a gantry tilt")
    count = min(int(header["dim"][0]), 3)
    sides = np.linalg.norm(header.get_sform()[:3, :count], axis=0)
    if header["sform_code"] > 0 and not np.allclose(np.abs(header["pixdim"][1 : count + 1]), sides, rtol=_SAME_SPACING):
        doubts.append("its sform and pixdim tell another spacing, so that sizes may be wrong")
    return (*doubts, *_disagreement(header))


def _disagreement(header: Any) -> tuple[str, ...]:
    """A doubt where the header has two affines, sform and qform, that do not mean the same."""
    if header["sform_code"] <= 0 or header["qform_code"] <= 0:
        return ()
    used: NDArray[np.float64] = header.get_sform()
    try:
        other: NDArray[np.float64] = header.get_qform()
    except (ValueError, nibabel.spatialimages.HeaderDataError):
        other = np.full((4, 4), np.nan)
    if not np.isfinite(other).all():
        return ("its qform is damaged, so that its sform may be, too",)
    if np.linalg.det(used[:3, :3]) * np.linalg.det(other[:3, :3]) < 0:
        return ("its sform and qform mirror each other, so that sides may be swapped",)
    if header["sform_code"] != header["qform_code"]:  # as scanned, and aligned to something: alike but for that
        differ = nibabel.aff2axcodes(used) != nibabel.aff2axcodes(other)  # type: ignore[no-untyped-call]
    else:
        sizes = [*header.get_data_shape()[:3], 1][:3]
        corners = np.array([(*corner, 1) for corner in product(*((0, size - 1) for size in sizes))])
        apart = np.linalg.norm(corners @ (used - other)[:3].T, axis=1).max()
        differ = apart > np.linalg.norm(used[:3, :3], axis=0).min()
    return ("its sform and qform place it differently in the patient",) if differ else ()


def _check_offset(header: Any, path: Path) -> None:
    offset = float(header["vox_offset"])
    if not offset <= LIMITS.header_bytes:
        raise ReadError("the voxels do not follow the header", where=path, remedy="copy or export it again")


def _check_spacing(header: Any, axes: int, path: Path) -> None:
    """Where the sform does not tell the spacing, nibabel makes 1 of one that is missing."""
    spacing = header["pixdim"][1 : axes + 1]  # of either sign, which once said where left is
    if header["sform_code"] <= 0 and not (np.isfinite(spacing) & (spacing != 0)).all():
        raise ReadError(
            "the file does not tell its spacing", where=path, remedy="repair its pixdim, or export it again"
        )


def _check_content(file: Any, path: Path, volume: int | None) -> None:
    shape = file.shape
    if len(shape) < 2 or 0 in shape:
        raise ReadError(f"the NIfTI file holds no image, its shape is {shape}", where=path, remedy="give a 3-D volume")
    volumes = math.prod(shape[3:])
    if volume is None and volumes > 1:
        raise ReadError(
            f"the NIfTI file holds more than one volume, its shape is {shape}",
            where=path,
            remedy="choose one with --volume, counted from 0",
        )
    if volume is not None and not 0 <= volume < volumes:
        raise ReadError(
            f"there is no volume {volume}, it has {volumes}", where=path, remedy="choose another --volume, from 0"
        )
    check_slices(volumes * (shape[2] if len(shape) > 2 else 1), path)
    check_voxels((shape[0], shape[1], math.prod(shape[2:])), 1, path)
    if file.dataobj.dtype.kind not in "iuf":
        raise ReadError("the NIfTI file holds colours or complex numbers", where=path, remedy="give real gray values")


def read_labels(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """A mask and its affine, voxel index to RAS millimetres.

    Raises:
        Exception: whatever nibabel raises for a damaged file.
    """
    file: Any = nibabel.load(path)
    voxels = np.asarray(file.dataobj)
    while voxels.ndim < 3:
        voxels = voxels[..., np.newaxis]
    affine = to_millimetres(file.header) @ np.asarray(file.affine, np.float64)
    return voxels.reshape(voxels.shape[:3]).astype(np.uint8, casting="safe"), affine


def to_millimetres(header: Any) -> NDArray[np.float64]:
    """The matrix [4, 4] from a header's unit of length; one that it does not name is taken for the millimetre."""
    return np.diag([*[_MILLIMETRES.get(int(header["xyzt_units"]) & _SPATIAL, 1.0)] * 3, 1.0])
