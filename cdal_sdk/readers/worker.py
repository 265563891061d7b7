"""The process that reads: requests come in on standard input, answers go out on standard output, one by one.

A request and the head of an answer are one line of JSON each; the voxels of a study follow as raw float32. What is
asked for is a study, a DICOM header, or whether a file without the magic of DICOM still is one.
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

from cdal_sdk.errors import CdalError
from cdal_sdk.readers import CaseFiles, read_study
from cdal_sdk.study import Study

__all__ = ["serve"]


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more."""
    for line in requests:
        request = json.loads(line)
        if "header" in request or "sniff" in request:
            _send(answers, _about_header(request))
            answers.flush()
            continue
        paths = tuple(Path(path) for path in request["paths"])
        files = CaseFiles(request["case"], request["kind"], paths, volume=request["volume"])
        try:
            study = read_study(files)
        except MemoryError:
            _send(answers, {"memory": True})
        except CdalError as error:
            _send(answers, {"error": [error.what, error.where, error.remedy]})
        else:
            _send(answers, _head(study))
            answers.write(np.ascontiguousarray(study.image, np.float32).data.cast("B"))
        answers.flush()


def _about_header(request: dict[str, Any]) -> dict[str, Any]:
    from cdal_sdk.readers.dicom_header import is_dicom_without_preamble, read_header

    try:
        if "sniff" in request:
            return {"dicom": is_dicom_without_preamble(Path(request["sniff"]))}
        return {"header": msgspec.to_builtins(read_header(Path(request["header"]), explicit=request["explicit"]))}
    except MemoryError:
        return {"memory": True}


def _head(study: Study) -> dict[str, Any]:
    return {
        "shape": study.image.shape,
        "affine": None if study.affine is None else study.affine.tolist(),
        "spacing": study.pixel_spacing,
        "modality": study.modality,
        "paths": [str(path) for path in study.source.paths],
    }


def _send(answers: BinaryIO, head: dict[str, Any]) -> None:
    answers.write(json.dumps(head).encode() + b"\n")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks; this one ends with its input
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not get among the answers
    serve(sys.stdin.buffer, channel)
