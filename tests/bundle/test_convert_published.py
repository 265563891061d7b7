"""A published checkpoint becomes one of ours, with all that its data set implies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from network.literal import CONFIG, Published

from cdal_sdk.bundle import convert_published, load_model
from cdal_sdk.diffusion import published_betas
from cdal_sdk.errors import ModelError, OutputError
from cdal_sdk.network import load_published

MONU = {"dataset": "monu", "num_channels": 1, "num_timesteps": 4}
LUNG = {"dataset": "lung", "num_channels": 1}
HIPPO = {"dataset": "hippo", "num_channels": 3}


@pytest.fixture
def published(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """A function that writes a published checkpoint and its configuration."""

    def write(config: dict[str, Any]) -> tuple[Path, Path]:
        config = CONFIG | config
        network, channels = Published(config), 3 if config["dataset"] == "monu" else 1
        label = torch.zeros(1, config["num_channels"], 16, 16)
        network(label, torch.zeros(1), torch.zeros(1, channels, 16, 16), torch.ones(1, config["nz"]))
        torch.save(network.state, tmp_path / "netG.pth")
        (tmp_path / "parameters.json").write_text(json.dumps(config))
        return tmp_path / "netG.pth", tmp_path / "parameters.json"

    return write


@pytest.mark.parametrize(
    ("config", "labels", "decision", "polarity", "votes"),
    [
        (MONU, ["Nucleus"], "threshold", 1, 5),
        (LUNG, ["Lung"], "threshold", -1, 30),
        (HIPPO, ["Anterior", "Posterior"], "argmax", 1, 5),
    ],
    ids=["MoNuSeg", "CXR", "Hippocampus"],
)
def test_what_the_data_set_implies(published, tmp_path, config, labels, decision, polarity, votes):
    pair = published(config)
    written = convert_published(*pair, tmp_path / "out" / "best.pt")
    model = load_model(tmp_path / "out" / "best.pt")
    assert model.manifest == written
    assert [label.name for label in written.labels] == labels
    assert (written.decision, written.polarity, written.votes) == (decision, polarity, votes)
    steps = config.get("num_timesteps", CONFIG["num_timesteps"])
    assert written.betas == tuple(published_betas(steps).double().tolist())
    assert "research-only" in written.provenance.licence
    for name, value in load_published(*pair).state_dict().items():
        assert torch.equal(model.generator.state_dict()[name], value)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (MONU | {"dataset": "brain"}, "'brain' is none of the published ones"),
        (LUNG | {"num_channels": 2}, "num_channels is 2"),
        (LUNG | {"num_timesteps": 0}, "no schedule"),
        (LUNG | {"beta_max": "high"}, "the schedule cannot be built"),
    ],
)
def test_what_is_no_published_data_set_is_refused(published, tmp_path, config, named):
    with pytest.raises(ModelError) as caught:
        convert_published(*published(config), tmp_path / "best.pt")
    assert named in str(caught.value)
    assert not (tmp_path / "best.pt").exists()


def test_an_output_that_cannot_be_written_is_named(published, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        convert_published(*published(LUNG), tmp_path / "file" / "best.pt")
