"""The supervised baselines, each through the same tests."""

from __future__ import annotations

import pytest
import torch

from cdal_bench.baselines import BASELINES, baseline_loss, build_baseline
from cdal_sdk.errors import UsageError
from cdal_sdk.masks import decide
from tests.tiny_model import PLANAR, VOLUME

PARAMETERS = {"unet": 7_782_849, "unetplusplus": 9_118_657, "resunet": 6_494_716}


@pytest.mark.parametrize("name", BASELINES)
def test_parameters(name):
    assert sum(p.numel() for p in build_baseline(name, 1, 1).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("size", [(32, 48), (17, 50)], ids=str)
def test_any_size(name, channels, labels, size):
    torch.manual_seed(0)
    model = build_baseline(name, channels, labels, width=4).eval()
    image = torch.randn(2, channels, *size)
    with torch.no_grad():
        label = model.label(image)
    assert label.shape == (2, labels, *size)
    assert label.abs().max() <= 1
    if labels > 1:
        torch.testing.assert_close(((label + 1) / 2).sum(dim=1), torch.ones(2, *size))


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("name", BASELINES)
def test_the_gradient_reaches_every_parameter(name, labels):
    torch.manual_seed(0)
    model = build_baseline(name, 1, labels, width=4).train()
    rng = torch.Generator().manual_seed(0)
    image, x0 = torch.randn(2, 1, 48, 32, generator=rng), torch.randn(2, labels, 48, 32, generator=rng).sign()
    baseline_loss(model, image, x0).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize(("manifest", "labels"), [(PLANAR, 1), (VOLUME, 3)], ids=["binary", "one-hot"])
def test_the_scale_is_the_generators(manifest, labels):
    """The mask that the shared decision makes is the one of the logits, and the loss falls towards it."""
    torch.manual_seed(0)
    model = build_baseline("unet", 1, labels, width=4).eval()
    image = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        logits, label = model(image)[0], model.label(image)[0]
        mask = decide(label[..., None].numpy(), manifest.labels, manifest.decision, 1)[..., 0]
        expected = logits[0] > 0 if labels == 1 else logits.argmax(dim=0)
        assert (torch.from_numpy(mask) == expected).all()
        right = torch.where(logits > 0, 1.0, -1.0)[None] if labels == 1 else None
        if right is None:
            right = 2.0 * torch.nn.functional.one_hot(expected, labels).permute(2, 0, 1)[None] - 1
        assert baseline_loss(model, image, right) < baseline_loss(model, image, -right)


def test_an_unknown_baseline():
    with pytest.raises(UsageError, match="choose one of: unet, unetplusplus, resunet"):
        build_baseline("medt", 1, 1)
