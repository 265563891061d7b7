"""The baselines as training methods, so that `cdal train --method` and `cdal evaluate` treat them as they do cDAL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cdal_bench.baselines import baseline_loss, build_baseline
from cdal_bench.configurations import segdiff_config
from cdal_bench.segdiff import SegDiff, SegDiffConfig, sample, training_loss
from cdal_sdk.diffusion import VoteStatistics, vote_statistics
from cdal_sdk.engines import Engine, Precision, VoteMaps
from cdal_sdk.network import GeneratorConfig
from cdal_trainer.method import Descent
from cdal_trainer.recipe import Recipe
from cdal_trainer.steps import encode_label

__all__ = ["SegDiffMethod", "Supervised"]


class _Runner:
    """An engine around a function of images on a device.

    Images smaller than the recipe's crop are filled up as in training: a network that has seen such a margin in every
    one of them can fail without it.
    """

    def __init__(self, recipe: Recipe, device: str, function: Callable[[Tensor], VoteStatistics]) -> None:
        self.name, self.device = recipe.method, device
        self.precision: Precision = "fp32"
        self._crop, self._outside, self._function = recipe.data.crop, recipe.plan.intensity.target[0], function

    @torch.inference_mode()
    def run(self, images: NDArray[np.float32]) -> VoteMaps:
        """See `Engine.run`."""
        height, width = images.shape[2:]
        margin = (0, max(0, self._crop[1] - width), 0, max(0, self._crop[0] - height))
        filled = functional.pad(torch.from_numpy(images), margin, value=self._outside)
        maps = self._function(filled.to(self.device))
        return VoteMaps(*(values[:, :, :height, :width].cpu().numpy() for values in maps))


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
        model: Any = network.to(device)

        def run(image: Tensor) -> VoteStatistics:
            label = model.label(image)
            return VoteStatistics(label, torch.zeros_like(label))

        return _Runner(self.recipe, device, run)


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
        model: Any = network.to(device)
        count, start = self.recipe.diffusion.votes if votes is None else votes, 0 if seed is None else seed

        def run(image: Tensor) -> VoteStatistics:
            return vote_statistics(sample(model, image, votes=count, seed=start))

        return _Runner(self.recipe, device, run)


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
