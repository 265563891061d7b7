"""cDAL as a training method: Algorithm 1 of the paper, discriminator and generator in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cdal_sdk.engines import Engine
from cdal_sdk.engines.eager import TorchEngine
from cdal_sdk.errors import TrainingError
from cdal_sdk.network import Generator
from cdal_trainer.discriminator import Discriminator, StepDiscriminators
from cdal_trainer.method import Descent
from cdal_trainer.recipe import Recipe
from cdal_trainer.steps import discriminator_losses, encode_label, generator_loss

__all__ = ["Cdal"]


class Cdal:
    """See `Method`."""

    terms = ("loss", "d_real", "d_fake", "r1")
    voting = True
    forward_methods = {"discriminator": ("attention_features", "judge_real")}  # noqa: RUF012 - never changed

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.manifest = recipe.manifest()
        self.evaluations = recipe.diffusion.steps
        settings = recipe.optimisation
        self.rates = {"generator": settings.lr_generator, "discriminator": settings.lr_discriminator}

    def networks(self) -> dict[str, nn.Module]:
        """Generator and discriminator; without attention the latter stays as it is."""
        return {"generator": Generator(self.recipe.network), "discriminator": _discriminator(self.recipe)}

    def descents(
        self, networks: Mapping[str, nn.Module], image: Tensor, labels: Tensor, step: int, rng: torch.Generator
    ) -> Iterator[Descent]:
        """A step of the discriminator (where it is one of its turns), then one of the generator."""
        recipe, schedule, x0 = self.recipe, self.manifest.schedule, encode_label(labels, self.recipe)
        generator: Any = networks["generator"]  # Fabric's wrappers have all methods, but not the type
        discriminator: Any = networks["discriminator"]
        if recipe.attention.scale is not None and step % recipe.discriminator.every == 0:
            parts = discriminator_losses(discriminator, generator, image, x0, schedule, recipe, rng)
            terms = {"d_real": parts.real, "d_fake": parts.fake, "r1": parts.penalty}
            yield Descent("discriminator", parts.total, terms)
        loss = generator_loss(generator, discriminator, image, x0, schedule, recipe, rng)
        yield Descent("generator", loss, {"loss": loss})

    def engine(self, network: nn.Module, votes: int | None, seed: int | None, device: str) -> Engine:
        """The float32 reference."""
        if not isinstance(network, Generator):
            raise TrainingError("this is no generator of cDAL", remedy="give the network that this method made")
        return TorchEngine(network, self.manifest.sampling(votes, seed), device)


def _discriminator(recipe: Recipe) -> Discriminator | StepDiscriminators:
    """The discriminator of a recipe, or one a step."""
    network, settings = recipe.network, recipe.discriminator

    def make() -> Discriminator:
        return Discriminator(
            network.label_channels, network.image_size, settings.width, settings.time_width, recipe.attention.scale
        )

    return StepDiscriminators(make() for _ in range(recipe.diffusion.steps)) if settings.separate else make()
