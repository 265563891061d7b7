"""Results on standard output."""

from __future__ import annotations

import logging
import os
import sys

__all__ = ["tell"]

_log = logging.getLogger(__name__)


def tell(text: str) -> None:
    """Print a result, escaping what the output's encoding cannot hold.

    Where nobody takes it, as with a closed pipe or a full disk, that is no failure of the work: the exit code stays.
    """
    if sys.stdout is None:  # it was closed when the program began
        return
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        _log.warning("the result cannot be printed (%s)", error.strerror)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries again as it ends, and fails
