"""The generator: what its configuration promises, in every configuration."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cdal_sdk.errors import ModelError
from cdal_sdk.network import Generator, GeneratorConfig
from network.conftest import TINY

PAPER = {
    "MoNuSeg": (
        GeneratorConfig(
            image_channels=3,
            label_channels=1,
            image_size=256,
            width=64,
            multipliers=(1, 1, 1, 2, 2, 4, 4),
            blocks_per_level=2,
            attention_resolutions=(16, 8),
            encoder_blocks=5,
            latent_size=100,
            latent_width=256,
        ),
        41_666_753,
    ),
    "CXR": (
        GeneratorConfig(
            image_channels=1,
            label_channels=1,
            image_size=256,
            width=32,
            multipliers=(1, 1, 2, 2, 4, 4),
            blocks_per_level=1,
            attention_resolutions=(16,),
            encoder_blocks=6,
            latent_size=100,
            latent_width=256,
        ),
        8_843_777,
    ),
    "Hippocampus": (
        GeneratorConfig(
            image_channels=1,
            label_channels=3,
            image_size=32,
            width=32,
            multipliers=(1, 2, 2, 2),
            blocks_per_level=2,
            attention_resolutions=(16,),
            encoder_blocks=6,
            latent_size=50,
            latent_width=128,
        ),
        3_682_275,
    ),
}


@pytest.mark.parametrize("name", PAPER)
def test_parameters_of_the_papers_networks(name):
    config, expected = PAPER[name]
    with torch.device("meta"):
        generator = Generator(config)
    assert sum(p.numel() for p in generator.parameters()) == expected


CONFIGURATIONS = {
    "as it is": {},
    "one level": {"multipliers": (1,), "attention_resolutions": (16,)},
    "four levels": {"multipliers": (1, 1, 2, 3)},
    "narrowing": {"multipliers": (3, 1)},
    "three blocks": {"blocks_per_level": 3},
    "no attention but the middle's": {"attention_resolutions": ()},
    "attention everywhere": {"attention_resolutions": (8, 16)},
    "no encoder blocks": {"encoder_blocks": 0},
    "a latent of one entry": {"latent_size": 1, "latent_layers": 0},
    "width 4": {"width": 4},
    "width 32": {"width": 32},
    "RGB to one label": {"image_channels": 3, "label_channels": 1},
}


@pytest.mark.parametrize("size", [(16, 16), (8, 24), (24, 16)], ids=str)
@pytest.mark.parametrize("changes", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_any_configuration_runs_on_any_size_that_divides(make, inputs, changes, size):
    generator = make(**changes)
    x_t, t, image, z = inputs(generator, size=size)
    with torch.no_grad():
        label = generator(x_t, t, image, z)
    assert label.shape == x_t.shape
    assert label.dtype == torch.float32
    assert label.abs().max() <= 1
    assert label.std() > 0.01


@pytest.mark.parametrize("size", [(15, 16), (16, 18), (2, 16)], ids=str)
def test_a_size_that_does_not_divide_is_refused(make, inputs, size):
    generator = make(multipliers=(1, 1, 1))
    assert generator.config.divisor == 4
    with pytest.raises(ModelError, match=f"{size[0]}x{size[1]} pixels.*multiples of 4"):
        generator(*inputs(generator, size=size))


def test_encode_steer_and_denoise_are_forward(make, inputs):
    generator = make()
    x_t, t, image, z = inputs(generator)
    with torch.no_grad():
        parts = generator.denoise(x_t, generator.encode(image), generator.steer(t, z))
        torch.testing.assert_close(parts, generator(x_t, t, image, z), rtol=0, atol=0)


def test_one_time_serves_a_whole_batch(make, inputs):
    generator = make()
    x_t, _, image, z = inputs(generator)
    with torch.no_grad():
        one = generator(x_t, torch.tensor([1]), image, z)
        torch.testing.assert_close(one, generator(x_t, torch.tensor([1, 1]), image, z))


def test_each_image_of_a_batch_is_by_itself(make, inputs):
    generator = make()
    x_t, t, image, z = inputs(generator, n=3)
    with torch.no_grad():
        batch = generator(x_t, t, image, z)
        for i in range(3):
            one = slice(i, i + 1)
            torch.testing.assert_close(batch[one], generator(x_t[one], t[one], image[one], z[one]))


def test_only_the_direction_of_the_latent_matters(make, inputs):
    generator = make()
    x_t, t, image, z = inputs(generator)
    with torch.no_grad():
        label = generator(x_t, t, image, z)
        torch.testing.assert_close(generator(x_t, t, image, 7 * z), label, atol=1e-5, rtol=0)
        assert (generator(x_t, t, image, -z) - label).abs().max() > 0.01


@pytest.mark.parametrize("which", range(4), ids=["noisy label", "time", "image", "latent"])
def test_every_input_matters(make, inputs, which):
    generator = make()
    arguments = list(inputs(generator))
    with torch.no_grad():
        before = generator(*arguments)
        arguments[which] = arguments[which].flip(0)
        assert (generator(*arguments) - before).abs().max() > 1e-3


def test_every_weight_matters(make, inputs):
    generator = make(attention_resolutions=(8, 16), encoder_blocks=2)
    generator(*inputs(generator)).square().sum().backward()
    idle = [name for name, p in generator.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


def test_attention_sites_follow_image_size_and_not_the_tensor(make, inputs):
    generator = make(image_size=16, attention_resolutions=(8,))
    attended = []
    for name, module in generator.named_modules():
        if name.endswith("query"):
            module.register_forward_hook(lambda _, x, __, name=name: attended.append((name, x[0].shape[-2])))
    with torch.no_grad():
        generator(*inputs(generator, size=(32, 32)))
    assert attended == [  # name and positions that attend
        ("down.1.attentions.0.query", 16 * 16),
        ("middle.1.query", 16 * 16),
        ("up.0.attentions.0.query", 16 * 16),
    ]


def test_without_tanh_the_label_is_unbounded(make, inputs):
    bounded, free = make(), make(tanh=False)
    arguments = inputs(free)
    with torch.no_grad():
        torch.testing.assert_close(free(*arguments).tanh(), bounded(*arguments))


def test_a_fresh_generator_answers_almost_nothing():
    """Its last convolution starts near zero, so training starts from an empty label, not from noise."""
    generator = Generator(TINY)
    zeros = torch.zeros(1, 2, 16, 16)
    assert generator(zeros, torch.tensor([0]), zeros[:, :1], torch.ones(1, 5)).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"image_channels": 0}, "image_channels"),
        ({"label_channels": 0}, "label_channels"),
        ({"blocks_per_level": 0}, "blocks_per_level"),
        ({"latent_layers": -1}, "latent_layers"),
        ({"encoder_blocks": -1}, "encoder_blocks"),
        ({"width": 6}, "width"),
        ({"width": 0}, "width"),
        ({"multipliers": ()}, "multipliers"),
        ({"multipliers": (1, 0)}, "multipliers"),
        ({"dropout": 1.5}, "dropout"),
    ],
)
def test_an_impossible_configuration_is_refused_by_name(changes, named):
    with pytest.raises(ModelError, match=named):
        replace(TINY, **changes)


def test_channels_that_form_no_groups_are_refused():
    with pytest.raises(ModelError, match="140 channels cannot form 32 groups"):
        Generator(replace(TINY, width=140))


def test_without_latent_z_has_no_influence(make, inputs):
    """The ablation of the paper's Table 1: scales and shifts become learned constants."""
    for latent in (True, False):
        generator = make(latent=latent)
        x_t, time_index, image, z = inputs(generator)
        same = torch.equal(generator(x_t, time_index, image, z), generator(x_t, time_index, image, -z))
        assert same == (not latent)
