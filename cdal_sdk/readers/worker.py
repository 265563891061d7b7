"""The process that reads: requests come in on standard input, answers go out on standard output, one by one.

A request and the head of an answer are one line of JSON each; the voxels of a study follow as raw float32, the rows of
a large picture as they are stored. What is asked for is a study, a DICOM header, whether a file without the magic of
DICOM still is one, or a large picture and then its rows.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from cdal_sdk.errors import CdalError, LargePictureError, ReadError
from cdal_sdk.readers import CaseFiles, read_study
from cdal_sdk.readers.large_picture import LargePicture, open_large
from cdal_sdk.study import Study

__all__ = ["serve"]


class _Server:
    """Answers requests; the picture that is open stays so between them."""

    def __init__(self) -> None:
        self._picture: LargePicture | None = None

    def answer(self, request: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """The head of an answer, and the bytes that follow it."""
        if "rows" in request:
            return self._rows(request)
        self._picture = None
        if "open" in request:
            self._picture = open_large(Path(request["open"]))
            return {"shape": msgspec.to_builtins(self._picture.shape)}, b""
        if "header" in request or "sniff" in request:
            return _about_header(request), b""
        paths = tuple(Path(path) for path in request["paths"])
        files = CaseFiles(
            request["case"], request["kind"], paths, volume=request["volume"], frames=tuple(request["frames"])
        )
        study = read_study(files, request["whole_pixels"])
        return _head(study), np.ascontiguousarray(study.image, np.float32).data.cast("B")

    def _rows(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        what = "the picture is truncated or damaged"
        problem = ReadError(what, where=request["path"], remedy="copy or export it again")
        if self._picture is None:  # the process was started again
            raise problem
        try:
            return {}, self._picture.rows(*request["rows"])
        except MemoryError:
            raise
        except Exception as error:  # the decoder's own kind
            raise problem from error


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more."""
    server = _Server()
    for line in requests:
        content: Any = b""
        try:
            head, content = server.answer(json.loads(line))
        except MemoryError:
            head = {"memory": True}
        except CdalError as error:
            head = {"error": [error.what, error.where, error.remedy], "large": isinstance(error, LargePictureError)}
        answers.write(json.dumps(head).encode() + b"\n")
        answers.write(content)
        answers.flush()


def _about_header(request: dict[str, Any]) -> dict[str, Any]:
    from cdal_sdk.readers.dicom_header import is_dicom_without_preamble, read_header

    if "sniff" in request:
        return {"dicom": is_dicom_without_preamble(Path(request["sniff"]))}
    return {"header": msgspec.to_builtins(read_header(Path(request["header"]), explicit=request["explicit"]))}


def _head(study: Study) -> dict[str, Any]:
    return {
        "shape": study.image.shape,
        "affine": None if study.affine is None else study.affine.tolist(),
        "spacing": study.pixel_spacing,
        "modality": study.modality,
        "view": study.view,
        "doubts": study.doubts,
        "burnt_in": study.burnt_in,
        "paths": [str(path) for path in study.source.paths],
    }


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks; this one ends with its input
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not get among the answers
    serve(sys.stdin.buffer, channel)
