"""The fused sampler is the plain one: image by image, vote by vote, through the generator's own forward."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cdal_sdk.diffusion import SamplerNoise, Schedule, draw_noise, paper_betas, sample, vote_statistics
from cdal_sdk.engines.fused import FusedSampler
from cdal_sdk.network import Generator
from tests.tiny_model import VOLUME, enliven

CANVAS = (16, 24)
SCHEDULE = Schedule.of(paper_betas(3))
CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(scope="module")
def generator() -> Generator:
    config = replace(VOLUME.network, image_channels=2, multipliers=(1, 2))
    return enliven(Generator(config).eval().requires_grad_(False))


def draw(*, votes: int = 3, posterior: bool = True, seed: int = 0) -> SamplerNoise:
    shape = (3, *CANVAS)
    return draw_noise(seed, steps=3, votes=votes, label_shape=shape, latent_size=4, posterior_noise=posterior)


def images(n: int, height: int = CANVAS[0], width: int = CANVAS[1]) -> torch.Tensor:
    return torch.randn(n, 2, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("posterior", [True, False], ids=["drawn", "mean"])
@pytest.mark.parametrize("size", [CANVAS, (8, 24), (10, 6)], ids=str)
def test_it_equals_the_plain_sampler(generator, size, posterior):
    noise, batch = draw(posterior=posterior), images(2, *size)
    mean, spread = FusedSampler(generator, SCHEDULE, noise)(batch)
    height, width = size
    for i, image in enumerate(batch):
        votes = []
        for vote in range(3):

            def denoise(x, step, image=image, vote=vote):
                return generator(x, torch.tensor([step]), image[None], noise.z[step, vote][None])

            own = SamplerNoise(
                noise.x_T[vote][None, :, :height, :width],
                noise.z[:, vote],
                noise.posterior[:, vote, None, :, :height, :width] if posterior else None,
            )
            votes.append(sample(denoise, own, SCHEDULE))
        expected = vote_statistics(torch.stack(votes))
        torch.testing.assert_close(mean[i], expected.mean[0], **CLOSE)
        torch.testing.assert_close(spread[i], expected.spread[0], **CLOSE)
    assert spread.mean() > 1e-3


def test_an_image_s_result_does_not_depend_on_its_batch(generator):
    sampler, batch = FusedSampler(generator, SCHEDULE, draw()), images(4)
    together = sampler(batch)
    backwards = sampler(batch.flip(0))
    for i in range(4):
        alone = sampler(batch[i : i + 1])
        torch.testing.assert_close(together.mean[i], alone.mean[0], **CLOSE)
        torch.testing.assert_close(together.spread[i], alone.spread[0], **CLOSE)
        torch.testing.assert_close(together.mean[i], backwards.mean[3 - i], **CLOSE)


def test_equal_images_get_equal_results(generator):
    mean, _ = FusedSampler(generator, SCHEDULE, draw())(images(1).expand(3, -1, -1, -1))
    torch.testing.assert_close(mean[0], mean[2], **CLOSE)


def test_the_condition_is_encoded_once_an_image(generator):
    encoded = []
    hook = generator.encoder.register_forward_hook(lambda _, inputs, __: encoded.append(inputs[0].shape[0]))
    FusedSampler(generator, SCHEDULE, draw())(images(2))
    hook.remove()
    assert encoded == [2]


def test_one_vote_has_no_spread(generator):
    sampler = FusedSampler(generator, SCHEDULE, draw(votes=1))
    assert not sampler(images(2)).spread.any()


def test_another_seed_gives_another_result(generator):
    first, second = (FusedSampler(generator, SCHEDULE, draw(seed=seed))(images(1)) for seed in (0, 1))
    assert (first.mean - second.mean).abs().max() > 1e-3


def test_the_noise_moves_and_is_saved_with_the_module(generator):
    sampler = FusedSampler(generator, SCHEDULE, draw())
    assert {"x_T", "z", "posterior"} <= sampler.state_dict().keys()
    sampler = FusedSampler(generator, SCHEDULE, draw(posterior=False))
    assert "posterior" not in sampler.state_dict()
