"""What is timed is what is claimed: same masks, every evaluation counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cdal_bench.published_cdal import PublishedCdal
from cdal_bench.runners import SegDiffRunner
from cdal_bench.segdiff import SegDiff, sample
from cdal_bench.timing import task
from cdal_sdk.engines.eager import TorchEngine
from tests.bench.test_segdiff_network import TINY
from tests.tiny_model import VOLUME, enliven, tiny_generator

IMAGES = np.random.default_rng(3).normal(size=(2, 3, 16, 16)).astype(np.float32)


def segdiff(**settings) -> tuple[SegDiffRunner, list[str]]:
    """A runner, and a log of its network's work."""
    log: list[str] = []
    model = enliven(SegDiff(TINY).eval(), 0.5)
    model.encoder.register_forward_hook(lambda *_: log.append("encoder"))
    model.middle1.register_forward_hook(lambda *_: log.append("network"))
    return SegDiffRunner(model, votes=2, seed=0, device="cpu", **settings), log


@pytest.mark.parametrize(
    ("settings", "encoder", "network"),
    [
        ({"variant": "published"}, 50, 50),
        ({"variant": "hoisted"}, 1, 50),
        ({"variant": "fast"}, 1, 50),
        ({"variant": "fast", "few_steps": 5}, 1, 10),
    ],
    ids=str,
)
def test_the_parts_as_often_as_they_say_are_the_whole(settings, encoder, network):
    runner, log = segdiff(**settings)
    runner.run(IMAGES)
    assert (log.count("encoder"), log.count("network")) == (encoder, network)
    job = task(runner, IMAGES, full=False)
    total = {"encoder": 0, "network": 0}
    for part in job.parts:
        log.clear()
        part.run()
        for name in total:
            total[name] += part.times * log.count(name)
    assert total == {"encoder": encoder, "network": network}
    assert job.extrapolated is not None
    assert f"{network} x step" in job.extrapolated


def test_a_full_run_is_not_extrapolated():
    runner, log = segdiff(variant="published")
    job = task(runner, IMAGES, full=True)
    assert job.extrapolated is None
    job.parts[0].run()
    assert log.count("network") == 50


def test_the_fast_variant_gives_the_same_masks_up_to_bfloat16():
    maps = {variant: segdiff(variant=variant)[0].run(IMAGES) for variant in ("published", "hoisted", "fast")}
    np.testing.assert_allclose(maps["published"].mean, maps["hoisted"].mean, atol=1e-5)
    assert np.abs(maps["published"].mean - maps["fast"].mean).mean() < 0.05
    model = enliven(SegDiff(TINY).eval(), 0.5)
    votes = sample(model, torch.from_numpy(IMAGES), votes=2)
    np.testing.assert_allclose(maps["published"].mean, votes.mean(dim=0).numpy(), atol=1e-5)
    np.testing.assert_allclose(maps["published"].spread, votes.std(dim=0, correction=0).numpy(), atol=1e-4)


@pytest.mark.parametrize("few_steps", [None, 5])
def test_the_parts_of_the_compiled_variant_are_the_whole(few_steps, monkeypatch):
    pytest.importorskip("openvino")
    runner, _ = segdiff(variant="openvino", few_steps=few_steps)
    log: list[str] = []
    for name in ("encode", "denoise"):
        method = getattr(runner._model, name)
        monkeypatch.setattr(runner._model, name, lambda *i, n=name, m=method: (log.append(n), m(*i))[1])
    runner.run(IMAGES)
    whole = (log.count("encode"), log.count("denoise"))
    assert whole == (1, 2 * (few_steps or 25))
    encoder, step = runner.parts(IMAGES)
    log.clear()
    encoder.run()
    step.run()
    assert (encoder.times * log.count("encode"), step.times * log.count("denoise")) == whole


@pytest.mark.parametrize("posterior_noise", [True, False])
def test_cdal_as_published_gives_the_reference_s_masks(posterior_noise):
    manifest = replace(VOLUME, votes=3, posterior_noise=posterior_noise)
    generator, log = tiny_generator(manifest), []
    reference = TorchEngine(generator, manifest.sampling(), "cpu").run(IMAGES)
    generator.encoder.register_forward_hook(lambda *_: log.append("encoder"))
    published = PublishedCdal(generator, manifest.sampling(), "cpu")
    found = published.run(IMAGES)
    assert len(log) == 3 * 2, "the encoder runs at every step of every vote"
    np.testing.assert_allclose(found.mean, reference.mean, atol=1e-5)
    np.testing.assert_allclose(found.spread, reference.spread, atol=1e-4)
    log.clear()
    (part,) = published.parts(IMAGES)
    part.run()
    assert part.times * len(log) == 3 * 2
