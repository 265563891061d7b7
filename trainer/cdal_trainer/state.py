"""The state of a training run: networks, optimisers, averaged weights and a step number.

Nothing random outlives a step: batches, time steps, latents and noise are functions of (seed, rank, step), and the
learning rate is one of the step. So this is all that a checkpoint needs for a resumed run to go on bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from cdal_sdk.bundle import SplitRecord, checkpoint_content, load_checkpoint, load_model
from cdal_sdk.engines import Engine
from cdal_sdk.errors import TrainingError
from cdal_trainer.average import WeightAverage
from cdal_trainer.batches import Batch
from cdal_trainer.method import Descent, Method, make_method
from cdal_trainer.recipe import Optimisation, Recipe
from cdal_trainer.watch import Watch

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
        words: which cases train and which validate, as a sentence for the model card.
        split: the same as a record for the model; None where that does not matter.
    """

    def __init__(self, recipe: Recipe, fabric: Fabric, words: str = "", split: SplitRecord | None = None) -> None:
        self.recipe, self.fabric, self.split, self.words = recipe, fabric, split, words
        self.method: Method = make_method(recipe)
        torch.manual_seed(recipe.optimisation.seed)
        self.networks = self.method.networks()
        if fabric.world_size > 1 and recipe.discriminator.separate:
            raise TrainingError("discriminator.separate takes one device", remedy="train on one, or switch it off")
        self.main = self.networks[next(iter(self.method.rates))]
        if recipe.optimisation.initial:
            _start_from(self.main, recipe.optimisation.initial)
        self._layout = torch.channels_last if recipe.optimisation.channels_last else torch.contiguous_format
        # Fabric wraps every module; self.networks stay the plain ones for state dicts.
        self._wrapped: dict[str, nn.Module] = {}
        self._optimisers: dict[str, torch.optim.Optimizer] = {}
        for name, network in self.networks.items():
            network.to(memory_format=self._layout)  # type: ignore[call-overload]  # the stubs lack it
            adam = torch.optim.Adam(network.parameters(), betas=recipe.optimisation.adam_betas)
            wrapped, self._optimisers[name] = fabric.setup(network, adam)
            for further in self.method.forward_methods.get(name, ()):
                wrapped.mark_forward_method(further)
            self._wrapped[name] = wrapped
        self.average = WeightAverage(self.main, recipe.optimisation.ema)
        self.watch = Watch()
        self.step = 0
        self.best = -math.inf

    def advance(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the method; returns the terms of its losses by name.

        A batch in several parts is computed part by part, so that only one of them takes memory.
        """
        parts = min(self.recipe.optimisation.accumulate, len(batch[0]))
        shares = zip(*(tensor.chunk(parts) for tensor in batch), strict=True)
        torch.manual_seed(self._step_seed())  # of dropout
        rng = torch.Generator().manual_seed(self._step_seed())
        running = [
            (len(image) / len(batch[0]), self.method.descents(self._wrapped, self._laid(image), labels, self.step, rng))
            for image, labels in shares
        ]
        terms: dict[str, Tensor] = {}
        share, leading = running[0]
        while first := next(leading, None):
            self._optimisers[first.network].zero_grad()
            self._add_gradient(first, terms, share)
            for share_of_other, other in running[1:]:
                self._add_gradient(next(other), terms, share_of_other)
            self._take_step(first.network)
        self.average.update(self.main, self.step)
        self.step += 1
        return terms

    def _laid(self, image: Tensor) -> Tensor:
        return image.to(memory_format=self._layout)

    def _add_gradient(self, descent: Descent, terms: dict[str, Tensor], share: float) -> None:
        """Back-propagate one part's share of the loss, and add its terms up."""
        self._require_finite(f"loss of the {descent.network}", descent.loss)
        self.fabric.backward(descent.loss * share)
        for name, value in descent.terms.items():
            terms[name] = terms.get(name, 0) + value.detach() * share

    def _take_step(self, network: str) -> None:
        """Clip, and step at this training step's learning rate."""
        settings, optimiser = self.recipe.optimisation, self._optimisers[network]
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(settings, self.method.rates[network], self.step)
        norm = torch.nn.utils.clip_grad_norm_(self.networks[network].parameters(), settings.grad_clip or math.inf)
        self._require_finite(f"gradient of the {network}", norm)
        optimiser.step()

    def engine(self, weights: dict[str, Tensor] | None = None, votes: int | None = None) -> Engine:
        """What segments with the averaged weights, the ones that a user gets, or with others."""
        network = self.method.networks()[next(iter(self.method.rates))].to(self.fabric.device)
        network.load_state_dict(self.average.weights if weights is None else weights)
        return self.method.engine(network.eval(), votes, None, str(self.fabric.device))

    def content(self, metrics: dict[str, float]) -> dict[str, Any]:
        """A checkpoint's content; "generator" holds the averaged weights."""
        provenance = replace(self.recipe.provenance, metrics=metrics, split=self.words)
        return checkpoint_content(
            self.recipe.manifest(provenance),
            self.average.weights,
            method=self.recipe.method,
            recipe=msgspec.to_builtins(self.recipe),
            networks={name: network.state_dict() for name, network in self.networks.items()},
            optimisers={name: optimiser.state_dict() for name, optimiser in self._optimisers.items()},
            split=None if self.split is None else msgspec.to_builtins(self.split),
            watch=asdict(self.watch),
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
        for name, network in self.networks.items():
            network.load_state_dict(content["networks"][name])
            self._optimisers[name].load_state_dict(content["optimisers"][name])
        self.average.weights = {k: v.to(self.fabric.device) for k, v in content["generator"].items()}
        self.watch, self.step, self.best = Watch(**content["watch"]), content["step"], content["best"]

    def _require_finite(self, name: str, value: Tensor) -> None:
        """Stop, on all devices at once, before the weights and with them the next checkpoint are spoilt."""
        spoilt = (~torch.isfinite(value.detach())).float()
        if self.fabric.world_size > 1:
            spoilt = torch.as_tensor(self.fabric.all_reduce(spoilt, reduce_op="sum"))
        if spoilt:
            raise TrainingError(f"the {name} is not finite at step {self.step}")

    def _step_seed(self) -> int:
        """A seed for this step's noise on this device."""
        entropy = [self.recipe.optimisation.seed, self.fabric.global_rank, self.step]
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _start_from(network: nn.Module, reference: str) -> None:
    """Take the weights of another model of the same layers, maybe trained at another size, or of a baseline's."""
    path = Path(reference)
    weights = load_checkpoint(path)["generator"] if path.is_file() else load_model(reference).generator.state_dict()
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    if shapes != {name: value.shape for name, value in weights.items()}:
        raise TrainingError(
            "its network differs from the recipe's",
            where=f"optimisation.initial '{reference}'",
            remedy="give the recipe the network of that model, or start from random weights",
        )
    network.load_state_dict(weights)
