"""Time in a run: how often its report is written, and how long a source may take to be hashed."""

from __future__ import annotations

import time
from collections.abc import Callable

from cdal_sdk.errors import ReadError
from cdal_sdk.readers import CaseFiles
from cdal_sdk.readers.patience import in_time
from cdal_sdk.segmenter.report import digests_of

__all__ = ["Pace", "digests_in_time"]

_RECORD_EVERY_SECONDS = 2.0
_RECORD_SHARE = 30  # a report is written again after this multiple of the time that writing it took


class Pace:
    """When to write the report again: every few seconds, and so rarely that it takes a few percent of the time."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _RECORD_EVERY_SECONDS
        self._began = 0.0

    def due(self) -> bool:
        """Whether it is time; then write the report in a `with` block, which measures how long that takes."""
        return time.monotonic() > self._next

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        now = time.monotonic()
        self._next = now + max(_RECORD_EVERY_SECONDS, _RECORD_SHARE * (now - self._began))


def digests_in_time(files: CaseFiles, timeout: float, stopped: Callable[[], bool] = lambda: False) -> list[str]:
    """As `digests_of`, without waiting for a drive that does not answer.

    Raises:
        ReadError: it takes longer than so many seconds, or nobody waits for it any more.
        OSError: a file cannot be read.
    """
    if not files.paths:
        return []
    try:
        return in_time(lambda _: digests_of(files), files.paths[0], timeout, stopped)
    except ReadError as error:
        raise files.told(error) from None
