"""A run over many cases into one folder: streamed, resumable, each case failing alone."""

from __future__ import annotations

import hashlib
import json
import os
import time
from bisect import insort
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cdal_sdk
from cdal_sdk.bundle import manifest_to_json
from cdal_sdk.engines import GRAPH_VERSION
from cdal_sdk.errors import OutputError, UsageError
from cdal_sdk.readers import CaseFiles
from cdal_sdk.segmenter.predictor import Segmenter
from cdal_sdk.segmenter.report import (
    CaseReport,
    Report,
    failed_case,
    read_ledger,
    segmented_case,
    skipped_case,
    write_ledger,
)
from cdal_sdk.segmenter.result import Format, Result, as_cdal_error, output_paths, remove_outputs

__all__ = ["segment_cases"]

_WRITES_AHEAD = 2  # results that may wait for the disk; more would only hold memory
_RECORD_EVERY_SECONDS = 2.0


def segment_cases(
    segmenter: Segmenter,
    cases: Sequence[CaseFiles],
    out: Path,
    *,
    formats: Sequence[Format] = (),
    overwrite: bool = False,
    on_case: Callable[[CaseReport], None] = lambda _: None,
) -> Report:
    """Segment cases and write results, previews and `report.json` to a folder.

    A case whose input, model and settings are those of an earlier run in the folder is skipped. Reading, engine and
    writing overlap. The report is valid at any moment, also after an interruption.

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
        UsageError: if the folder cannot be made, or a result would replace an input.
        OutputError: if nothing can be written to it.
    """
    _refuse_to_replace_inputs(cases, out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the folder cannot be made ({error.strerror})", where=out, remedy="choose another") from None
    ledger = read_ledger(out)
    earlier = {} if overwrite else dict(ledger)
    settings = _settings(segmenter, formats)
    order = {files.case: number for number, files in enumerate(cases)}
    report = Report(segmenter.manifest.name, segmenter.engine.name, segmenter.seed, segmenter.votes)

    def record() -> None:
        report.write(out)
        write_ledger(ledger, out)

    record()
    recorded_at = time.monotonic()
    try:
        with closing(_entries(segmenter, cases, out, formats, earlier, settings)) as entries:
            for entry in entries:
                insort(report.cases, entry, key=lambda case: order[case.case])
                ledger.pop(entry.case, None)
                if entry.status != "failed":
                    ledger[entry.case] = entry
                on_case(entry)
                if time.monotonic() - recorded_at > _RECORD_EVERY_SECONDS:
                    record()
                    recorded_at = time.monotonic()
    finally:
        record()
    return report


def _refuse_to_replace_inputs(cases: Sequence[CaseFiles], out: Path) -> None:
    """Outputs are named after inputs: in the inputs' own folder they would be the same files."""
    inputs = {os.path.realpath(path) for files in cases for path in files.paths}
    for files in cases:
        for path in output_paths(files.case, out):
            if os.path.realpath(path) in inputs:
                raise UsageError("an input would be replaced by its result", where=path, remedy="choose another --out")


def _entries(
    segmenter: Segmenter,
    cases: Sequence[CaseFiles],
    out: Path,
    formats: Sequence[Format],
    earlier: dict[str, CaseReport],
    settings: str,
) -> Generator[CaseReport]:
    """One entry a case, in the order in which they are done."""
    done: deque[CaseReport] = deque()  # without the engine: skipped, or impossible from the start
    running: deque[tuple[CaseFiles, str]] = deque()

    def remaining() -> Iterator[CaseFiles]:
        for files in cases:
            fingerprint, known = _fingerprint(files, settings), earlier.get(files.case)
            if known and known.fingerprint == fingerprint and all((out / name).is_file() for name in known.outputs):
                done.append(skipped_case(known))
                continue
            try:
                remove_outputs(files.case, out)
            except OutputError as error:
                done.append(failed_case(files, error))
                continue
            running.append((files, fingerprint))
            yield files

    def write(files: CaseFiles, fingerprint: str, result: Result) -> CaseReport:
        try:
            start = time.perf_counter()
            outputs = result.save(out, formats)
            result.timing.write = 1000 * (time.perf_counter() - start)
            return segmented_case(files, result, outputs, out, fingerprint)
        except Exception as error:  # noqa: BLE001 - it is reported as the failure of this case
            return failed_case(files, as_cdal_error(error, files.case))

    with ThreadPoolExecutor(1, "cdal-write") as writer:
        pending: deque[Future[CaseReport]] = deque()
        for result in segmenter.stream_cases(remaining()):
            pending.append(writer.submit(write, *running.popleft(), result))
            while done:
                yield done.popleft()
            if len(pending) > _WRITES_AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
        yield from done


def _settings(segmenter: Segmenter, formats: Sequence[Format]) -> str:
    """Everything but the input that a case's outputs depend on."""
    return json.dumps(
        {
            "software": [cdal_sdk.__version__, GRAPH_VERSION],
            "manifest": manifest_to_json(replace(segmenter.manifest, files={})),
            "weights": segmenter.weights_sha256,
            "engine": segmenter.engine.name,
            "device": segmenter.engine.device,
            "votes": segmenter.votes,
            "seed": segmenter.seed,
            "force": segmenter.force,
            "formats": sorted(set(formats)),
        }
    )


def _fingerprint(files: CaseFiles, settings: str) -> str:
    """SHA-256 over the contents of a case's files, in any order, and the settings."""
    digests = []
    for path in files.paths:
        try:
            with path.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        except OSError:  # reading will fail too, and say why
            digests.append("unreadable")
    return hashlib.sha256("\n".join([settings, *sorted(digests)]).encode()).hexdigest()
