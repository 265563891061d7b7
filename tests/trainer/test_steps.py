"""Algorithm 1: what each step minimises, and whom it teaches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from cdal_sdk.diffusion import Schedule
from cdal_sdk.network import Generator
from cdal_trainer.discriminator import Discriminator
from cdal_trainer.steps import discriminator_losses, encode_label, generator_loss
from tests.tiny_model import enliven


@pytest.fixture
def networks(recipe) -> tuple[Generator, Discriminator]:
    return enliven(Generator(recipe.network)), enliven(Discriminator(3, 16, 4, 8, recipe.attention.scale))


@pytest.fixture
def batch(recipe) -> tuple[Tensor, Tensor]:
    """Images and one-hot labels on the network's scale."""
    labels = torch.zeros(2, 16, 16, dtype=torch.uint8)
    labels[:, 2:9, 3:12] = 1
    labels[:, 6:9, 3:12] = 2
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), encode_label(labels, recipe)


class Recorder(Discriminator):
    """A discriminator that answers what it is told to, and remembers what it was shown."""

    def __init__(self, logit: Callable[[Tensor], Tensor] = lambda x_previous: x_previous.mean(dim=(1, 2, 3))) -> None:
        super().__init__(3, 16, 4, 8, 8)
        self.answer = logit
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, x_previous: Tensor, x_t: Tensor, step: Tensor) -> Tensor:
        self.seen.append((x_previous.detach(), x_t, step))
        return self.answer(x_previous)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def schedule(recipe) -> Schedule:
    return recipe.manifest().schedule


def gradients(module: torch.nn.Module) -> list[Tensor]:
    return [p.grad for p in module.parameters() if p.grad is not None]


def test_labels_become_one_hot_between_minus_one_and_one(recipe):
    labels = torch.tensor([[[0, 1], [2, 0]]], dtype=torch.uint8)
    expected = [[[1, -1], [-1, 1]], [[-1, 1], [-1, -1]], [[-1, -1], [1, -1]]]
    assert encode_label(labels, recipe).tolist() == [expected]


@pytest.mark.parametrize(("polarity", "expected"), [(1, [-1, 1]), (-1, [1, -1])])
def test_a_binary_label_follows_its_polarity(recipe, polarity, expected):
    binary = replace(recipe, decision="threshold", polarity=polarity, labels=recipe.labels[:1])
    assert encode_label(torch.tensor([[[0, 1]]], dtype=torch.uint8), binary).tolist() == [[[expected]]]


def test_the_discriminator_s_loss_teaches_the_discriminator_alone(recipe, networks, batch):
    generator, discriminator = networks
    losses = discriminator_losses(discriminator, generator, *batch, schedule(recipe), recipe, rng())
    losses.total.backward()
    assert all(g.any() for g in gradients(discriminator))
    assert len(gradients(discriminator)) == len(list(discriminator.parameters()))
    assert not gradients(generator)


def test_the_generator_s_loss_teaches_the_generator_alone(recipe, networks, batch):
    generator, discriminator = networks
    generator_loss(generator, discriminator, *batch, schedule(recipe), recipe, rng()).backward()
    assert len(gradients(generator)) == len(list(generator.parameters()))
    assert not gradients(discriminator)


def test_discriminator_losses_are_logistic_and_r1(recipe, networks, batch):
    """Where the logit is 0.03 sum(x_{t-1}), the penalty is gamma/2 times 0.03^2 an entry."""
    generator, _ = networks

    def logit(x_previous: Tensor) -> Tensor:
        return 0.03 * x_previous.sum(dim=(1, 2, 3))

    discriminator = Recorder(logit)
    recipe = replace(recipe, discriminator=replace(recipe.discriminator, r1_gamma=0.5))
    losses = discriminator_losses(discriminator, generator, *batch, schedule(recipe), recipe, rng())
    real, fake = (logit(x_previous) for x_previous, _, _ in discriminator.seen)
    torch.testing.assert_close(losses.real, torch.log1p(torch.exp(-real)).mean())
    torch.testing.assert_close(losses.fake, torch.log1p(torch.exp(fake)).mean())
    assert losses.penalty.item() == pytest.approx(0.5 / 2 * (3 * 16 * 16) * 0.03**2)
    torch.testing.assert_close(losses.total, losses.real + losses.fake + losses.penalty)


def test_the_penalty_teaches_the_discriminator(networks, batch):
    """So the gradient itself must be differentiable."""
    _, discriminator = networks
    x0 = batch[1]
    logit, gradient = discriminator.judge_real(x0, x0, torch.tensor([0, 1]))
    torch.testing.assert_close(logit, discriminator(x0, x0, torch.tensor([0, 1])))
    gradient.square().sum().backward()
    assert discriminator.stem.conv.weight.grad.any()


def test_real_pairs_follow_the_forward_process(recipe):
    """x_{t-1} of a constant label has the mean and spread of q(x_{t-1} | x0), and x_t those of q(x_t | x0)."""
    betas, discriminator = schedule(recipe), Recorder()
    x0, image = torch.full((64, 3, 16, 16), 0.7), torch.zeros(64, 3, 16, 16)
    discriminator_losses(discriminator, lambda x_t, *_: x_t, image, x0, betas, recipe, rng())
    x_previous, x_t, step = discriminator.seen[0]
    assert torch.equal(x_previous[step == 0], x0[step == 0])
    for values, wanted in ((x_previous[step == 1], 0), (x_t[step == 0], 0), (x_t[step == 1], 1)):
        alpha_bar = betas.alpha_bars[wanted]
        assert values.mean().item() == pytest.approx(0.7 * alpha_bar**0.5, abs=0.03)
        assert values.var().item() == pytest.approx(1 - alpha_bar, abs=0.03)


def test_the_fake_is_a_draw_of_the_posterior_of_the_generator_s_answer(recipe, batch):
    """At the cleanest step that is the answer itself; the pair shares x_t with the real one."""
    one_step = replace(recipe, diffusion=replace(recipe.diffusion, steps=1))
    discriminator, answer = Recorder(), torch.full_like(batch[1], 0.25)
    discriminator_losses(discriminator, lambda *_: answer, *batch, schedule(one_step), one_step, rng())
    (_, real_x_t, _), (fake, fake_x_t, _) = discriminator.seen
    torch.testing.assert_close(fake, answer)
    assert torch.equal(fake_x_t, real_x_t)


def test_without_attention_the_loss_is_the_plain_reconstruction(recipe, networks, batch):
    generator, discriminator = networks
    plain = replace(recipe, attention=replace(recipe.attention, scale=None))
    seen = []

    def record(x_t, step, image, z):
        seen.append((x_t, step, z))
        return generator(x_t, step, image, z)

    loss = generator_loss(record, discriminator, *batch, schedule(recipe), plain, rng())
    ((x_t, step, z),) = seen
    torch.testing.assert_close(loss, mse_loss(generator(x_t, step, batch[0], z), batch[1]))
    assert z.shape == (2, 4)
    assert step.max() < recipe.diffusion.steps


def test_attention_weighs_the_label_that_the_generator_sees_but_not_its_target(recipe, batch):
    """With attention zero everywhere, the generator sees pure noise, and must still answer the whole label."""
    image, x0 = batch
    seen = []

    class Blind:
        def attention_features(self, x_previous, x_t, step):
            return torch.zeros(2, 5, 4, 6)

    def answer(x_t, step, image, z):
        seen.append(x_t)
        return x0

    none = replace(recipe, attention=replace(recipe.attention, norm="none"))
    loss = generator_loss(answer, Blind(), image, x0, schedule(recipe), none, rng())
    again = generator_loss(answer, Blind(), image, -x0, schedule(recipe), none, rng())
    torch.testing.assert_close(*seen)  # whatever the label is
    assert loss == 0
    assert again == 4


def test_a_seed_repeats_a_step(recipe, networks, batch):
    losses = [generator_loss(*networks, *batch, schedule(recipe), recipe, rng(seed)).item() for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
