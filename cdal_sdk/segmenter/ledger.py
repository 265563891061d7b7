"""What is finished in an output folder, and who is working on what: the memory between runs, and between processes.

Each finished case has an entry of its own, so that a run which is killed forgets nothing and two runs into one folder
do not overwrite each other's memory. Whoever works on a case holds a lock that the system releases if he dies.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout

from cdal_sdk.atomic import atomic
from cdal_sdk.segmenter.report import CaseReport

__all__ = ["Claim", "Ledger"]

_FOLDER = ".cdal-ledger"


class Claim:
    """The right to work on a case, until it is released."""

    def __init__(self, lock: FileLock | None, path: Path) -> None:
        self._lock = lock
        self._path = path

    def release(self) -> None:
        """Let others work on the case."""
        if self._lock is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
            self._lock.release()


class Ledger:
    """The memory of an output folder."""

    def __init__(self, out: Path) -> None:
        self._folder = out / _FOLDER

    def read(self, case: str) -> CaseReport | None:
        """The entry of a finished case; None where there is none that can be understood."""
        return _parsed(self._entry(case))

    def read_all(self) -> list[CaseReport]:
        """Every finished case, also of earlier runs, by name."""
        entries = (_parsed(path) for path in sorted(self._folder.glob("*.json")))
        return [entry for entry in entries if entry is not None]

    def write(self, entry: CaseReport) -> None:
        """Remember a finished case."""
        with atomic(self._entry(entry.case)) as path:
            path.write_text(json.dumps(asdict(entry)) + "\n", encoding="utf-8")

    def forget(self, case: str) -> None:
        """Forget a case whose outputs are about to go."""
        self._entry(case).unlink(missing_ok=True)

    def claim(self, case: str) -> Claim | None:
        """The right to work on a case; None where another process has it."""
        path = self._folder / f"{case}.lock"
        lock = FileLock(path, thread_local=False)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            return None
        except (OSError, NotImplementedError):  # a file system without locks: work as if alone
            return Claim(None, path)
        return Claim(lock, path)

    def _entry(self, case: str) -> Path:
        return self._folder / f"{case}.json"


def _parsed(path: Path) -> CaseReport | None:
    try:
        return CaseReport(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
