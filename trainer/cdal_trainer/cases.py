"""Labelled cases as users have them on disk: a Decathlon folder, or a folder of images beside one of masks."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from cdal_sdk.bundle import composed
from cdal_sdk.errors import TrainingError, UsageError

__all__ = ["LabelledCase", "decathlon_cases", "labelled_cases", "paired_cases"]

_SUFFIXES = (".nii.gz", ".nii", ".png", ".jpg", ".jpeg", ".tif", ".tiff")
_BESIDES = (".txt", ".csv", ".json", ".md", "readme", "thumbs.db", "desktop.ini")  # may lie among the images
_MASK_ENDINGS = ("", "_mask", "_label", "_seg")  # of a mask's name after its image's


@dataclass(frozen=True)
class LabelledCase:
    """An image with its label map, both on disk."""

    name: str
    image: Path
    label: Path


def labelled_cases(folder: Path, pattern: str = "*") -> list[LabelledCase]:
    """The labelled cases of a data folder, in a stable order.

    Args:
        folder: either holds a `dataset.json` in the form of the Medical Segmentation Decathlon, or the folders
            `images` and `masks`, whose files share their names (a mask's may end in _mask, _label or _seg).
        pattern: shell pattern that a case's name must match.

    Raises:
        UsageError: if there is no such folder, or no case in it.
        TrainingError: if a file is missing or wrong, naming it.
    """
    if not folder.is_dir():
        raise UsageError("there is no such folder", where=folder, remedy="check --data")
    cases = decathlon_cases(folder) if (folder / "dataset.json").exists() else paired_cases(folder)
    chosen = [case for case in cases if fnmatchcase(case.name, pattern)]
    if not chosen:
        raise UsageError(
            f"none of its {len(cases)} cases is named like '{pattern}'", where=folder, remedy="correct the pattern"
        )
    return chosen


def decathlon_cases(folder: Path) -> list[LabelledCase]:
    """The labelled cases that a Decathlon folder's `dataset.json` lists, in its order.

    Raises:
        UsageError: if it is missing or lists no case.
        TrainingError: if it is unusable, or a file that it names does not exist.
    """
    index = folder / "dataset.json"
    remedy = "give a folder in the form of the Medical Segmentation Decathlon"
    try:
        entries = json.loads(index.read_text(encoding="utf-8-sig"))["training"]
        cases = [
            LabelledCase(_stem(Path(entry["image"])), folder / entry["image"], folder / entry["label"])
            for entry in entries
        ]
    except OSError as error:
        raise UsageError(f"the index cannot be read ({error.strerror})", where=index, remedy=remedy) from None
    except (ValueError, KeyError, TypeError):
        raise TrainingError("this lists no 'training' images and labels", where=index, remedy=remedy) from None
    for case in cases:
        for path in (case.image, case.label):
            if not path.is_file():
                raise TrainingError("the index names this file, but it does not exist", where=path, remedy="restore it")
    if not cases:
        raise UsageError("the index lists no cases", where=index, remedy=remedy)
    _refuse_twins(cases, index)
    return cases


def paired_cases(folder: Path) -> list[LabelledCase]:
    """The cases of a folder with `images` and `masks`, by name.

    Raises:
        UsageError: if either is missing, or there is no image.
        TrainingError: if an image has no mask or a mask no image, a name occurs twice, or there is something else.
    """
    remedy = "give a folder with dataset.json (Decathlon), or with the folders 'images' and 'masks'"
    for part in (folder / "images", folder / "masks"):
        if not part.is_dir():
            raise UsageError("there is no such folder", where=part, remedy=remedy)
    masks: dict[str, list[Path]] = {}
    for path in _data_files(folder / "masks"):
        masks.setdefault(composed(_stem(path)), []).append(path)
    cases = []
    for image in _data_files(folder / "images"):
        name = _stem(image)
        found = [mask for ending in _MASK_ENDINGS for mask in masks.get(composed(name + ending), [])]
        if not found:
            raise TrainingError(
                "this image has no mask", where=image, remedy=f"add one named like it to {folder / 'masks'}, or move it"
            )
        if len(found) > 1:
            raise TrainingError(
                f"this image has {len(found)} masks, '{found[0].name}' and '{found[1].name}'",
                where=image,
                remedy="keep one of them",
            )
        cases.append(LabelledCase(name, image, found[0]))
    if not cases:
        raise UsageError(
            "this folder holds no images", where=folder / "images", remedy="add NIfTI, PNG, JPEG or TIFF files"
        )
    _refuse_twins(cases, folder / "images")
    if alone := sorted({mask for found in masks.values() for mask in found} - {case.label for case in cases}):
        raise TrainingError(
            "this mask has no image", where=alone[0], remedy=f"add one named like it to {folder / 'images'}, or move it"
        )
    return cases


def _stem(path: Path) -> str:
    suffix = next((s for s in _SUFFIXES if path.name.lower().endswith(s)), path.suffix)
    return path.name[: len(path.name) - len(suffix)]


def _data_files(folder: Path) -> list[Path]:
    """All of them; names that begin with a dot or an @ are the system's, or a network drive's."""
    entries = [p for p in folder.iterdir() if p.name[0] not in ".@" and not p.name.lower().endswith(_BESIDES)]
    for path in sorted(entries):
        if not path.exists():
            raise TrainingError("this link leads nowhere", where=path, remedy="restore the file, or remove the link")
        if not path.is_file() or not path.name.lower().endswith(_SUFFIXES):
            raise TrainingError(
                "this is no NIfTI, PNG, JPEG or TIFF file", where=path, remedy="save it as one, or move it elsewhere"
            )
    return sorted(entries)


def _refuse_twins(cases: list[LabelledCase], where: Path) -> None:
    if twice := [name for name, count in Counter(composed(case.name) for case in cases).items() if count > 1]:
        raise TrainingError(f"there are two cases named '{twice[0]}'", where=where, remedy="rename one of them")
