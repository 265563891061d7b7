"""Every error that the project raises on purpose: one tree, each error saying what, where and the remedy."""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "CdalError",
    "DomainError",
    "EngineError",
    "GateError",
    "LargePictureError",
    "MissingExtraError",
    "ModelError",
    "OutputError",
    "ReadError",
    "TrainingError",
    "UsageError",
]


class CdalError(Exception):
    """Base of all errors of the project.

    Args:
        what: what went wrong, a clause without a full stop.
        where: the file, folder or setting that it is about.
        remedy: what the user can do about it, an imperative clause.
    """

    def __init__(self, what: str, *, where: str | Path | None = None, remedy: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.remedy = remedy
        super().__init__(what)

    def __str__(self) -> str:
        return self._text(self.where)

    def brief(self, name: str | None = None) -> str:
        """The message for reports: with `name`, or else the last part of a path, since folders name patients."""
        return self._text(None if self.where is None else name or Path(self.where).name)

    def _text(self, where: str | None) -> str:
        text = self.what if where is None else f"{where}: {self.what}"
        text = text if self.remedy is None else f"{text}; {self.remedy}"
        return text.encode("utf-8", "replace").decode("utf-8")  # a path may hold bytes that no terminal or file takes


class UsageError(CdalError):
    """The call itself is wrong: an unknown name, an impossible setting, nothing to work on."""


class ReadError(CdalError):
    """An input cannot be read as an image: damaged, truncated, unsupported or geometrically inconsistent."""


class LargePictureError(ReadError):
    """A picture that is read part by part, or not at all."""


class DomainError(CdalError):
    """A readable image lies outside what the model was made for; it can be forced."""


class ModelError(CdalError):
    """A model folder, manifest or checkpoint is missing, damaged or does not match."""


class EngineError(CdalError):
    """An inference engine cannot be built, loaded or run here."""


class GateError(EngineError):
    """An engine disagrees with the float32 reference, so it was refused."""


class OutputError(CdalError):
    """A result could not be written, or what was written does not read back as intended."""


class TrainingError(CdalError):
    """Training cannot start or go on: bad data, bad settings, divergence."""


class MissingExtraError(CdalError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs the package '{package}'", remedy=f'install it with: pip install "cdal-sdk[{extra}]"'
        )
