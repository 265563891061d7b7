"""What is finished in an output folder, and who is working on what: the memory between runs, and between processes.

Each finished case has an entry of its own, so that a run which is killed forgets nothing and two runs into one folder
do not overwrite each other's memory. Whoever works on a case holds a lock that the system releases if he dies. So does
each run in the folder, by which another one with other settings is kept out as long.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from cdal_sdk.atomic import atomic
from cdal_sdk.errors import OutputError, UsageError
from cdal_sdk.segmenter.report import CaseReport

__all__ = ["Claim", "Ledger"]

_FOLDER = ".cdal-ledger"
_PATIENCE_SECONDS = 10


class Claim:
    """The right to work on a case or in a folder, until it is released."""

    def __init__(self, lock: FileLock | None, path: Path) -> None:
        self._lock = lock
        self._path = path

    def release(self) -> None:
        """Let others work on it.

        The file goes while it is locked, so that it is nobody else's. Whoever opened it before then locks a file
        without a name, which filelock recognises since 3.21; until 3.29.4 it would also delete the next one's file.
        """
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
        try:
            entry = msgspec.json.decode(self._entry(case).read_bytes(), type=CaseReport)
        except (OSError, msgspec.MsgspecError):
            return None
        return entry if (entry.case, entry.status) == (case, "ok") else None

    def cases(self) -> list[str]:
        """Names of all finished cases, also of earlier runs.

        Raises:
            OSError: the ledger is there, but cannot be read.
        """
        try:
            paths = list(self._folder.iterdir())
        except FileNotFoundError:
            return []
        return sorted(path.stem for path in paths if path.suffix == ".json" and not path.name.startswith("."))

    def write(self, entry: CaseReport) -> None:
        """Remember a finished case.

        Raises:
            OutputError: it cannot be written.
        """
        with atomic(self._entry(entry.case)) as path:
            path.write_text(json.dumps(asdict(entry)) + "\n", encoding="utf-8")

    def forget(self, case: str) -> None:
        """Forget a case whose outputs are about to go.

        Raises:
            OutputError: its entry cannot be deleted.
        """
        try:
            self._entry(case).unlink(missing_ok=True)
        except OSError as error:
            what = f"its entry in the ledger cannot be deleted ({error.strerror})"
            raise OutputError(what, where=case, remedy="check the permissions or choose another --out") from None

    def claim(self, case: str) -> Claim | None:
        """The right to work on a case; None where another process has it."""
        return self._lock(f"{case}.lock")

    def enter(self, settings: str) -> Claim:
        """The right to work in the folder, beside others with the same settings.

        Raises:
            UsageError: a run with other settings is at work.
        """
        ours = hashlib.sha256(settings.encode()).hexdigest()[:16]
        mark = f"{ours}-{secrets.token_hex(4)}.run"
        guard = self._lock("runs.guard", _PATIENCE_SECONDS)  # for a moment, so that of two newcomers one is the first
        try:
            for other in self._folder.glob("*.run"):
                claim = self._lock(other.name)
                if claim is not None:  # whoever left it is gone
                    claim.release()
                elif not other.name.startswith(ours):
                    what = "a run with another model or other settings is at work in this folder"
                    raise UsageError(what, where=self._folder.parent, remedy="wait for it or choose another --out")
            return self._lock(mark) or Claim(None, self._folder / mark)
        finally:
            if guard is not None:
                guard.release()

    def _lock(self, name: str, patience: float = 0) -> Claim | None:
        path = self._folder / name
        lock = FileLock(path, thread_local=False)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=patience)
        except Timeout:
            return None
        except (OSError, NotImplementedError):  # a file system without locks: work as if alone
            return Claim(None, path)
        return Claim(lock, path)

    def _entry(self, case: str) -> Path:
        return self._folder / f"{case}.json"
