"""The state of a training run: networks, optimisers, averaged weights and a step number.

Nothing random outlives a step: batches, time steps, latents and noise are functions of (seed, rank, step), and the
learning rate is one of the step. So this is all that a checkpoint needs for a resumed run to go on bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from cdal_sdk.bundle import checkpoint_content, load_checkpoint, load_model
from cdal_sdk.errors import TrainingError
from cdal_sdk.network import Generator
from cdal_trainer.average import WeightAverage
from cdal_trainer.batches import Batch
from cdal_trainer.discriminator import Discriminator
from cdal_trainer.recipe import Optimisation, Recipe
from cdal_trainer.steps import discriminator_losses, encode_label, generator_loss

__all__ = ["TrainingState", "learning_rate"]


def learning_rate(settings: Optimisation, initial: float, step: int) -> float:
    """Linear warm-up, then a cosine from the initial rate to `lr_final` at the last step."""
    warm = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
    cosine = (1 + math.cos(math.pi * min(1.0, step / settings.steps))) / 2
    return warm * (settings.lr_final + (initial - settings.lr_final) * cosine)


class TrainingState:
    """Everything that training changes.

    Args:
        recipe: the settings.
        fabric: launched; places modules on devices.
        split: a sentence for the model card on which cases train and which validate.
    """

    def __init__(self, recipe: Recipe, fabric: Fabric, split: str) -> None:
        self.recipe, self.fabric, self.split = recipe, fabric, split
        self.schedule = recipe.manifest().schedule
        torch.manual_seed(recipe.optimisation.seed)
        network, settings = recipe.network, recipe.discriminator
        self.generator = Generator(network)
        if recipe.optimisation.initial:
            _start_from(self.generator, recipe.optimisation.initial)
        self.discriminator = Discriminator(
            network.label_channels, network.image_size, settings.width, settings.time_width, recipe.attention.scale
        )
        betas = recipe.optimisation.adam_betas
        # Fabric wraps both modules; self.generator and self.discriminator stay the plain ones for state dicts.
        self._g, self._g_optimiser = fabric.setup(
            self.generator, torch.optim.Adam(self.generator.parameters(), betas=betas)
        )
        self._d, self._d_optimiser = fabric.setup(
            self.discriminator, torch.optim.Adam(self.discriminator.parameters(), betas=betas)
        )
        for method in ("attention_features", "judge_real"):
            self._d.mark_forward_method(method)
        self.average = WeightAverage(self.generator, recipe.optimisation.ema)
        self.step = 0
        self.best = -math.inf

    def advance(self, batch: Batch) -> dict[str, Tensor]:
        """One step of Algorithm 1; returns the losses by name."""
        recipe, settings = self.recipe, self.recipe.optimisation
        rng = torch.Generator().manual_seed(self._step_seed())
        image, x0 = batch[0], encode_label(batch[1], recipe)
        losses: dict[str, Tensor] = {}
        if recipe.attention.scale is not None and self.step % recipe.discriminator.every == 0:
            terms = discriminator_losses(self._d, self._g, image, x0, self.schedule, recipe, rng)
            self._descend(self._d_optimiser, terms.total, settings.lr_discriminator)
            losses |= {"d_real": terms.real, "d_fake": terms.fake, "r1": terms.penalty}
        loss = generator_loss(self._g, self._d, image, x0, self.schedule, recipe, rng)
        self._descend(self._g_optimiser, loss, settings.lr_generator)
        self.average.update(self.generator, self.step)
        self.step += 1
        return {name: value.detach() for name, value in {"loss": loss, **losses}.items()}

    def averaged_generator(self) -> Generator:
        """A copy of the generator with the averaged weights, the ones that a user gets."""
        generator = Generator(self.recipe.network).to(self.fabric.device)
        generator.load_state_dict(self.average.weights)
        return generator.eval()

    def content(self, metrics: dict[str, float]) -> dict[str, Any]:
        """A checkpoint's content; "generator" holds the averaged weights."""
        provenance = replace(self.recipe.provenance, metrics=metrics, split=self.split)
        return checkpoint_content(
            self.recipe.manifest(provenance),
            self.average.weights,
            recipe=msgspec.to_builtins(self.recipe),
            raw_generator=self.generator.state_dict(),
            discriminator=self.discriminator.state_dict(),
            g_optimiser=self._g_optimiser.state_dict(),
            d_optimiser=self._d_optimiser.state_dict(),
            step=self.step,
            best=self.best,
        )

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            ModelError: if it is unreadable.
            TrainingError: if it belongs to another recipe.
        """
        content = load_checkpoint(path)
        if content.get("recipe") != msgspec.to_builtins(self.recipe):
            raise TrainingError(
                "this run was started with another recipe", where=path, remedy="give the same settings or another --out"
            )
        self.generator.load_state_dict(content["raw_generator"])
        self.discriminator.load_state_dict(content["discriminator"])
        self._g_optimiser.load_state_dict(content["g_optimiser"])
        self._d_optimiser.load_state_dict(content["d_optimiser"])
        self.average.weights = {k: v.to(self.fabric.device) for k, v in content["generator"].items()}
        self.step, self.best = content["step"], content["best"]

    def _descend(self, optimiser: torch.optim.Optimizer, loss: Tensor, initial_rate: float) -> None:
        """Backward, clip and step at this step's learning rate."""
        self._require_finite("loss", loss)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(self.recipe.optimisation, initial_rate, self.step)
        optimiser.zero_grad()
        self.fabric.backward(loss)
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.recipe.optimisation.grad_clip or math.inf)
        self._require_finite("gradient", norm)
        optimiser.step()

    def _require_finite(self, name: str, value: Tensor) -> None:
        """Stop before the weights, and with them the next checkpoint, are spoilt."""
        if not torch.isfinite(value):
            raise TrainingError(
                f"the {name} is not finite at step {self.step}",
                remedy="resume from last.pt with a lower learning rate, or check the images for extreme values",
            )

    def _step_seed(self) -> int:
        """A seed for this step's noise on this device."""
        entropy = [self.recipe.optimisation.seed, self.fabric.global_rank, self.step]
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _start_from(generator: Generator, reference: str) -> None:
    """Take the weights of another model of the same network."""
    model = load_model(reference)
    if model.manifest.network != generator.config:
        raise TrainingError(
            "its network differs from the recipe's",
            where=f"optimisation.initial '{reference}'",
            remedy="give the recipe the network of that model, or start from random weights",
        )
    generator.load_state_dict(model.generator.state_dict())
