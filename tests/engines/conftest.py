"""Small models, the engines' builders, and what skips a test whose library is not installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cdal_sdk.bundle import load_model
from cdal_sdk.engines import Builder, Engine, Precision, Target, builder_of, engine_kind
from cdal_sdk.errors import MissingExtraError
from cdal_sdk.network import Generator
from tests.tiny_model import VOLUME, tiny_generator

NETWORK = replace(VOLUME.network, image_channels=2, multipliers=(1, 2))
MODEL = replace(VOLUME, network=NETWORK, plan=replace(VOLUME.plan, channels=2, context=0), votes=3)


def builder(name: str) -> Builder:
    try:
        return builder_of(engine_kind(name))
    except MissingExtraError as error:
        pytest.skip(str(error))


def target(**changes: object) -> Target:
    return replace(Target(MODEL.sampling(), "cpu", "fp32", "weights"), **changes)  # type: ignore[arg-type]


def shipped(name: str, device: str = "cuda", precision: Precision = "fp16") -> tuple[Generator, Target]:
    """A bundled model and what `cdal export` builds of it."""
    model = load_model(name)
    fixed = model.manifest.plan.fixed_size
    return model.generator, Target(model.manifest.sampling(), device, precision, model.weights_sha256, fixed_size=fixed)


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Engine]:
    """A function that builds an engine into a file and opens it."""

    def build(name: str, **changes: object) -> Engine:
        wanted = target(**changes)
        path = tmp_path / f"engine{builder(name).suffix}"
        builder(name).build(tiny_generator(MODEL), wanted, path)
        return builder(name).load(path, wanted)

    return build
