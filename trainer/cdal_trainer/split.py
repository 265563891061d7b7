"""Which cases train and which are held out, and the record of it that a model carries."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from cdal_sdk.atomic import atomic
from cdal_sdk.bundle import SplitRecord, composed, name_hash
from cdal_sdk.errors import TrainingError, UsageError
from cdal_trainer.prepared import PreparedCase
from cdal_trainer.settings import Data

__all__ = [
    "bind_cases",
    "describe_split",
    "patient_by",
    "record_split",
    "refuse_shared",
    "seen_in_training",
    "split_folds",
]


def split_folds(
    names: list[str], folds: int, fold: int, patient: str = "", per_patient: int = 1
) -> tuple[list[str], list[str]]:
    """Training and validation names of one fold.

    A patient's fold is a hash of the patient: it stays whatever other cases come or go, depends on nothing that an
    acquisition order may hide, and is the same for all cases of the patient. Folds differ in size.

    Args:
        names: of all cases.
        folds: number of parts.
        fold: the one that is held out, from 0.
        patient: regular expression that finds the patient in a case's name, such as "^.{12}": what its first group
            matches, or all of it if it has none; where it is empty, each case is a patient.
        per_patient: so many consecutively numbered cases are one patient: with 2, those that end in 1 and 2, 3 and 4.

    Raises:
        UsageError: if the fold does not exist, or the expression is none.
        TrainingError: if the fold would leave either side empty, naming one that would not; the expression finds no
            patient in a name; or a name that is to be numbered bears no number.
    """
    if folds < 2:
        raise UsageError(f"fold {fold} of {folds} cannot be held out", remedy="give at least 2 folds")
    if not 0 <= fold < folds:
        raise UsageError(f"there is no fold {fold} of {folds}", remedy=f"choose 0 to {folds - 1}")
    hashes = {name: _hash(_patient(name, patient, per_patient)) for name in names}
    patients = set(hashes.values())
    if len(patients) < 2:
        raise TrainingError(
            f"{len(names)} case(s) of {len(patients)} patient(s): none can be held out",
            remedy="add cases of other patients, or correct how a name tells the patient",
        )
    sides: tuple[list[str], list[str]] = ([], [])
    for name in names:
        sides[hashes[name] % folds == fold].append(name)
    if not all(sides):
        parts = ((n, {patient_hash % n for patient_hash in patients}) for n in (folds, *range(2, 1000)))
        number, filled = next((n, taken) for n, taken in parts if len(taken) > 1)
        raise TrainingError(
            f"fold {fold} of {folds} over {len(patients)} patients leaves one side empty",
            remedy=f"use fold {min(filled)} of {number}",
        )
    return sides


def _hash(patient: str) -> int:
    return int(hashlib.sha256(composed(patient).encode()).hexdigest(), 16)


def _patient(name: str, expression: str, per_patient: int) -> str:
    try:
        found = re.search(expression, name)
    except re.error as error:
        raise UsageError(f"'{expression}' is no regular expression ({error})", remedy="correct data.patient") from None
    group = 0 if found is None or not found.re.groups else 1
    if found is None or found[group] is None:
        raise TrainingError(
            f"'{expression}' finds no patient in the name '{name}'",
            remedy="correct data.patient, or name the case alike",
        )
    patient = found[group] if expression else name
    if per_patient == 1:
        return patient
    numbered = re.fullmatch(r"(.*?)(\d+)\D*", patient, re.DOTALL)
    if numbered is None:
        raise TrainingError(
            f"data.per_patient is {per_patient}, but the name '{name}' bears no number",
            remedy="number the cases so that those of a patient follow each other, or set it to 1",
        )
    return f"{numbered[1]}{(int(numbered[2]) - 1) // per_patient}"


def record_split(
    settings: Data, fold: int, training: list[str], held_out: list[str], initial: SplitRecord | None = None
) -> SplitRecord:
    """The record of a run's split.

    Args:
        settings: how the cases were split.
        fold: the one that is held out.
        training: names of the cases that train.
        held_out: names of the others.
        initial: record of the model that the run starts from; what trained that one has trained this one, too.
    """
    before = set() if initial is None else set(initial.training)

    def patient(name: str) -> str:
        return _patient(name, settings.patient, settings.per_patient)

    spoilt = {patient(name) for name in (*training, *held_out) if name_hash(name) in before}
    return SplitRecord(
        settings.cases,
        settings.patient,
        settings.per_patient,
        settings.folds,
        fold,
        training=tuple(sorted({*map(name_hash, training), *before})),
        held_out=tuple(sorted(name_hash(name) for name in held_out if patient(name) not in spoilt)),
    )


def describe_split(record: SplitRecord, training: list[str], held_out: list[str]) -> str:
    """The split in words, for the model card."""
    text = f"fold {record.fold} of {record.folds}: {len(training)} cases for training, {len(held_out)} for validation"
    seen = len(held_out) - len(record.held_out)
    return f"{text}, {seen} of which are of patients that trained the model it started from" if seen else text


def patient_by(record: SplitRecord | None, expression: str | None = None) -> Callable[[str], str]:
    """Finds the patient in a case's name by the rule of a model's record.

    A name that the rule does not fit is of a patient of its own, as every name is where there is no record.

    Args:
        record: the model's.
        expression: another one than the record's.
    """
    rule = record.patient if record is not None and expression is None else expression or ""

    def patient(name: str) -> str:
        try:
            return _patient(name, rule, 1 if record is None else record.per_patient)
        except TrainingError:
            return name

    return patient


def seen_in_training(record: SplitRecord, names: Iterable[str], known: Iterable[str]) -> int:
    """How many cases trained a model themselves or are of a patient who did.

    Args:
        record: the model's.
        names: of the cases.
        known: names in which the other cases of a patient are looked for, since a record keeps none.
    """
    patient, trained = patient_by(record), set(record.training)
    patients = {patient(name) for name in {*names, *known} if name_hash(name) in trained}
    return sum(patient(name) in patients for name in names)


def refuse_shared(training: Iterable[PreparedCase], validation: Iterable[PreparedCase]) -> None:
    """Refuse an image on both sides of the split, whatever its files are called; blank ones are nobody's.

    Raises:
        TrainingError: naming both cases.
    """
    known = {_content(case): case.name for case in training if not _is_blank(case)}
    for case in validation:
        if not _is_blank(case) and (twin := known.get(_content(case))) is not None:
            raise TrainingError(
                f"'{twin}' and '{case.name}' are the same image, on both sides of the split",
                remedy="leave one out, or give both to one patient (data.patient)",
            )


def _is_blank(case: PreparedCase) -> bool:
    """Whether it shows one value alone, as tiles beside the tissue of any patient do."""
    return bool(case.images.min() == case.images.max())


def _content(case: PreparedCase) -> bytes:
    """Of the image as the network sees it: two files of one picture are alike, and masks may differ."""
    digest = hashlib.sha256(repr(case.images.shape).encode())
    digest.update(np.ascontiguousarray(case.images).data)
    return digest.digest()


def bind_cases(path: Path, training: Iterable[PreparedCase], validation: Iterable[PreparedCase]) -> None:
    """Write which cases a run is bound to, with the digests of their files; a run of other ones is refused.

    Raises:
        TrainingError: naming the first case that differs.
        OutputError: if it cannot be written.
    """
    sides = {
        "training": {case.name: case.digest for case in training},
        "validation": {case.name: case.digest for case in validation},
    }
    if not path.exists():
        with atomic(path) as aside:
            aside.write_text(json.dumps(sides, indent=2) + "\n", encoding="utf-8")
        return
    before, now = _by_name(json.loads(path.read_text(encoding="utf-8"))), _by_name(sides)
    for name in sorted(before.keys() | now.keys()):
        (side, digest), (side_now, digest_now) = before.get(name, ("", "")), now.get(name, ("", ""))
        if side != side_now:
            raise TrainingError(
                f"this folder belongs to a run with other settings or cases, the first that differs being '{name}'",
                where=path,
                remedy="give another --out",
            )
        if digest != digest_now:
            raise TrainingError(
                f"the files of the case '{name}' have changed since this run began",
                where=path,
                remedy="restore them, or give another --out",
            )


def _by_name(sides: Mapping[str, Mapping[str, str]]) -> dict[str, tuple[str, str]]:
    return {name: (side, digest) for side, cases in sides.items() for name, digest in cases.items()}
