"""Engines that were built here, kept between runs; and what the gate said of those that were not.

An entry is a folder named after the fingerprint: the engine and `engine.json` with the fingerprint, the engine's
SHA-256 and the gate's verdict. It appears whole by one rename, so that two processes that build the same engine at the
same time cannot harm each other: the second finds the first one's and uses that. It goes by one rename, too: whoever
has it open reads on, and whoever comes too late builds it again.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cdal_sdk.atomic import atomic
from cdal_sdk.digest import sha256
from cdal_sdk.engines.fingerprint import Fingerprint, identity
from cdal_sdk.errors import OutputError, UsageError

__all__ = ["EngineCache", "default_cache_folder"]

_DESCRIPTION = "engine.json"  # the time of its last change is that of the engine's last use
_TRIES = 5
_ABANDONED_SECONDS = 24 * 3600.0  # no build takes as long: whoever began it was killed

_log = logging.getLogger(__name__)


def default_cache_folder() -> Path:
    """Where built engines are kept: `CDAL_CACHE`, or the user's cache folder."""
    base = os.environ.get("CDAL_CACHE")
    if base:
        return Path(base) / "engines"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cdal-sdk" / "engines"


def _default_limit() -> int:
    text = os.environ.get("CDAL_CACHE_GB") or "4"
    try:
        limit = int(float(text) * 1e9)
    except (ValueError, OverflowError):
        limit = -1
    if limit < 0:
        raise UsageError(f"CDAL_CACHE_GB is '{text}'", remedy="give the gigabytes of engines to keep, 0 for no limit")
    return limit


@dataclass(frozen=True)
class EngineCache:
    """A folder of built engines. Two processes may use it at once.

    Attributes:
        folder: made when needed.
        limit: bytes beyond which an engine that is added drops the least recently used ones; 0 is none. By default
            `CDAL_CACHE_GB`, or 4 GB.

    Raises:
        UsageError: if `CDAL_CACHE_GB` is no such number.
    """

    folder: Path
    limit: int = field(default_factory=_default_limit)

    def find(self, wanted: Fingerprint, suffix: str) -> Path | None:
        """An engine with this fingerprint, undamaged, which is hereby used; a damaged one is deleted."""
        entry = self.folder / identity(wanted)
        engine = entry / f"engine{suffix}"
        description = _read(entry / _DESCRIPTION)
        if description is None or description.get("fingerprint") != wanted:
            return None
        with suppress(OSError):  # a folder that can only be read
            os.utime(entry / _DESCRIPTION)
        try:
            whole = sha256(engine) == description.get("sha256")
        except OSError:  # dropped by another process meanwhile
            return None
        if not whole:
            _log.warning("the kept engine %s is damaged and will be built again", entry)
            self.drop(wanted)
            return None
        return engine

    def drop(self, wanted: Fingerprint) -> None:
        """Forget the engine with this fingerprint."""
        _discard(self.folder / identity(wanted))

    def add(self, wanted: Fingerprint, suffix: str, fill: Callable[[Path], str]) -> Path:
        """Build an engine; `fill` writes it to a path and returns the gate's verdict. If it raises, nothing is kept.

        Raises:
            OutputError: if the folder cannot be written.
        """
        entry = self.folder / identity(wanted)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=".building-", dir=self.folder))
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            engine = staging / f"engine{suffix}"
            verdict = fill(engine)
            description = {"fingerprint": wanted, "sha256": sha256(engine), "gate": verdict}
            (staging / _DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
            self._place(staging, entry, wanted, suffix)
        except OSError as error:
            raise self._unwritable(error) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        self._trim(entry)
        return entry / engine.name

    def _place(self, staging: Path, entry: Path, wanted: Fingerprint, suffix: str) -> None:
        """Rename a finished entry to its place, unless another process was faster: its engine is as good."""
        for remaining in reversed(range(_TRIES)):
            try:
                staging.replace(entry)
            except OSError:
                if self.find(wanted, suffix) is not None:
                    return
                if not remaining:
                    raise
                self.drop(wanted)  # what is there is damaged; or others add and drop it at this moment
            else:
                return

    def _trim(self, newest: Path) -> None:
        """Drop what was used least recently beyond the limit, but not the newest; and what killed processes left."""
        found: list[tuple[bool, float, int, Path]] = []
        for description in self.folder.glob(f"[!.]*/{_DESCRIPTION}"):
            entry = description.parent
            with suppress(OSError):  # dropped by another process meanwhile
                size = sum(file.stat().st_size for file in entry.iterdir())
                found.append((entry == newest, description.stat().st_mtime, size, entry))
        total = 0
        for is_newest, _, size, entry in sorted(found, reverse=True):
            total += size
            if total > self.limit > 0 and not is_newest:
                _log.info("the kept engine %s is dropped: others were used since, and there is a limit", entry.name)
                _discard(entry)
        for left in (*self.folder.glob(".building-*"), *self.folder.glob(".dropped-*")):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                    shutil.rmtree(left, ignore_errors=True)

    def _unwritable(self, error: OSError) -> OutputError:
        what = f"built engines cannot be kept ({error.strerror})"
        return OutputError(what, where=self.folder, remedy="set CDAL_CACHE to a folder that can be written")

    def verdict(self, key: Fingerprint) -> tuple[bool, str] | None:
        """What the gate said of an engine earlier: whether it passed, and its figures."""
        found = _read(self._verdict_file(key))
        if found is None or found.get("fingerprint") != key:
            return None
        return bool(found.get("passed")), str(found.get("figures"))

    def remember(self, key: Fingerprint, *, passed: bool, figures: str) -> None:
        """Keep the gate's verdict; a folder that cannot be written only costs time."""
        text = json.dumps({"passed": passed, "figures": figures, "fingerprint": key}, indent=2)
        try:
            with atomic(self._verdict_file(key)) as aside:
                aside.write_text(text + "\n", encoding="utf-8")
        except OutputError as error:
            _log.warning("the gate's verdict cannot be kept: %s", error)

    def _verdict_file(self, key: Fingerprint) -> Path:
        return self.folder / f"{identity(key)}.verdict.json"


def _discard(entry: Path) -> None:
    """Delete an entry at once, so that nobody meets half of it; not one that a process on Windows has open."""
    aside = entry.with_name(f".dropped-{secrets.token_hex(4)}")
    with suppress(OSError):
        entry.replace(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _read(path: Path) -> dict[str, object] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
