"""Networks of trained baselines, as the benchmark takes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdal_bench.baselines import Baseline
from cdal_bench.configurations import Subject
from cdal_bench.contenders import prepare_contender
from cdal_bench.segdiff import SegDiff
from cdal_sdk.bundle import load_checkpoint
from cdal_sdk.errors import ModelError
from cdal_trainer.trained import trained_network
from tests.tiny_model import VOLUME


@pytest.mark.parametrize(("name", "kind"), [("segdiff", SegDiff), ("unet", Baseline)])
def test_a_trained_one_is_loaded(name, kind, checkpoints: dict[str, Path]):
    _, network = trained_network(load_checkpoint(checkpoints[name]), checkpoints[name])
    assert isinstance(network, kind)
    assert not network.training


def test_weights_of_another_baseline_are_refused(checkpoints: dict[str, Path]):
    subject = Subject("", VOLUME, trained=False)
    with pytest.raises(ModelError, match="another baseline"):
        prepare_contender("unet", subject, (16, 16), weights=checkpoints["segdiff"])
