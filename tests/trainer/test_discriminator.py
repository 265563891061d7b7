"""The discriminator: shapes, what it sees, what it costs, and the attention map that it is there for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import interpolate
from torch.utils.flop_counter import FlopCounterMode

from cdal_sdk.errors import TrainingError
from cdal_sdk.network import Generator
from cdal_trainer.discriminator import Discriminator, StepDiscriminators, attention_map
from cdal_trainer.recipe import load_recipe
from tests.tiny_model import enliven


@pytest.fixture
def discriminator() -> Discriminator:
    return enliven(Discriminator(label_channels=3, image_size=32, width=4, time_width=8, attention_scale=16), gain=1.5)


def pair(n: int = 4, size: tuple[int, int] = (32, 32)) -> tuple[torch.Tensor, ...]:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, *size, generator=rng), torch.randn(n, 3, *size, generator=rng), torch.arange(n) % 2


@pytest.mark.parametrize("size", [(32, 32), (16, 48), (40, 56)], ids=str)
def test_one_logit_a_pair(discriminator, size):
    assert discriminator(*pair(size=size)).shape == (4,)


@pytest.mark.parametrize("which", range(3), ids=["x_{t-1}", "x_t", "step"])
def test_every_input_matters(discriminator, which):
    arguments = list(pair())
    before = discriminator(*arguments)
    arguments[which] = arguments[which].flip(0)
    assert (discriminator(*arguments) - before).abs().max() > 1e-3


def test_every_weight_matters(discriminator):
    discriminator(*pair()).square().sum().backward()
    assert not [name for name, p in discriminator.named_parameters() if p.grad is None or not p.grad.any()]


def test_it_sees_how_different_the_batch_is(discriminator):
    """Without the minibatch deviation, a pair's logit could not depend on its neighbours."""
    x_previous, x_t, step = pair(2)
    step = torch.zeros_like(step)
    alone = discriminator(*(v[:1].expand(2, *v.shape[1:]) for v in (x_previous, x_t)), step)[0]
    assert (discriminator(x_previous, x_t, step)[0] - alone).abs() > 1e-4


@pytest.mark.parametrize("scale", [16, 8, 4, 2])
def test_features_for_attention_have_the_scale_that_was_asked_for(scale):
    discriminator = Discriminator(3, 32, 4, 8, scale)
    assert discriminator.attention_features(*pair()).shape[2:] == (scale, scale)
    assert discriminator.attention_features(*pair(size=(64, 32))).shape[2:] == (2 * scale, scale)


def test_they_are_the_very_features_of_the_whole_network():
    discriminator = Discriminator(3, 32, 4, 8, 8)
    torch.testing.assert_close(discriminator.attention_features(*pair()), discriminator.features(*pair())[1])


@pytest.mark.parametrize("scale", [32, 12, 1])
def test_a_scale_that_it_does_not_have_is_refused(scale):
    with pytest.raises(TrainingError, match=rf"attention.scale is {scale}; choose one of \[16, 8, 4, 2\]"):
        Discriminator(3, 32, 4, 8, scale)


def test_unit_maps_span_zero_to_one_for_each_image():
    features = torch.randn(5, 7, 4, 6, generator=torch.Generator().manual_seed(0)) * 30 + 100
    result = attention_map(features, (4, 6), unit=True)
    assert result.shape == (5, 1, 4, 6)
    torch.testing.assert_close(result.amin(dim=(1, 2, 3)), torch.zeros(5))
    torch.testing.assert_close(result.amax(dim=(1, 2, 3)), torch.ones(5))
    larger = attention_map(features, (16, 24), unit=True)
    assert larger.shape == (5, 1, 16, 24)
    assert larger.min() >= 0
    assert larger.max() <= 1


def test_the_paper_s_map_is_the_plain_channel_mean_enlarged():
    features = torch.randn(2, 7, 4, 6)
    expected = interpolate(features.mean(dim=1, keepdim=True), size=(8, 12), mode="bilinear", align_corners=False)
    torch.testing.assert_close(attention_map(features, (8, 12), unit=False), expected)


def test_a_flat_map_stays_finite():
    assert attention_map(torch.full((1, 3, 4, 4), 5.0), (8, 8), unit=True).isfinite().all()


def test_it_costs_a_fraction_of_the_generator():
    """Multiply-adds of the bundled recipe's networks on its own crop."""
    recipe = load_recipe("hippocampus")
    network, settings, (height, width) = recipe.network, recipe.discriminator, recipe.data.crop

    def cost(run: Callable[[], object]) -> int:
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops()

    with torch.device("meta"):
        generator = Generator(network)
        discriminator = Discriminator(
            network.label_channels, network.image_size, settings.width, settings.time_width, recipe.attention.scale
        )
        label = torch.zeros(1, network.label_channels, height, width)
        image, z = torch.zeros(1, network.image_channels, height, width), torch.zeros(1, network.latent_size)
        step = torch.zeros(1, dtype=torch.long)
        of_generator = cost(lambda: generator(label, step, image, z))
        of_discriminator = cost(lambda: discriminator(label, label, step))
    assert of_generator > 1e9
    assert of_discriminator < of_generator / 10


class TestSeparate:
    @pytest.fixture
    def members(self) -> StepDiscriminators:
        return StepDiscriminators(enliven(Discriminator(3, 32, 4, 8, 16), gain=1 + n / 3) for n in range(3))

    @pytest.fixture
    def pairs(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rng = torch.Generator().manual_seed(0)
        x_previous, x_t = torch.randn(2, 5, 3, 32, 32, generator=rng)
        return x_previous, x_t, torch.tensor([2, 0, 2, 0, 0])

    @pytest.mark.parametrize("call", ["forward", "attention_features"])
    def test_each_pair_is_judged_by_its_step_s_member(self, members, pairs, call):
        judged = getattr(members, call)(*pairs)
        for step in (0, 2):
            chosen = pairs[2] == step
            expected = getattr(members.members[step], call)(*(part[chosen] for part in pairs))
            torch.testing.assert_close(judged[chosen], expected)

    def test_the_gradient_reaches_the_members_that_judged(self, members, pairs):
        logit, gradient = members.judge_real(*pairs)
        assert gradient.shape == pairs[0].shape
        (logit.sum() + gradient.square().sum()).backward()
        touched = [any(p.grad is not None for p in member.parameters()) for member in members.members]
        assert touched == [True, False, True]
