"""Checkpoints: one file with plain tensors and values only, written in one step and loaded safely."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from cdal_sdk.atomic import atomic
from cdal_sdk.bundle.manifest import Manifest, seal
from cdal_sdk.errors import ModelError, OutputError
from cdal_sdk.network.torch_file import read_torch_file

__all__ = ["checkpoint_content", "load_checkpoint", "save_checkpoint"]

_FORMAT = "cdal-checkpoint-1"
_REMEDY = "give a best.pt or last.pt of cdal train, or convert a published one with cdal import-published"


def checkpoint_content(manifest: Manifest, weights: Mapping[str, Tensor], **further: Any) -> dict[str, Any]:
    """What every checkpoint holds: "manifest" (plain data), "generator" (the weights to use), and further entries."""
    return {"format": _FORMAT, "manifest": msgspec.to_builtins(manifest), "generator": dict(weights), **further}


def save_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint in one step, its manifest sealed: a kill or a full disk leaves an older one whole.

    Raises:
        OutputError: if it cannot be written.
    """
    try:
        with atomic(path) as aside, aside.open("wb") as file:
            torch.save({**content, "manifest": seal(content["manifest"])}, file)
    except RuntimeError as error:  # PyTorch's own writer raises it on a full disk
        raise OutputError(
            f"the checkpoint cannot be written ({error})", where=path, remedy="free disk space"
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint.

    Returns:
        See `checkpoint_content`.

    Raises:
        ModelError: if it is missing, unsafe, damaged, or no checkpoint of ours.
    """
    content: dict[str, Any] = read_torch_file(path, _REMEDY)
    ours = isinstance(content, dict) and content.get("format") == _FORMAT
    if not ours or "manifest" not in content or not isinstance(content.get("generator"), dict):
        raise ModelError("this is no checkpoint of cdal", where=path, remedy=_REMEDY)
    return content
