"""What the training loop needs of a method, so that cDAL and what it is compared with train by the same command.

Methods are found through the entry points `cdal.methods`: the trainer brings cDAL, `cdal_bench` the baselines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Protocol

import torch
from torch import Tensor, nn

from cdal_sdk.engines import Engine
from cdal_sdk.errors import UsageError
from cdal_trainer.recipe import Recipe

__all__ = ["Descent", "Method", "make_method", "method_names"]

_GROUP = "cdal.methods"


@dataclass(frozen=True)
class Descent:
    """One optimiser step that a method asks for.

    Attributes:
        network: whose weights move.
        loss: what is minimised, a scalar.
        terms: scalars for the log, by name.
    """

    network: str
    loss: Tensor
    terms: Mapping[str, Tensor]


class Method(Protocol):
    """A way to train a segmentation network.

    Attributes:
        recipe: what it was made for.
        rates: initial learning rate of each network. The first one is what a user gets; its weights are averaged.
        terms: names of all terms for the log; "loss" is that of the first network.
        evaluations: of the network for one vote, at inference.
        voting: whether several votes differ, and a seed matters.
        forward_methods: further methods of a network that the method calls, for wrappers that must know them.
    """

    recipe: Recipe
    rates: Mapping[str, float]
    terms: tuple[str, ...]
    evaluations: int
    voting: bool
    forward_methods: Mapping[str, tuple[str, ...]]

    def networks(self) -> dict[str, nn.Module]:
        """New networks with random weights, named as in `rates`."""
        ...

    def descents(
        self, networks: Mapping[str, nn.Module], image: Tensor, labels: Tensor, step: int, rng: torch.Generator
    ) -> Iterator[Descent]:
        """The optimiser steps of training step `step`; each is taken before the next is asked for.

        Args:
            networks: by name, maybe wrapped for several devices.
            image: float32 [b, channel, h, w].
            labels: label values uint8 [b, h, w].
            step: number of the step, from 0.
            rng: the only source of random numbers, on the CPU.
        """
        ...

    def engine(self, network: nn.Module, votes: int | None, seed: int | None, device: str) -> Engine:
        """What segments with the trained network; its vote means are on the label scale of the recipe."""
        ...


def method_names() -> tuple[str, ...]:
    """The methods that are installed."""
    return tuple(sorted(entry_points(group=_GROUP).names))


def make_method(recipe: Recipe) -> Method:
    """The method that a recipe names.

    Raises:
        UsageError: if there is none of that name.
    """
    found = entry_points(group=_GROUP, name=recipe.method)
    if not found:
        raise UsageError(f"there is no method '{recipe.method}'", remedy=f"choose one of: {', '.join(method_names())}")
    (entry,) = found
    method: Method = entry.load()(recipe)
    return method
