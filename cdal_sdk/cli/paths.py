"""Paths of the command line."""

from __future__ import annotations

from pathlib import Path

import typer

__all__ = ["parse_path"]


def parse_path(text: str) -> Path:
    """A path; an empty text, as of a variable that is not set, would be the current folder.

    Raises:
        BadParameter: the text is empty.
    """
    if not text:
        raise typer.BadParameter("it is empty; name a file or folder, '.' for this one")
    return Path(text)
