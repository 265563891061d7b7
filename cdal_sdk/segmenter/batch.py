"""A run over many cases into one folder: streamed, resumable, each case failing alone."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from bisect import insort
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import cdal_sdk
from cdal_sdk.atomic import scratch
from cdal_sdk.bundle import manifest_to_json
from cdal_sdk.engines import GRAPH_VERSION
from cdal_sdk.errors import LargePictureError, OutputError, ReadError, UsageError
from cdal_sdk.readers import CaseFiles
from cdal_sdk.readers.limits import LIMITS
from cdal_sdk.segmenter.clock import Pace, digests_in_time
from cdal_sdk.segmenter.ledger import Claim, Ledger
from cdal_sdk.segmenter.page import write_page
from cdal_sdk.segmenter.predictor import Inferred, Segmenter
from cdal_sdk.segmenter.report import (
    REPORT_FILE,
    CaseReport,
    Measured,
    Origin,
    Report,
    as_written,
    failed_case,
    intact,
    segmented_case,
    skipped_case,
)
from cdal_sdk.segmenter.result import (
    Format,
    as_cdal_error,
    large_paths,
    output_paths,
    planned_paths,
    remove_files,
    remove_leftovers,
    timed,
)

__all__ = ["segment_cases"]

_log = logging.getLogger(__name__)

_WRITES_AHEAD = 2  # results that may wait for the disk; more would only hold memory
_POLL_SECONDS = 0.2


def segment_cases(
    segmenter: Segmenter,
    cases: Sequence[CaseFiles],
    out: Path,
    *,
    formats: Sequence[Format] = (),
    overwrite: bool = False,
    on_case: Callable[[CaseReport], None] = lambda _: None,
) -> Report:
    """Segment cases and write results, previews, `report.json` and `report.html` to a folder.

    A case whose input, model and settings are those of an earlier run in the folder is skipped. Reading, engine and
    writing overlap. The report is valid at any moment, also after an interruption. Several processes with the same
    settings may work into one folder: each case is done by one of them, and the report is that of the process which
    ends last.

    Args:
        segmenter: the model.
        cases: from `discover`.
        out: made as needed.
        formats: further output formats.
        overwrite: redo what could be skipped.
        on_case: called with each finished case's entry.

    Returns:
        The report, as written.

    Raises:
        UsageError: if nothing can be written to the folder, a result would replace an input, or a run with other
            settings is at work in the folder.
        OutputError: if the report can no longer be written.
    """
    _refuse_to_replace_inputs(cases, out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with scratch(out / REPORT_FILE) as temporary:
            temporary.touch()
    except OSError as error:
        what = f"nothing can be written to this folder ({error.strerror})"
        raise UsageError(what, where=out, remedy="choose another --out") from None
    remove_leftovers(out)
    order = {files.case: number for number, files in enumerate(cases)}
    began = time.monotonic()
    report = replace(_empty_report(segmenter), inputs=len(cases))
    run = _Run(segmenter, out, tuple(formats), report.settings, overwrite=overwrite)
    pace = Pace()

    def add(entry: CaseReport) -> None:
        insort(report.cases, entry, key=lambda case: order[case.case])

    with run.at_work(cases):
        report.write(out)
        try:
            with closing(run.entries(cases)) as entries:
                for entry in entries:
                    add(entry)
                    on_case(entry)
                    if pace.due():
                        with pace:
                            report.write(out)
        finally:
            for entry in run.untold():  # after an interruption
                add(entry)
            report.count_seconds(time.monotonic() - began)
            report.write(out)
            write_page(report, out)
    return report


def _refuse_to_replace_inputs(cases: Sequence[CaseFiles], out: Path) -> None:
    """Outputs are named after inputs: in the inputs' own folder they would be the same files."""
    inputs = {os.path.realpath(path) for files in cases for path in files.paths}
    for files in cases:
        for path in output_paths(files.case, out):
            if os.path.realpath(path) in inputs:
                raise UsageError("an input would be replaced by its result", where=path, remedy="choose another --out")


@dataclass(frozen=True)
class _Job:
    """A case that this process has claimed."""

    files: CaseFiles
    claim: Claim
    origin: Origin


class _Run:
    """One run over cases."""

    def __init__(
        self,
        segmenter: Segmenter,
        out: Path,
        formats: tuple[Format, ...],
        told: dict[str, Any],
        *,
        overwrite: bool,
    ) -> None:
        self._segmenter = segmenter
        self._out = out
        self._formats = formats
        self._told = told  # of the settings, in the entry of each case
        self._overwrite = overwrite
        self._settings = _settings(segmenter, formats, told)
        self._ledger = Ledger(out)
        self._unsuited: set[tuple[Format, str]] = set()
        self._begun: dict[str, _Job | CaseReport] = {}  # cases read ahead; an entry where there is nothing to do
        self._pending: deque[Future[CaseReport]] = deque()

    @contextmanager
    def at_work(self, cases: Sequence[CaseFiles]) -> Iterator[None]:
        """Keep runs with other settings out of the folder, since each would undo what the other does."""
        volumes = {files.volume for files in cases}
        claim = self._ledger.enter(f"{self._settings} volumes {volumes}")
        try:
            yield
        finally:
            claim.release()

    def entries(self, cases: Sequence[CaseFiles]) -> Generator[CaseReport]:
        """One entry a case, in the order in which they are done.

        A case on which another process works comes again at the end, to be skipped once that one has finished it.
        """
        waiting: Sequence[CaseFiles] = cases
        while waiting:
            deferred: list[CaseFiles] = []
            yield from self._round(waiting, deferred)
            if len(deferred) == len(waiting):  # nothing of ours is pending here, so waiting blocks nobody
                time.sleep(_POLL_SECONDS)
            waiting = deferred

    def untold(self) -> list[CaseReport]:
        """Entries of cases that are done, but were not told when the run was interrupted."""
        idle = [entry for entry in self._begun.values() if isinstance(entry, CaseReport)]
        return [*idle, *(future.result() for future in self._pending if future.done())]

    def _round(self, cases: Sequence[CaseFiles], deferred: list[CaseFiles]) -> Generator[CaseReport]:
        parts = self._segmenter.manifest.plan.by_parts
        large: deque[_Job] = deque()  # pictures that are segmented part by part, when the others are done
        begun, pending = self._begun, self._pending
        inferring = self._segmenter.infer_cases(cases, LIMITS.whole_pixels if parts else None, self._begin)
        with ThreadPoolExecutor(1, "cdal-write") as writer:
            try:
                with closing(inferring):  # ends the reader's thread, in which cases are claimed
                    for files, inferred in zip(cases, inferring, strict=True):
                        match begun.pop(files.case, None):
                            case None:
                                deferred.append(files)
                            case CaseReport() as entry:
                                yield entry
                            case job if parts and isinstance(inferred.error, LargePictureError):
                                large.append(job)
                            case job:
                                pending.append(writer.submit(self._finish, job, inferred))
                        while pending and (len(pending) > _WRITES_AHEAD or pending[0].done()):
                            yield self._written()
                while pending:
                    yield self._written()
                while large:
                    yield self._finish_large(large.popleft())
            finally:
                for job in (*begun.values(), *large):
                    if isinstance(job, _Job):
                        job.claim.release()

    def _written(self) -> CaseReport:
        entry = self._pending[0].result()  # an interruption while it waits must not lose it
        self._pending.popleft()
        return entry

    def _begin(self, files: CaseFiles, stopped: Callable[[], bool]) -> bool:
        """Claim a case and find out what is to be done for it; whether it is to be read.

        It runs in the reader's thread, since hashing a source takes as long as reading it.
        """
        claim = self._ledger.claim(files.case)
        if claim is None:  # another process works on it
            return False
        found: _Job | CaseReport | None
        try:
            found = self._to_do(files, claim, stopped)
        except Exception as error:  # noqa: BLE001 - it is reported as the failure of this case
            found = failed_case(files, as_cdal_error(error, files.case))
        if found is not None:
            self._begun[files.case] = found
        if isinstance(found, _Job):
            return True
        claim.release()
        return False

    def _to_do(self, files: CaseFiles, claim: Claim, stopped: Callable[[], bool]) -> _Job | CaseReport | None:
        """What is to be done for a case, or its entry where that is nothing; None if the run was stopped."""
        late: ReadError | None = None
        digests: list[str] = []  # none of what cannot be read: reading will fail too, and say why
        try:
            digests = digests_in_time(files, self._segmenter.read_timeout, stopped)
        except ReadError as error:
            late = error
        except OSError:
            pass
        if stopped():
            return None
        told = [self._settings, f"volume {files.volume}", f"frames {files.frames}", *digests, *files.doubts]
        fingerprint = hashlib.sha256("\n".join(told).encode()).hexdigest()
        known = self._ledger.read(files.case)
        unchanged = known is not None and digests and known.fingerprint == fingerprint and intact(known, self._out)
        if known and unchanged and not self._overwrite:
            return skipped_case(known)
        if known and digests and digests != known.source_sha256 and files.kind != "dicom":
            _log.warning("%s: its source has changed, or is another of that name; the result is replaced", files.case)
        self._make_room(files, known)
        if late is not None:
            raise late
        return _Job(files, claim, Origin(fingerprint, digests, self._told))

    def _make_room(self, files: CaseFiles, known: CaseReport | None) -> None:
        """Remove what runs in this folder made of a case, and set aside what none accounts for.

        So nothing old can pass for a result, and nothing is lost that bears a case's name, such as a mask that somebody
        drew or corrected. Maps and previews lie in subfolders of ours and go in any case.
        """
        names = () if known is None else known.outputs
        unchanged = {self._out / name for name in names if known and as_written(known, name, self._out)}
        named = {*(self._out / name for name in names), *planned_paths(files, self._formats, self._out)}
        possible = output_paths(files.case, self._out)
        remove_files(path for path in possible if path in unchanged or path.parent != self._out)
        self._ledger.forget(files.case)
        for path in possible:
            if path in named and path.exists():
                _log.warning("%s is not as a run in this folder wrote it; it is kept as %s", path.name, _aside(path))

    def _finish(self, job: _Job, inferred: Inferred) -> CaseReport:
        """Bring a case home, write it and remember it."""
        outputs: list[Path] = []
        try:
            result = self._segmenter.restore(inferred)
            with timed(result.timing, "restore"):
                found = Measured.of(result)
            with timed(result.timing, "write"):
                outputs = result.save(self._out, self._formats)
            self._warn(result.unsuited(self._formats))
            entry = self._enter(job, found, outputs)
        except Exception as error:  # noqa: BLE001 - it is reported as the failure of this case
            with suppress(OutputError):
                remove_files(outputs)
            return failed_case(job.files, as_cdal_error(error, job.files.case))
        finally:
            job.claim.release()
        return entry

    def _enter(self, job: _Job, found: Measured, outputs: Sequence[Path]) -> CaseReport:
        """The entry of a case that is written, in the ledger, too."""
        entry = segmented_case(job.files, found, outputs, self._out, job.origin)
        self._ledger.write(entry)
        return entry

    def _warn(self, unsuited: Sequence[Format], inputs: str = "inputs that it cannot hold") -> None:
        """Say once a run that a format does not apply."""
        for chosen in unsuited:
            if (chosen, inputs) not in self._unsuited:
                self._unsuited.add((chosen, inputs))
                _log.warning("--format %s is passed over for %s", chosen, inputs)

    def _finish_large(self, job: _Job) -> CaseReport:
        """Segment and write a picture part by part, and remember it."""
        from cdal_sdk.segmenter.large import segment_large
        from cdal_sdk.writers import write_mask_tiff, write_preview

        labels, case = self._segmenter.manifest.labels, job.files.case
        mask, preview = large_paths(case, self._out)
        self._warn(self._formats, "pictures that are segmented part by part; cut out a region to have it")
        try:
            with scratch(mask.with_suffix(".rows")) as rows:
                result = segment_large(self._segmenter, job.files, rows)
                with timed(result.timing, "write"):
                    write_mask_tiff(rows, mask, labels)
                    write_preview(result.small.study, result.small.mask, preview, labels, result.small.spread)
            entry = self._enter(job, Measured.of_large(result, labels), (mask, preview))
        except Exception as error:  # noqa: BLE001 - it is reported as the failure of this case
            with suppress(OutputError):
                remove_files((mask, preview))
            return failed_case(job.files, as_cdal_error(error, case))
        finally:
            job.claim.release()
        return entry


def _aside(path: Path) -> str:
    """Give a file a name that no case has, and return it.

    Raises:
        OutputError: if it cannot be renamed.
    """
    names = (path.with_name(f"{path.name}~{number or ''}") for number in count())
    free = next(name for name in names if not name.exists())
    try:
        path.rename(free)
    except OSError as error:
        what = f"this file is not as a run in this folder wrote it, and cannot be set aside ({error.strerror})"
        raise OutputError(what, where=path, remedy="choose another --out") from None
    return free.name


def _empty_report(segmenter: Segmenter) -> Report:
    """What a report says of how all its cases are made."""
    manifest = segmenter.manifest
    return Report(
        model=manifest.name,
        model_version=manifest.version,
        weights_sha256=segmenter.weights_sha256,
        engine=segmenter.engine.name,
        precision=segmenter.precision,
        device=segmenter.engine.device,
        seed=segmenter.seed,
        votes=segmenter.votes,
        force=segmenter.force,
        software=cdal_sdk.__version__,
        # Calibrated for as many votes as the model's own.
        interval_coverage=manifest.confidence.coverage if segmenter.votes == manifest.votes else None,
    )


def _settings(segmenter: Segmenter, formats: Sequence[Format], told: dict[str, Any]) -> str:
    """Everything but the input that a case's outputs depend on."""
    return json.dumps(
        {
            "graph": GRAPH_VERSION,
            "manifest": manifest_to_json(replace(segmenter.manifest, files={})),
            "told": told,
            "formats": sorted(set(formats)),
        }
    )
