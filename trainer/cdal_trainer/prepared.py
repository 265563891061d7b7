"""A labelled case as the network sees it: image and label map on the network's grid, by the very code of inference."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

import cdal_sdk
from cdal_sdk.atomic import atomic
from cdal_sdk.errors import DomainError, OutputError, ReadError, TrainingError
from cdal_sdk.readers.image import read_image
from cdal_sdk.readers.nifti import read_nifti
from cdal_sdk.slicing import Plan, Slices, check_domain, cut_slices, match_channels
from cdal_sdk.slicing.resample import resample
from cdal_sdk.study import Study
from cdal_trainer.cases import LabelledCase

__all__ = ["PreparedCase", "digest_of", "prepare_case", "prepare_cases", "read_image_of", "read_label"]

_WHITE = 255
_FORM = 2  # of cached cases; raised whenever they are prepared differently


@dataclass(frozen=True)
class PreparedCase:
    """A case as the network sees it, in whole slices.

    Attributes:
        name: of the case.
        images: float32 [slice, channel, h, w].
        labels: uint8 [slice, h, w], values of the label map.
        digest: identifies the content of its two files, wherever they lie.
    """

    name: str
    images: NDArray[np.float32]
    labels: NDArray[np.uint8]
    digest: str = ""


def read_image_of(case: LabelledCase, plan: Plan) -> Study:
    """The image of a case with the channels that the plan takes, refused where inference would refuse it.

    Raises:
        TrainingError: naming the file, if it cannot be used.
    """
    try:
        study = match_channels(_read(case.name, case.image), plan)
        check_domain(study, plan)
    except (ReadError, DomainError) as error:
        remedy = "leave the case out, or correct plan.domain" if isinstance(error, DomainError) else _remedy(error)
        raise TrainingError(error.what, where=case.image, remedy=remedy) from error
    return study


def read_label(case: LabelledCase, study: Study, values: set[int]) -> NDArray[np.uint8]:
    """The label map of a case, uint8 [i, j, k] on the image's grid.

    In a picture of a single label, white (255) stands for it.

    Raises:
        TrainingError: if it cannot be read, shape or place differ from the image's, a value is neither 0 nor in
            `values`, or a picture is transparent in places.
    """
    try:
        label = _read(case.name, case.label)
    except ReadError as error:
        raise TrainingError(error.what, where=case.label, remedy=_remedy(error)) from error
    if label.grid != study.grid:
        raise TrainingError(
            f"the label map has {label.grid} voxels, its image {study.grid}",
            where=case.label,
            remedy="give them the same grid",
        )
    if study.affine is not None and label.affine is not None and not np.allclose(label.affine, study.affine, atol=1e-3):
        raise TrainingError(
            "the label map lies elsewhere than its image", where=case.label, remedy="correct the affine"
        )
    if label.planar and _partly_transparent(case.label):
        raise TrainingError(
            "the label map is transparent in places, which says nothing of labels",
            where=case.label,
            remedy="save it in gray, without an alpha channel",
        )
    if not (label.image == label.image[:1]).all():
        raise TrainingError("the label map is a colour picture", where=case.label, remedy="save it in gray")
    stored = label.image[0]
    if label.planar and len(values) == 1 and _WHITE not in values:
        stored = np.where(stored == _WHITE, np.float32(next(iter(values))), stored)
    if extra := sorted({float(v) for v in np.unique(stored)} - {0.0, *map(float, values)}):
        raise TrainingError(
            f"the label map holds the value {extra[0]:g}, which is no label", where=case.label, remedy="map its labels"
        )
    mask: NDArray[np.uint8] = stored.astype(np.uint8)
    return mask


def _partly_transparent(path: Path) -> bool:
    """Whether a picture, which is read without its transparency, hides something in it."""
    if path.name.lower().endswith((".nii", ".nii.gz")):
        return False
    with Image.open(path) as picture:
        alpha = picture.getchannel("A") if "A" in picture.getbands() else None
    return alpha is not None and alpha.getextrema()[0] != alpha.getextrema()[1]


def prepare_case(case: LabelledCase, plan: Plan, values: set[int]) -> PreparedCase:
    """Read a case and take image and label to the network's grid.

    Raises:
        TrainingError: naming the file, if it cannot be used.
    """
    study = read_image_of(case, plan)
    mask = read_label(case, study, values)
    slices = cut_slices(study, plan)
    if plan.fit == "pad" and any(have > room for have, room in zip(slices.working_grid[:2], plan.canvas, strict=True)):
        raise TrainingError(
            f"its slices of {slices.working_grid[:2]} pixels are larger than the canvas {plan.canvas}",
            where=case.image,
            remedy="give a larger plan.canvas, or crop the case",
        )
    return PreparedCase(case.name, slices.images, _label_slices(mask, slices), digest_of(case))


def prepare_cases(cases: Iterable[LabelledCase], plan: Plan, values: set[int], cache: Path) -> list[PreparedCase]:
    """Prepare cases, or take them from a folder that an earlier run filled.

    A cached case is found by its files (path, size, time of change), the plan and our version; any other is prepared
    and added.

    Raises:
        TrainingError: naming the file of a case that cannot be used.
        OutputError: naming the file of the cache that cannot be written.
    """
    prepared = []
    for case in cases:
        files = [
            (str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in (case.image, case.label)
        ]
        identity = (files, plan, sorted(values), cdal_sdk.__version__, _FORM)
        path = cache / f"{hashlib.sha256(repr(identity).encode()).hexdigest()[:24]}.safetensors"
        try:
            arrays = load_file(path)
            digest = arrays["digest"].tobytes().decode()
            prepared.append(PreparedCase(case.name, arrays["images"], arrays["labels"], digest))
        except (OSError, KeyError, SafetensorError):  # not there, or damaged
            prepared.append(prepare_case(case, plan, values))
            _keep(prepared[-1], path)
    return prepared


def _keep(case: PreparedCase, path: Path) -> None:
    digest = np.frombuffer(case.digest.encode(), np.uint8)
    arrays: dict[str, NDArray[Any]] = {"images": case.images, "labels": case.labels, "digest": digest}
    try:
        with atomic(path) as aside:
            save_file(arrays, aside)
    except SafetensorError as error:  # its own writer raises it on a full disk
        raise OutputError(
            f"the prepared case cannot be written ({error})", where=path, remedy="free disk space, or give --cache"
        ) from error


def digest_of(case: LabelledCase) -> str:
    """Identifies the content of a case's two files, wherever they lie."""
    digest = hashlib.sha256()
    for path in (case.image, case.label):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _remedy(error: ReadError) -> str | None:
    """What the reader advises, unless it is an option that only segmenting has."""
    several = error.remedy is not None and "--volume" in error.remedy
    return "save one of its volumes as a file of its own" if several else error.remedy


def _label_slices(mask: NDArray[np.uint8], slices: Slices) -> NDArray[np.uint8]:
    """The label map on the slices' grid, [n, h, w]: in each voxel the label with the largest share of it."""
    oriented = np.ascontiguousarray(slices.reorientation.apply(mask[None]))
    values = np.unique(mask)
    shares = [resample((oriented == value).astype(np.float32), slices.working_grid)[0] for value in values]
    labels = values[np.argmax(shares, axis=0)].transpose(2, 0, 1)
    padding = [
        (0, 0),
        *((0, have - want) for have, want in zip(slices.images.shape[2:], labels.shape[1:], strict=True)),
    ]
    return np.pad(labels, padding)


def _read(name: str, path: Path) -> Study:
    return read_nifti(name, path) if path.name.lower().endswith((".nii", ".nii.gz")) else read_image(name, path)
