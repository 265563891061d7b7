"""The process that reads: cases come in on standard input, studies go out on standard output, one after the other.

A request and the head of an answer are one line of JSON each; the voxels follow as raw float32.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cdal_sdk.errors import CdalError
from cdal_sdk.readers import CaseFiles, read_study
from cdal_sdk.study import Study

__all__ = ["serve"]


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more."""
    for line in requests:
        request = json.loads(line)
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
