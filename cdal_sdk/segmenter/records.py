"""What an output folder says of itself: its ledger and its `report.json`, read without trust and compared."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import msgspec

from cdal_sdk.errors import UsageError
from cdal_sdk.segmenter.ledger import Ledger
from cdal_sdk.segmenter.report import REPORT_FILE, CaseReport, Report

__all__ = ["Problem", "read_records"]


@dataclass(frozen=True)
class Problem:
    """Something that does not hold.

    Attributes:
        case: that it is about, or the file.
        what: does not hold.
    """

    case: str
    what: str


def read_records(out: Path) -> tuple[list[CaseReport], set[str], list[Problem]]:
    """Every finished case of a folder, by name, and what is wrong with the records.

    The ledger knows all runs and the report one. A copy of a folder without its hidden ledger has the report's cases.

    Args:
        out: an output folder.

    Returns:
        The entries that can be understood, the names of the cases that failed, and the problems.

    Raises:
        UsageError: the folder holds no finished case.
    """
    nothing = UsageError("no case was finished in this folder", where=out, remedy="give the --out of a run")
    entries, problems = _read_ledger(out)
    recorded, failed = {*entries, *(problem.case for problem in problems)}, set[str]()
    try:
        report = Report.read(out)
    except (FileNotFoundError, NotADirectoryError):  # a run writes it before its first case
        if not recorded:
            raise nothing from None
        problems.append(Problem(REPORT_FILE, "it is missing"))
    except (OSError, msgspec.MsgspecError):
        problems.append(Problem(REPORT_FILE, "it is damaged or cannot be read"))
    else:
        problems += _compare(report, entries, recorded)
        failed = {case.case for case in report.cases if case.status == "failed"}
        entries = {case.case: case for case in report.cases if case.status != "failed"} | entries
        if not entries and not problems:
            raise nothing
    return [entries[case] for case in sorted(entries)], failed, problems


def _read_ledger(out: Path) -> tuple[dict[str, CaseReport], list[Problem]]:
    ledger = Ledger(out)
    try:
        found = {case: ledger.read(case) for case in ledger.cases()}
    except NotADirectoryError:
        return {}, []
    except OSError:
        return {}, [Problem("the ledger", "it cannot be read")]
    entries = {case: entry for case, entry in found.items() if entry is not None}
    damaged = "its record in the ledger is damaged or cannot be read"
    return entries, [Problem(case, damaged) for case in found if case not in entries]


def _compare(report: Report, entries: Mapping[str, CaseReport], recorded: Collection[str]) -> Iterator[Problem]:
    """Where a report and the ledger contradict each other, or the report itself."""
    if len(report.cases) < report.inputs:
        what = f"it tells of {len(report.cases)} of {report.inputs} cases: the run was interrupted, or is still at work"
        yield Problem(REPORT_FILE, what)
    for told in report.cases:
        if told.case in entries:
            differing = _differing(told, entries[told.case])
            if differing:
                yield Problem(told.case, f"{REPORT_FILE} and its record in the ledger differ in {', '.join(differing)}")
        elif told.status != "failed" and recorded and told.case not in recorded:
            yield Problem(told.case, f"{REPORT_FILE} lists it, but the ledger has no record of it")
        if told.status != "failed" and told.settings != report.settings:
            yield Problem(told.case, f"it was made with other settings than {REPORT_FILE} tells")


def _differing(told: CaseReport, record: CaseReport) -> list[str]:
    """Names of the fields that differ, but for the time: another process may have done the case again."""
    names = [field.name for field in fields(CaseReport) if field.name not in ("status", "timing_ms")]
    differing = [name for name in names if getattr(told, name) != getattr(record, name)]
    return ["status", *differing] if told.status == "failed" else differing
