"""A sign of life while something takes long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

__all__ = ["show_status"]


@contextmanager
def show_status(console: Console, text: str) -> Iterator[Callable[[str], None] | None]:
    """On a terminal, what is going on and a way to change that text; elsewhere the log tells."""
    if not console.is_terminal:
        yield None
        return
    with console.status(text) as status:
        yield status.update
