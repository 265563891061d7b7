"""Turning parsed JSON or TOML into dataclasses without letting anything pass that they do not know."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

__all__ = ["convert_strictly"]

_T = TypeVar("_T")


def convert_strictly(data: Any, kind: type[_T]) -> _T:
    """Convert plain data to a dataclass.

    Raises:
        msgspec.ValidationError: naming the entry that is missing, unusable or, at any depth, unknown.
    """
    value = msgspec.convert(data, kind)
    if unknown := _unknown(data, msgspec.to_builtins(value)):
        raise msgspec.ValidationError(f"the entry '{unknown}' is unknown")
    return value


def _unknown(found: Any, known: Any, path: str = "") -> str | None:
    """The first key of `found`, at any depth, that `known` lacks."""
    if isinstance(found, dict) and isinstance(known, dict):
        for key, value in found.items():
            if key not in known:
                return f"{path}{key}"
            if unknown := _unknown(value, known[key], f"{path}{key}."):
                return unknown
    elif isinstance(found, list | tuple) and isinstance(known, list | tuple):
        for i, (a, b) in enumerate(zip(found, known, strict=True)):
            if unknown := _unknown(a, b, f"{path}{i}."):
                return unknown
    return None
