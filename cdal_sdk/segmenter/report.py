"""`report.json`: what happened to each case of a run, for machines. It holds nothing that names a patient."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from cdal_sdk.errors import CdalError
from cdal_sdk.readers import CaseFiles
from cdal_sdk.segmenter.result import Result
from cdal_sdk.study import LabelSize
from cdal_sdk.writers import atomic

__all__ = [
    "CaseReport",
    "Report",
    "failed_case",
    "read_ledger",
    "segmented_case",
    "skipped_case",
    "write_ledger",
]

_REPORT_FILE = "report.json"
_LEDGER_FILE = ".cdal-ledger.json"


@dataclass(frozen=True)
class CaseReport:
    """One entry.

    Attributes:
        case: its name in outputs.
        status: how it ended.
        error: why it failed.
        source: the file's name, or how many files a series has.
        outputs: files written, relative to the output folder.
        labels: size by label name.
        mean_spread: mean vote spread over labelled voxels, on the probability scale.
        timing_ms: time a stage.
        fingerprint: SHA-256 of input, model and settings; an unchanged one is skipped.
    """

    case: str
    status: Literal["ok", "skipped", "failed"]
    error: str | None
    source: str
    outputs: list[str] = field(default_factory=list)
    labels: dict[str, dict[str, Any]] = field(default_factory=dict)
    mean_spread: float | None = None
    timing_ms: dict[str, float] = field(default_factory=dict)
    fingerprint: str | None = None


@dataclass(frozen=True)
class Report:
    """The whole run."""

    model: str
    engine: str
    seed: int
    votes: int
    cases: list[CaseReport] = field(default_factory=list)

    def to_json(self) -> str:
        """Readable JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    def write(self, out: Path) -> None:
        """Write `report.json` in one step."""
        with atomic(out / _REPORT_FILE) as path:
            path.write_text(self.to_json(), encoding="utf-8")


def read_ledger(out: Path) -> dict[str, CaseReport]:
    """Every finished case in the folder, also of earlier runs; empty where nothing can be understood."""
    try:
        entries = json.loads((out / _LEDGER_FILE).read_text(encoding="utf-8"))
        return {report.case: report for report in (CaseReport(**entry) for entry in entries)}
    except (OSError, ValueError, TypeError):
        return {}


def write_ledger(ledger: Mapping[str, CaseReport], out: Path) -> None:
    """Write what a later run needs to skip cases; apart from the report, which is of one run."""
    with atomic(out / _LEDGER_FILE) as path:
        path.write_text(json.dumps([asdict(entry) for entry in ledger.values()]) + "\n", encoding="utf-8")


def segmented_case(files: CaseFiles, result: Result, outputs: list[Path], out: Path, fingerprint: str) -> CaseReport:
    """The entry of a case that was segmented and written."""
    return CaseReport(
        case=files.case,
        status="ok",
        error=None,
        source=_source(files),
        outputs=[path.relative_to(out).as_posix() for path in outputs],
        labels={name: _size(size) for name, size in result.volumes.items()},
        mean_spread=round(result.done.mean_spread, 6),
        timing_ms={stage: round(value, 1) for stage, value in asdict(result.timing).items()},
        fingerprint=fingerprint,
    )


def skipped_case(earlier: CaseReport) -> CaseReport:
    """The entry of a case that an earlier run did under the same conditions."""
    return CaseReport(**{**asdict(earlier), "status": "skipped", "timing_ms": {}})


def failed_case(files: CaseFiles, error: CdalError) -> CaseReport:
    """The entry of a case that could not be done."""
    name = files.case if len(files.paths) > 1 else None
    return CaseReport(files.case, "failed", error.brief(name), _source(files))


def _source(files: CaseFiles) -> str:
    """The file's name, if it was recognised; no folders and no files of a series, which may be named after patients."""
    if files.kind == "dicom":
        return f"DICOM series of {len(files.paths)} file(s)"
    return files.case if files.kind is None else files.paths[0].name.encode("utf-8", "replace").decode("utf-8")


def _size(size: LabelSize) -> dict[str, Any]:
    """What applies of a size, rounded to what is meaningful."""
    known: Mapping[str, Any] = {name: value for name, value in asdict(size).items() if value is not None}
    return {
        name: [round(v, 4) for v in value] if isinstance(value, tuple | list) else round(value, 4)
        for name, value in known.items()
    }
