"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cdal_sdk.errors import OutputError

__all__ = ["atomic", "check_place", "scratch", "sync", "unfinished"]

_TEMPORARY = re.compile(r"\.[0-9a-f]{8}-.+")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; move the file there when the block ends well, delete it otherwise.

    The temporary name is hidden and ends like the final one, since libraries choose a format by the suffix. Folders
    are made as needed. The data are on the disk before the name is.

    Args:
        path: where the file shall appear, replacing an older one.

    Yields:
        The path to write to within the block.

    Raises:
        OutputError: the file system refused.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch(path) as temporary:
            yield temporary
            sync(temporary)
            temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise _refused(path, error) from error


def check_place(path: Path) -> None:
    """Find out whether a file can be written, before work is spent on it; folders are made as needed.

    Raises:
        OutputError: the file system refused.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch(path) as temporary:
            temporary.touch()
    except OSError as error:
        raise _refused(path, error) from error


def _refused(path: Path, error: OSError) -> OutputError:
    below_file = isinstance(error, NotADirectoryError | FileExistsError)
    return OutputError(
        f"the file could not be written ({error.strerror or type(error).__name__})",
        where=path,
        remedy="there is a file where a folder is needed: choose another place"
        if below_file
        else "check the free space and the permissions of the folder",
    )


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """Give a hidden path beside `path` for a file that is deleted when the block ends.

    Should the process be killed, it is one of those that `unfinished` finds.
    """
    temporary = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
    try:
        yield temporary
    finally:
        with suppress(OSError):
            temporary.unlink()


def unfinished(folder: Path) -> list[Path]:
    """Temporary files of `atomic` in a folder, of a process that is at work or was killed."""
    return [path for path in folder.glob(".*-*") if _TEMPORARY.fullmatch(path.name)]


def sync(path: Path) -> None:
    """Have a file on the disk, or a folder where it can be opened."""
    if path.is_dir() and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows flushes only what is open for writing
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
