"""The baselines as training methods, so that `cdal train --method` and `cdal evaluate` treat them as they do cDAL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cdal_bench.baselines import baseline_loss, build_baseline
from cdal_bench.configurations import segdiff_config
from cdal_bench.runners import BaselineRunner, Margin, SegDiffRunner
from cdal_bench.segdiff import SegDiff, SegDiffConfig, training_loss
from cdal_sdk.engines import Engine
from cdal_sdk.network import GeneratorConfig
from cdal_trainer.method import Descent
from cdal_trainer.recipe import Recipe
from cdal_trainer.steps import encode_label

__all__ = ["SegDiffMethod", "Supervised"]


class Supervised:
    """U-Net, U-Net++ or residual U-Net, trained by Dice and cross entropy at the recipe's generator rate.

    Its first level is as wide as the recipe's.
    """

    terms = ("loss",)
    evaluations = 1
    voting = False
    forward_methods: Mapping[str, tuple[str, ...]] = {}

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.rates = {"generator": recipe.optimisation.lr_generator}

    def networks(self) -> dict[str, nn.Module]:
        """The one network."""
        network = self.recipe.network
        built = build_baseline(self.recipe.method, network.image_channels, network.label_channels, network.width)
        return {"generator": built}

    def descents(
        self,
        networks: Mapping[str, nn.Module],
        image: Tensor,
        labels: Tensor,
        step: int,  # noqa: ARG002 - every step is alike
        rng: torch.Generator,  # noqa: ARG002 - and nothing in it is random
    ) -> Iterator[Descent]:
        """One step of the network."""
        model: Any = networks["generator"]
        loss = baseline_loss(model, image, encode_label(labels, self.recipe))
        yield Descent("generator", loss, {"loss": loss})

    def engine(self, network: nn.Module, votes: int | None, seed: int | None, device: str) -> Engine:  # noqa: ARG002
        """One pass; there are no votes, so the spread is zero."""
        model: Any = network
        return BaselineRunner(model, device, margin=Margin.of(self.recipe))


class SegDiffMethod:
    """SegDiff with its hundred steps: as published under the paper's settings, else as wide as the recipe's model."""

    terms = ("loss",)
    voting = True
    forward_methods: Mapping[str, tuple[str, ...]] = {}

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.rates = {"generator": recipe.optimisation.lr_generator}
        self.config = segdiff_config(recipe.manifest()) if recipe.published else _small(recipe.network)
        self.evaluations = self.config.steps

    def networks(self) -> dict[str, nn.Module]:
        """The one network."""
        return {"generator": SegDiff(self.config)}

    def descents(
        self,
        networks: Mapping[str, nn.Module],
        image: Tensor,
        labels: Tensor,
        step: int,  # noqa: ARG002 - every step is alike
        rng: torch.Generator,
    ) -> Iterator[Descent]:
        """One step of the network."""
        model: Any = networks["generator"]
        loss = training_loss(model, image, encode_label(labels, self.recipe), rng)
        yield Descent("generator", loss, {"loss": loss})

    def engine(self, network: nn.Module, votes: int | None, seed: int | None, device: str) -> Engine:
        """All ancestral steps, the encoder once an image."""
        model: Any = network
        count, start = self.recipe.diffusion.votes if votes is None else votes, 0 if seed is None else seed
        return SegDiffRunner(model, count, start, device, variant="hoisted", margin=Margin.of(self.recipe))


def _small(network: GeneratorConfig) -> SegDiffConfig:
    """With the levels and widths of a generator of ours."""
    return SegDiffConfig(
        image_channels=network.image_channels,
        label_channels=network.label_channels,
        image_size=network.image_size,
        width=network.width,
        multipliers=network.multipliers,
        blocks_per_level=network.blocks_per_level,
        attention_resolutions=network.attention_resolutions,
        encoder_blocks=max(1, network.encoder_blocks // 2),  # dense blocks, each dearer than one of cDAL's
        encoder_width=network.width,
        encoder_growth=network.width // 2,
    )
