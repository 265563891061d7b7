"""The split record: which cases trained a model and which were held out, told without their names."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from cdal_sdk.bundle.strict import convert_strictly
from cdal_sdk.errors import ModelError

__all__ = ["SPLIT_FILE", "SplitRecord", "name_hash", "split_from_data", "split_from_json", "split_to_json"]

SPLIT_FILE = "split.json"
"""The split record in a model folder; optional."""


@dataclass(frozen=True)
class SplitRecord:
    """How the cases of a model were split.

    Cases are kept by `name_hash`, since the names of a hospital's files may identify patients.

    Attributes:
        cases: shell pattern of the names of the cases that took part.
        patient: regular expression that finds the patient in a case's name; "" where each case is a patient.
        per_patient: so many consecutively numbered cases are one patient.
        folds: number of parts.
        fold: the one that was held out.
        training: hashes of the cases that trained the model, or a model that it started from.
        held_out: hashes of the cases that did not, and whose patients did not either.
    """

    cases: str
    patient: str
    per_patient: int
    folds: int
    fold: int
    training: tuple[str, ...]
    held_out: tuple[str, ...]


def composed(name: str) -> str:
    """The name with each accented letter as one character: from a Mac it may come as two, which look the same."""
    return unicodedata.normalize("NFC", name)


def name_hash(name: str) -> str:
    """What stands for a case's name: the first 16 hexadecimal digits of its SHA-256, however its accents are coded."""
    return hashlib.sha256(composed(name).encode()).hexdigest()[:16]


def split_to_json(record: SplitRecord) -> str:
    """Readable JSON, keys in the order of the dataclass."""
    return json.dumps(msgspec.to_builtins(record), indent=1) + "\n"


def split_from_json(text: str | bytes, where: str | Path) -> SplitRecord:
    """Parse and check a split record.

    Raises:
        ModelError: if it is no JSON, or has missing, unknown or unusable entries.
    """
    try:
        return split_from_data(json.loads(text), where)
    except ValueError as error:
        raise ModelError(f"this is no JSON ({error})", where=where, remedy="restore the model folder") from None


def split_from_data(data: Any, where: str | Path) -> SplitRecord:
    """Check a split record that was parsed already.

    Raises:
        ModelError: if it has missing, unknown or unusable entries.
    """
    try:
        return convert_strictly(data, SplitRecord)
    except msgspec.ValidationError as error:
        raise ModelError(
            f"the split record does not hold: {error}", where=where, remedy="restore the model, or upgrade cdal-sdk"
        ) from None
