"""Engines that were built here, kept between runs; and what the gate said of those that were not.

An entry is a folder named after the fingerprint: the engine and `engine.json` with the fingerprint, the engine's
SHA-256 and the gate's verdict. It appears whole by one rename, so that two processes that build the same engine at the
same time cannot harm each other: the second finds the first one's and uses that.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cdal_sdk.atomic import atomic
from cdal_sdk.digest import sha256
from cdal_sdk.engines.fingerprint import Fingerprint, identity
from cdal_sdk.errors import OutputError

__all__ = ["EngineCache", "default_cache_folder"]

_DESCRIPTION = "engine.json"

_log = logging.getLogger(__name__)


def default_cache_folder() -> Path:
    """Where built engines are kept: `CDAL_CACHE`, or the user's cache folder."""
    base = os.environ.get("CDAL_CACHE")
    if base:
        return Path(base) / "engines"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cdal-sdk" / "engines"


@dataclass(frozen=True)
class EngineCache:
    """A folder of built engines. Two processes may use it at once.

    Attributes:
        folder: made when needed.
    """

    folder: Path

    def find(self, wanted: Fingerprint, suffix: str) -> Path | None:
        """An engine with this fingerprint, undamaged; a damaged one is deleted."""
        entry = self.folder / identity(wanted)
        engine = entry / f"engine{suffix}"
        description = _read(entry / _DESCRIPTION)
        if description is None or description.get("fingerprint") != wanted:
            return None
        if not engine.is_file() or sha256(engine) != description.get("sha256"):
            _log.warning("the kept engine %s is damaged and will be built again", entry)
            self.drop(wanted)
            return None
        return engine

    def drop(self, wanted: Fingerprint) -> None:
        """Forget the engine with this fingerprint."""
        shutil.rmtree(self.folder / identity(wanted), ignore_errors=True)

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
        return entry / engine.name

    def _place(self, staging: Path, entry: Path, wanted: Fingerprint, suffix: str) -> None:
        """Rename a finished entry to its place, unless another process was faster: its engine is as good."""
        try:
            staging.replace(entry)
        except OSError:
            if self.find(wanted, suffix) is None:  # what is there is damaged
                self.drop(wanted)
                staging.replace(entry)

    def _unwritable(self, error: OSError) -> OutputError:
        what = f"built engines cannot be kept ({error.strerror})"
        return OutputError(what, where=self.folder, remedy="set CDAL_CACHE to a folder that can be written")

    def verdict(self, key: Fingerprint) -> tuple[bool, str] | None:
        """What the gate said of an engine earlier: whether it passed, and its figures."""
        found = _read(self._verdict_file(key))
        return None if found is None else (bool(found.get("passed")), str(found.get("figures")))

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


def _read(path: Path) -> dict[str, object] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
