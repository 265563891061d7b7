"""The baselines as training methods, for `cdal train --method segdiff|unet|unetplusplus|resunet`.

They see the same batches as cDAL, with its optimiser, schedule and averaging, and are scored by the same evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from cdal_bench.baselines import Baseline, BaselineName, baseline_loss, build_baseline
from cdal_bench.runners import BaselineRunner, SegDiffRunner
from cdal_bench.segdiff import SegDiff, SegDiffConfig, training_loss
from cdal_sdk.bundle import load_checkpoint
from cdal_sdk.bundle.strict import convert_strictly
from cdal_sdk.engines import Engine
from cdal_sdk.errors import ModelError, TrainingError
from cdal_trainer.method import Descent, make_method
from cdal_trainer.recipe import Recipe
from cdal_trainer.steps import encode_label

__all__ = ["BaselineMethod", "SegDiffMethod", "recipe_segdiff", "resunet", "trained_network", "unet", "unetplusplus"]

_ENCODER_BLOCKS = {1: 3, 3: 12}  # by colours of the image


def recipe_segdiff(recipe: Recipe) -> SegDiffConfig:
    """SegDiff of the size of a recipe's generator: its width, levels and attention.

    With network.width=128, multipliers (1, 1, 2, 2, 4, 4), 2 blocks a level and attention at 16 and 8 it is the
    published one.
    """
    network = recipe.network
    return SegDiffConfig(
        image_channels=network.image_channels,
        label_channels=network.label_channels,
        image_size=network.image_size,
        width=network.width,
        multipliers=network.multipliers,
        blocks_per_level=network.blocks_per_level,
        attention_resolutions=network.attention_resolutions,
        encoder_blocks=_ENCODER_BLOCKS[recipe.plan.channels],
        encoder_width=network.width // 2,
        encoder_growth=network.width // 4,
        dropout=network.dropout,
    )


class SegDiffMethod:
    """See `Method`. It predicts noise over a hundred steps; there is one network and one loss."""

    terms = ("loss",)
    forward_methods: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.manifest = recipe.manifest()
        self.rates = {"generator": recipe.optimisation.lr_generator}

    def networks(self) -> dict[str, nn.Module]:
        """The network alone."""
        return {"generator": SegDiff(recipe_segdiff(self.recipe))}

    def descents(
        self,
        networks: Mapping[str, nn.Module],
        image: Tensor,
        labels: Tensor,
        step: int,  # noqa: ARG002 - every step is alike
        rng: torch.Generator,
    ) -> Iterator[Descent]:
        """One step of the noise's mean squared error."""
        network: Any = networks["generator"]  # Fabric's wrappers have all attributes, but not the type
        loss = training_loss(network, image, encode_label(labels, self.recipe), rng)
        yield Descent("generator", loss, {"loss": loss})

    def engine(self, network: nn.Module, votes: int | None, seed: int | None, device: str) -> Engine:
        """All ancestral steps in float32, the encoder once an image."""
        if not isinstance(network, SegDiff):
            raise TrainingError("this is no network of SegDiff", remedy="give the network that this method made")
        manifest = self.manifest
        chosen = manifest.seed if seed is None else seed
        return SegDiffRunner(network, votes or manifest.votes, chosen, device, variant="hoisted")


class BaselineMethod:
    """See `Method`. A supervised network, Dice and cross entropy."""

    terms = ("loss",)
    forward_methods: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    def __init__(self, name: BaselineName, recipe: Recipe) -> None:
        self.name: BaselineName = name
        self.recipe = recipe
        self.rates = {"generator": recipe.optimisation.lr_generator}

    def networks(self) -> dict[str, nn.Module]:
        """The network alone, as wide as the recipe's generator."""
        network = self.recipe.network
        return {"generator": build_baseline(self.name, network.image_channels, network.label_channels, network.width)}

    def descents(
        self,
        networks: Mapping[str, nn.Module],
        image: Tensor,
        labels: Tensor,
        step: int,  # noqa: ARG002 - every step is alike
        rng: torch.Generator,  # noqa: ARG002 - nothing is random
    ) -> Iterator[Descent]:
        """One step of the loss."""
        network: Any = networks["generator"]  # Fabric's wrappers have all attributes, but not the type
        loss = baseline_loss(network, image, encode_label(labels, self.recipe))
        yield Descent("generator", loss, {"loss": loss})

    def engine(
        self,
        network: nn.Module,
        votes: int | None,  # noqa: ARG002 - there is one answer
        seed: int | None,  # noqa: ARG002 - nothing is random
        device: str,
    ) -> Engine:
        """One evaluation in float32."""
        if not isinstance(network, Baseline):
            raise TrainingError("this is no baseline", remedy="give the network that this method made")
        return BaselineRunner(network, device)


unet = partial(BaselineMethod, "unet")
unetplusplus = partial(BaselineMethod, "unetplusplus")
resunet = partial(BaselineMethod, "resunet")


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
