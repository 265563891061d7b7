"""Paths of the command line."""

from __future__ import annotations

from pathlib import Path

import typer

__all__ = ["parse_name", "parse_path"]


def parse_path(text: str) -> Path:
    """A path; an empty text, as of a variable that is not set, would be the current folder.

    Raises:
        BadParameter: the text is empty.
    """
    return Path(parse_name(text))


def parse_name(text: str) -> str:
    """As `parse_path`, where a name may stand for the path, such as that of a bundled model."""
    if not text:
        raise typer.BadParameter("it is empty; name a file or folder, '.' for this one")
    return text
