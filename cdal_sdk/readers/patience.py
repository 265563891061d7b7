"""Work on a drive that may never answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import TypeVar

from cdal_sdk.errors import ReadError

__all__ = ["TurnTo", "in_time"]

_T = TypeVar("_T")
TurnTo = Callable[[Path], None]

_POLL_SECONDS = 0.1
_GRACE_SECONDS = 1.0  # in which a process that reads a file of that place under the same limit tells that it is late


def in_time(
    work: Callable[[TurnTo], _T], place: Path, timeout: float | None, stopped: Callable[[], bool] = lambda: False
) -> _T:
    """What work comes to, from a thread that is left behind where a drive does not answer; it ends with the process.

    Args:
        work: gets a function, to call with each place that it turns to.
        place: that it turns to first.
        timeout: seconds that it may spend on one place, however many there are; None waits for ever, in this thread.
        stopped: whether nobody waits for it any more.

    Raises:
        ReadError: it takes longer, naming the place, or nobody waits for it any more.
    """
    if timeout is None:
        return work(lambda _: None)
    outcome: Future[_T] = Future()
    left = threading.Event()
    began, at = time.monotonic(), place

    def turn_to(path: Path) -> None:
        nonlocal began, at
        if left.is_set():
            raise ReadError("nobody waits for it any more")
        began, at = time.monotonic(), path

    def run() -> None:
        try:
            outcome.set_result(work(turn_to))
        except Exception as error:  # noqa: BLE001 - raised where the outcome is asked for
            outcome.set_exception(error)

    threading.Thread(target=run, name="cdal-drive", daemon=True).start()
    try:
        while not outcome.done() and time.monotonic() < began + timeout + _GRACE_SECONDS and not stopped():
            wait([outcome], _POLL_SECONDS)
    finally:
        left.set()
    if stopped():
        raise ReadError("the run was stopped")
    if not outcome.done():
        what, remedy = f"reading it took longer than {timeout:g} seconds", "check the drive or give --read-timeout"
        raise ReadError(what, where=at, remedy=remedy)
    return outcome.result()
