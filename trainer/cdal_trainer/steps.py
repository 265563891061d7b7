"""Algorithm 1 of the paper: one step of the discriminator, one of the generator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdal_sdk.diffusion import Schedule
from cdal_trainer.discriminator import Discriminator, attention_map
from cdal_trainer.recipe import Recipe

__all__ = ["DiscriminatorLosses", "discriminator_losses", "encode_label", "generator_loss"]


def encode_label(labels: Tensor, recipe: Recipe) -> Tensor:
    """Label values uint8 [b, h, w] on the network's scale: float32 [b, label, h, w] in {-1, 1}."""
    if recipe.decision == "threshold":
        return (recipe.polarity * (2.0 * (labels == recipe.labels[0].value).float() - 1.0))[:, None]
    values = torch.tensor([0, *(label.value for label in recipe.labels)], device=labels.device)
    return 2.0 * (labels[:, None] == values[None, :, None, None]).float() - 1.0


def _draw(recipe: Recipe, like: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """A step and a latent for each of a batch: [b], [b, latent_size]."""
    step = torch.randint(recipe.diffusion.steps, (len(like),), generator=rng)
    z = torch.randn(len(like), recipe.network.latent_size, generator=rng)
    return step.to(like.device), z.to(like.device)


def _noise(like: Tensor, rng: torch.Generator) -> Tensor:
    """Standard normal, drawn on the CPU so that it does not depend on the device."""
    return torch.randn(like.shape, generator=rng).to(like.device)


def _real_pair(x0: Tensor, step: Tensor, schedule: Schedule, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """(x_{t-1}, x_t) of the forward process; x_{-1} is the clean label."""
    earlier = schedule.diffuse(x0, (step - 1).clamp_min(0), _noise(x0, rng))
    x_previous = torch.where((step == 0)[:, None, None, None], x0, earlier)
    return x_previous, schedule.forward_step(x_previous, step, _noise(x0, rng))


@dataclass(frozen=True)
class DiscriminatorLosses:
    """Terms of the discriminator's loss, scalars."""

    real: Tensor
    fake: Tensor
    penalty: Tensor

    @property
    def total(self) -> Tensor:
        """What is minimised."""
        return self.real + self.fake + self.penalty


def discriminator_losses(
    discriminator: Discriminator,
    generator: nn.Module,
    image: Tensor,
    x0: Tensor,
    schedule: Schedule,
    recipe: Recipe,
    rng: torch.Generator,
) -> DiscriminatorLosses:
    """Non-saturating logistic loss on real and generated pairs, R1 on the real x_{t-1} (Algorithm 1, step 1)."""
    step, z = _draw(recipe, x0, rng)
    x_previous, x_t = _real_pair(x0, step, schedule, rng)
    logit, gradient = discriminator.judge_real(x_previous, x_t, step)
    penalty = recipe.discriminator.r1_gamma / 2 * gradient.square().sum(dim=(1, 2, 3)).mean()
    with torch.no_grad():
        fake = schedule.posterior(generator(x_t, step, image, z), x_t, step, _noise(x0, rng))
    return DiscriminatorLosses(F.softplus(-logit).mean(), F.softplus(discriminator(fake, x_t, step)).mean(), penalty)


def generator_loss(
    generator: nn.Module,
    discriminator: Discriminator,
    image: Tensor,
    x0: Tensor,
    schedule: Schedule,
    recipe: Recipe,
    rng: torch.Generator,
) -> Tensor:
    """Mean squared error of the clean label from an attention-weighted noisy one (Algorithm 1, step 2).

    There is no adversarial term: the discriminator gives the attention map and nothing else.
    """
    step, z = _draw(recipe, x0, rng)
    attended = x0
    if recipe.attention.scale is not None:
        with torch.no_grad():
            features = discriminator.attention_features(*_real_pair(x0, step, schedule, rng), step)
            size = (x0.shape[2], x0.shape[3])
            attended = x0 * attention_map(features, size, unit=recipe.attention.norm == "unit")
    x_t = schedule.diffuse(attended, step, _noise(x0, rng))
    return F.mse_loss(generator(x_t, step, image, z), x0)
