"""The networks of baselines that `cdal train --method` trained."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from cdal_sdk.bundle import load_checkpoint
from cdal_sdk.bundle.strict import convert_strictly
from cdal_sdk.errors import ModelError
from cdal_trainer.method import make_method
from cdal_trainer.recipe import Recipe

__all__ = ["trained_network"]


def trained_network(path: Path) -> nn.Module:
    """The network of a checkpoint that `cdal train --method` wrote, in eval mode.

    Raises:
        ModelError: if it is damaged, or not a baseline's.
    """
    content = load_checkpoint(path)
    remedy = "give a checkpoint of cdal train --method"
    if "recipe" not in content or content.get("method", "cdal") == "cdal":
        raise ModelError("this is no checkpoint of a baseline", where=path, remedy=remedy)
    method = make_method(convert_strictly(content["recipe"], Recipe))
    network = method.networks()[next(iter(method.rates))]
    try:
        network.load_state_dict(content["generator"])
    except RuntimeError:
        raise ModelError("its weights do not fit its recipe", where=path, remedy=remedy) from None
    return network.eval().requires_grad_(False)
