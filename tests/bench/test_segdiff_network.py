"""SegDiff's network: its size and cost as published, and what its configuration promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from cdal_bench.segdiff import SegDiff, SegDiffConfig, training_loss
from cdal_sdk.errors import ModelError
from tests.tiny_model import enliven

TINY = SegDiffConfig(
    image_size=16,
    width=16,
    multipliers=(1, 2),
    blocks_per_level=1,
    attention_resolutions=(8,),
    encoder_blocks=1,
    encoder_width=8,
    encoder_growth=4,
    steps=25,
)


def published(blocks: int) -> SegDiff:
    with torch.device("meta"):
        return SegDiff(SegDiffConfig(encoder_blocks=blocks)).eval()


@pytest.mark.parametrize(("blocks", "millions"), [(12, 132.8), (3, 126.4)])
def test_parameters_as_published(blocks, millions):
    count = sum(p.numel() for p in published(blocks).parameters())
    assert count == pytest.approx(millions * 1e6, rel=0.01)


def test_arithmetic_of_an_evaluation_with_its_encoder():
    model = published(12)
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        model(torch.zeros(1, 1, 256, 256), torch.zeros(1), torch.zeros(1, 3, 256, 256))
    assert counter.get_total_flops() == pytest.approx(1650e9, rel=0.01)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"label_channels": 3, "image_channels": 1},
        {"multipliers": (1,)},
        {"multipliers": (2, 1, 3), "heads": 2},
        {"blocks_per_level": 2, "attention_resolutions": (8, 16)},
        {"encoder_blocks": 2, "encoder_growth": 3},
        {"width": 20},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(16, 16), (12, 28)], ids=str)
def test_every_configuration_runs_and_learns_everywhere(changes, size):
    config = replace(TINY, **changes)
    model = enliven(SegDiff(config).train())
    rng = torch.Generator().manual_seed(0)
    image = torch.randn(2, config.image_channels, *size, generator=rng)
    label = torch.randn(2, config.label_channels, *size, generator=rng).sign()
    assert model(label, torch.tensor([3, 7]), image).shape == label.shape
    training_loss(model, image, label, rng).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


def test_image_label_and_step_all_matter():
    model = enliven(SegDiff(TINY).eval())
    rng = torch.Generator().manual_seed(0)
    image, label = torch.randn(1, 3, 16, 16, generator=rng), torch.randn(1, 1, 16, 16, generator=rng)
    with torch.no_grad():
        reference = model(label, torch.tensor([3]), image)
        others = [
            model(label + 1, torch.tensor([3]), image),
            model(label, torch.tensor([20]), image),
            model(label, torch.tensor([3]), image.flip(3)),
        ]
    for other in others:
        assert (other - reference).abs().max() > 0.01


def test_the_encoder_ends_in_two_convolutions_behind_its_trunk():
    """As ESRGAN's does; the trunk's residual goes around all blocks."""
    encoder = enliven(SegDiff(TINY).eval()).encoder
    image = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = encoder(image)
        encoder.trunk.weight.zero_()
        encoder.trunk.bias.zero_()
        bare = encoder(image)
        expected = encoder.last(F.leaky_relu(encoder.hidden(encoder.first(image)), 0.2))
    torch.testing.assert_close(bare, expected)
    assert (whole - bare).abs().max() > 0.01


def test_steps_are_embedded_on_a_scale_of_a_thousand():
    """As improved DDPM rescales them, however many there are."""
    model, seen = SegDiff(TINY).eval(), []
    model.time_embedding.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(torch.zeros(2, 1, 16, 16), torch.tensor([3, 24]), torch.zeros(2, 3, 16, 16))
    assert seen[0].tolist() == [3 * 1000 / TINY.steps, 24 * 1000 / TINY.steps]


def test_a_fresh_network_predicts_nothing():
    model = SegDiff(TINY).eval()
    assert model(torch.ones(1, 1, 16, 16), torch.tensor([3]), torch.ones(1, 3, 16, 16)).abs().max() == 0


def test_a_size_that_does_not_fit_is_refused():
    with pytest.raises(ModelError, match="multiples of 2"):
        SegDiff(TINY).encode(torch.zeros(1, 3, 15, 16))


@pytest.mark.parametrize(
    "changes",
    [{"width": 6}, {"heads": 3}, {"encoder_blocks": 0}, {"multipliers": ()}, {"dropout": 1.0}, {"steps": 20}],
    ids=str,
)
def test_impossible_settings_are_refused(changes):
    with pytest.raises(ModelError):
        replace(TINY, **changes)


def test_training_on_one_image_learns_it():
    """The loss of a fresh network is that of predicting no noise, 1; it must fall well below."""
    torch.manual_seed(0)
    model = SegDiff(replace(TINY, multipliers=(1,), attention_resolutions=())).train()
    rng = torch.Generator().manual_seed(0)
    label = -torch.ones(4, 1, 16, 16)
    label[:, :, 4:12, 4:12] = 1
    image = label.repeat(1, 3, 1, 1)
    optimiser = torch.optim.Adam(model.parameters(), lr=4e-3)
    losses = []
    for _ in range(30):
        loss = training_loss(model, image, label, rng)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(1, abs=0.1)
    assert sum(losses[-10:]) / 10 < 0.6
