"""The network of a checkpoint; imports none of the training libraries, which a cold start would pay for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from torch import nn

from cdal_sdk.bundle.strict import convert_strictly
from cdal_sdk.errors import ModelError
from cdal_trainer.method import Method, make_method
from cdal_trainer.recipe import Recipe

__all__ = ["trained_network"]


def trained_network(content: Mapping[str, Any], where: Path) -> tuple[Method, nn.Module]:
    """The method of a checkpoint that `cdal train` wrote, and its network in eval mode.

    Args:
        content: see `load_checkpoint`.
        where: its file, for messages.

    Raises:
        ModelError: if its recipe or its weights do not fit this version.
    """
    try:
        method = make_method(convert_strictly(content["recipe"], Recipe))
    except (KeyError, msgspec.ValidationError) as error:
        raise ModelError(
            f"its recipe does not fit this version ({error})", where=where, remedy="train it again"
        ) from None
    network = method.networks()[next(iter(method.rates))]
    try:
        network.load_state_dict(content["generator"])
    except RuntimeError as error:
        raise ModelError("its weights do not fit its recipe", where=where, remedy="train it again") from error
    return method, network.eval().requires_grad_(False)
