"""Reading in a process of its own, so that a file which hangs or crashes a decoder costs one case and not the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from cdal_sdk.errors import LargePictureError, ReadError
from cdal_sdk.readers.case_files import CaseFiles
from cdal_sdk.readers.header import Header
from cdal_sdk.readers.large_picture import Shape
from cdal_sdk.study import Source, Study

__all__ = ["IsolatedReader"]

_T = TypeVar("_T")

_WORKER = (sys.executable, "-P", "-m", "cdal_sdk.readers.worker")


class IsolatedReader:
    """Reads one case at a time in another process, which is started when first needed and again after a crash.

    Args:
        timeout: seconds that one case may take.
        command: what starts the process.
        whole_pixels: see `read_study`.
    """

    def __init__(self, timeout: float, command: tuple[str, ...] = _WORKER, *, whole_pixels: int | None = None) -> None:
        self.timeout = timeout
        self._asking = threading.Lock()
        self._whole_pixels = whole_pixels
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def read(self, files: CaseFiles) -> Study:
        """As `read_study`.

        Raises:
            LargePictureError: the picture is to be read by `open_large` and `rows`.
            ReadError: also where reading takes too long or ends the process.
            MemoryError: there is not enough of it.
        """
        if files.error is not None:
            raise files.error
        paths = [str(path) for path in files.paths]
        request: dict[str, Any] = {"case": files.case, "kind": files.kind, "paths": paths, "volume": files.volume}
        request |= {"frames": files.frames, "whole_pixels": self._whole_pixels}
        try:
            return self._ask(request, files.paths[0], lambda head, stream: _study(files, head, stream))
        except ReadError as error:
            raise files.told(error) from error.__cause__

    def open_large(self, path: Path) -> Shape:
        """As the function of this name; until the next case is read, `rows` gives the picture's rows."""
        return self._ask({"open": str(path)}, path, lambda head, _: msgspec.convert(head["shape"], Shape))

    def rows(self, path: Path, shape: Shape, rows: range) -> NDArray[np.integer[Any]]:
        """Rows of the open picture, [row, column, channel]; from above to below, each at most once.

        Raises:
            ReadError: as for `read`.
        """

        def take(_: dict[str, Any], stream: IO[bytes]) -> NDArray[np.integer[Any]]:
            part = np.empty((len(rows), shape.width, shape.channels), shape.dtype)
            _fill(part.data.cast("B"), stream)
            return part

        return self._ask({"rows": [rows.start, rows.stop], "path": str(path)}, path, take)

    def header(self, path: Path, *, explicit: bool) -> Header | None:
        """As `dicom_header.read_header`; a file that crashes or hangs the process is a header with that problem."""
        request = {"header": str(path), "explicit": explicit}
        try:
            return self._ask(request, path, lambda head, _: msgspec.convert(head["header"], Header | None))
        except ReadError as error:
            return Header(problem=(error.what, error.remedy or ""))

    def is_dicom_without_preamble(self, path: Path) -> bool:
        """As the function of this name; a file that crashes or hangs the process is taken for one, to be told."""
        try:
            return self._ask({"sniff": str(path)}, path, lambda head, _: bool(head["dicom"]))
        except ReadError:
            return True

    def _ask(self, request: dict[str, Any], path: Path, take: Callable[[dict[str, Any], IO[bytes]], _T]) -> _T:
        """Send a request about a file and take the answer, in time."""
        with self._asking:  # a search that was left behind may wake up and ask, too
            return self._ask_alone(request, path, take)

    def _ask_alone(self, request: dict[str, Any], path: Path, take: Callable[[dict[str, Any], IO[bytes]], _T]) -> _T:
        process = self._started()
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        watch = threading.Timer(self.timeout, stop)
        watch.daemon = True
        watch.start()
        try:
            return _answer(process, request, take)
        except (OSError, EOFError, ValueError) as error:
            process.kill()
            process.wait()
            what = f"reading it took longer than {self.timeout:g} seconds" if late.is_set() else "reading it crashed"
            remedy = "check that it opens in another viewer, or export it again"
            raise ReadError(what, where=path, remedy=remedy) from error
        finally:
            watch.cancel()

    def close(self) -> None:
        """End the process, also in the middle of a case."""
        self._closed = True
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    with suppress(OSError):  # of a request that a process did not live to take
                        stream.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._closed:
            raise ReadError("the run was stopped")
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # decoders print there what they find in a file
                env=_environment(),
            )
        return self._process


def _environment() -> dict[str, str]:
    """Modules come from where ours do, never from the current folder, which may be a disc that a patient brought."""
    places = dict.fromkeys([*filter(None, sys.path), str(Path(__file__).parents[2])])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places), "PYTHONSAFEPATH": "1"}


def _answer(
    process: subprocess.Popen[bytes], request: dict[str, Any], take: Callable[[dict[str, Any], IO[bytes]], _T]
) -> _T:
    asked, answered = _pipes(process)
    asked.write(json.dumps(request).encode() + b"\n")
    asked.flush()
    head: dict[str, Any] = json.loads(answered.readline() or b"?")
    if head.get("memory"):
        raise MemoryError
    if "error" in head:
        what, where, remedy = head["error"]
        if head.get("large"):
            raise LargePictureError(what, where=where, remedy=remedy)
        raise ReadError(what, where=where, remedy=remedy)
    return take(head, answered)


def _study(files: CaseFiles, head: dict[str, Any], stream: IO[bytes]) -> Study:
    image = np.empty(head["shape"], np.float32)
    _fill(image.data.cast("B"), stream)
    affine = None if head["affine"] is None else np.array(head["affine"], np.float64)
    spacing = None if head["spacing"] is None else (head["spacing"][0], head["spacing"][1])
    source = Source(files.kind or "array", tuple(Path(path) for path in head["paths"]), files.frames)
    doubts = (*files.doubts, *head["doubts"])
    known = {name: head[name] for name in ("modality", "view", "burnt_in")}
    return Study(files.case, image, affine, source, spacing, doubts=doubts, **known)


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    if process.stdin is None or process.stdout is None:
        raise EOFError
    return process.stdin, process.stdout


def _fill(buffer: memoryview, stream: IO[bytes]) -> None:
    """Read exactly as much as the buffer holds."""
    at = 0
    while at < len(buffer):
        count = stream.readinto(buffer[at:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        at += count
