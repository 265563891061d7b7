"""The folded sampler is the plain one, on shipped models and on the published configurations."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
import torch

from cdal_bench.configurations import PAPER
from cdal_sdk.bundle import bundled_models, convert_published, load_model
from cdal_sdk.diffusion import SamplerNoise, Sampling, VoteStatistics, sample, vote_statistics
from cdal_sdk.engines import FoldedSampler
from cdal_sdk.network import Generator
from tests.engines.conftest import MODEL
from tests.tiny_model import enliven, tiny_generator

CLOSE = {torch.float32: 1e-4, torch.float64: 1e-9}
BESIDE = Path(__file__).resolve().parents[3] / "shared" / "reference"
PUBLISHED = Path(os.environ.get("CDAL_REFERENCE", BESIDE)) / "published_checkpoints"


def noise_in(dtype: torch.dtype, sampling: Sampling) -> SamplerNoise:
    noise = sampling.noise()
    return SamplerNoise(
        noise.x_T.to(dtype), noise.z.to(dtype), None if noise.posterior is None else noise.posterior.to(dtype)
    )


def plain(generator: Generator, sampling: Sampling, image: torch.Tensor) -> VoteStatistics:
    """Vote by vote through the generator's own forward, the encoder at every step."""
    noise, (height, width), votes = noise_in(image.dtype, sampling), image.shape[2:], []

    def for_each_image(values: torch.Tensor) -> torch.Tensor:
        return values[None].expand(len(image), *values.shape)

    for vote in range(sampling.votes):

        def denoise(x: torch.Tensor, step: int, vote: int = vote) -> torch.Tensor:
            result: torch.Tensor = generator(x, torch.tensor([step]), image, for_each_image(noise.z[step, vote]))
            return result

        draws = [] if noise.posterior is None else [draw[vote, :, :height, :width] for draw in noise.posterior]
        own = SamplerNoise(
            for_each_image(noise.x_T[vote, :, :height, :width]),
            noise.z[:, vote],
            torch.stack([for_each_image(draw) for draw in draws]) if draws else None,
        )
        votes.append(sample(denoise, own, sampling.schedule))
    return vote_statistics(torch.stack(votes))


def compare(generator: Generator, sampling: Sampling, height: int, width: int, *, images: int = 2) -> None:
    """In float64 they are one function, so that in float32 nothing but its rounding is left."""
    generator = copy.deepcopy(generator)
    shape = (images, generator.config.image_channels, height, width)
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for dtype, close in CLOSE.items():
            generator.to(dtype)
            folded = FoldedSampler(generator, sampling.schedule, noise_in(dtype, sampling)).to(dtype)
            expected, found = plain(generator, sampling, image.to(dtype)), folded(image.to(dtype))
            torch.testing.assert_close(found.mean, expected.mean, atol=close, rtol=0)
            torch.testing.assert_close(found.spread, expected.spread, atol=close, rtol=0)
    assert expected.mean.std() > 1e-3
    assert sampling.votes == 1 or expected.spread.mean() > 1e-6


def test_a_small_model_with_and_without_drawn_noise() -> None:
    generator = tiny_generator(MODEL)
    compare(generator, MODEL.sampling(), 10, 6)
    steered = MODEL.sampling(votes=2, seed=4)
    compare(generator, Sampling(steered.schedule, (3, 16, 16), 4, 2, 4, posterior_noise=False), 16, 16)


def test_the_generator_is_left_as_it_was() -> None:
    generator = tiny_generator(MODEL)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    FoldedSampler(generator, MODEL.schedule, MODEL.sampling().noise())
    assert before.keys() == generator.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


@pytest.mark.parametrize("name", bundled_models())
def test_shipped_models(name: str) -> None:
    model = load_model(name)
    compare(model.generator, model.manifest.sampling(votes=2), 4 * model.manifest.plan.divisor, 32)


@pytest.mark.parametrize("name", ["gray_binary", "gray_three_class", "rgb_binary"])
def test_published_checkpoints(name: str, tmp_path: Path) -> None:
    if not PUBLISHED.is_dir():
        pytest.skip(f"no published checkpoints: set CDAL_REFERENCE, or put them in {BESIDE}")
    convert_published(PUBLISHED / f"{name}.pth", PUBLISHED / f"{name}.json", tmp_path / "best.pt")
    model = load_model(tmp_path / "best.pt")
    side = model.generator.config.image_size
    compare(model.generator, model.manifest.sampling(votes=2), side, side)


@pytest.mark.parametrize("name", PAPER)
def test_published_configurations_of_full_size(name: str) -> None:
    """Width, depth, steps and drawn noise as published; a small image and one vote, as the time grows with both."""
    manifest = PAPER[name]
    generator = enliven(Generator(manifest.network).eval().requires_grad_(False))
    side = generator.config.divisor
    compare(generator, manifest.sampling(votes=1), side, side, images=1)
