"""The folded sampler is the fused one, on shipped models and on the published configurations."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from cdal_sdk.bundle import bundled_models, convert_published, load_model
from cdal_sdk.diffusion import Sampling
from cdal_sdk.engines import FoldedSampler, fuse
from cdal_sdk.network import Generator
from tests.engines.conftest import MODEL
from tests.tiny_model import tiny_generator

CLOSE = {"atol": 1e-5, "rtol": 0}
BESIDE = Path(__file__).resolve().parents[3] / "shared" / "reference"
PUBLISHED = Path(os.environ.get("CDAL_REFERENCE", BESIDE)) / "published_checkpoints"


def compare(generator: Generator, sampling: Sampling, height: int, width: int) -> None:
    folded = FoldedSampler(generator, sampling.schedule, sampling.noise())
    image = torch.randn(2, generator.config.image_channels, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = fuse(generator, sampling)(image), folded(image)
    torch.testing.assert_close(found.mean, expected.mean, **CLOSE)
    torch.testing.assert_close(found.spread, expected.spread, **CLOSE)
    assert expected.spread.mean() > 1e-6


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
def test_published_configurations(name: str, tmp_path: Path) -> None:
    if not PUBLISHED.is_dir():
        pytest.skip(f"no published checkpoints: set CDAL_REFERENCE, or put them in {BESIDE}")
    convert_published(PUBLISHED / f"{name}.pth", PUBLISHED / f"{name}.json", tmp_path / "best.pt")
    model = load_model(tmp_path / "best.pt")
    side = model.generator.config.image_size
    compare(model.generator, model.manifest.sampling(votes=2), side, side)
