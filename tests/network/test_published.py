"""Published checkpoints: equal outputs, strict loading, and no code run on the way."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from cdal_sdk.diffusion import SamplerNoise, Schedule, published_betas, sample
from cdal_sdk.errors import ModelError
from cdal_sdk.network import load_published
from network.literal import CONFIG, Published

Pair = tuple[Path, Path]


def draw(config: dict[str, Any], size: tuple[int, int] = (16, 16), n: int = 2) -> tuple[Tensor, ...]:
    """(x_t, time index, image, z) for a published configuration."""
    rng, channels = torch.Generator().manual_seed(1), 3 if config["dataset"] == "monu" else 1
    x_t = torch.randn(n, config["num_channels"], *size, generator=rng)
    image = torch.randn(n, channels, *size, generator=rng)
    return x_t, torch.arange(n), image, torch.randn(n, config["nz"], generator=rng)


@cache
def published_state(config: str) -> dict[str, Tensor]:
    """The state dict of a configuration, given as JSON."""
    network = Published(json.loads(config))
    network(*draw(network.config))
    return network.state


@pytest.fixture
def published(tmp_path: Path) -> Callable[..., tuple[Published, Pair]]:
    """A function that makes a network of the published family and writes its checkpoint and configuration."""

    def write(**changes: Any) -> tuple[Published, Pair]:
        config = CONFIG | changes
        network = Published(config)
        network.state = dict(published_state(json.dumps(config)))
        pair = tmp_path / "netG.pth", tmp_path / "parameters.json"
        torch.save({f"module.{name}": value for name, value in network.state.items()}, pair[0])
        pair[1].write_text(json.dumps(config))
        return network, pair

    return write


def refusal(pair: Pair) -> str:
    with pytest.raises(ModelError) as caught:
        load_published(*pair)
    return str(caught.value)


FAMILY = {
    "as it is": {},
    "gray, three classes": {"dataset": "hippo", "num_channels": 3},
    "deeper": {"ch_mult": [1, 1, 2], "num_res_blocks": 2, "attn_resolutions": [8, 4]},
    "attention at the top": {"attn_resolutions": [16]},
    "no attention but the middle's": {"attn_resolutions": []},
    "one level": {"ch_mult": [1], "attn_resolutions": []},
    "more encoder": {"cond_enc_layers": 2, "cond_enc_num_res_blocks": 2},
    "one latent layer": {"n_mlp": 0},
    "more latent layers": {"n_mlp": 4},
    "wide": {"num_channels_dae": 64},
    "without tanh": {"not_use_tanh": True},
}


@pytest.mark.parametrize("changes", FAMILY.values(), ids=FAMILY)
def test_a_checkpoint_of_the_family_gives_equal_outputs(published, changes):
    network, pair = published(**changes)
    generator = load_published(*pair)
    assert not generator.training
    for size in ((16, 16), (8, 24)):
        arguments = draw(network.config, size)
        with torch.no_grad():
            torch.testing.assert_close(generator(*arguments), network(*arguments).float(), atol=2e-5, rtol=1e-4)


def test_the_prefix_of_data_parallel_training_is_optional(published):
    network, pair = published()
    torch.save(network.state, pair[0])
    load_published(*pair)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dataset", "lung"),
        ("num_channels", 1),
        ("num_channels_dae", 64),
        ("ch_mult", [1, 1]),
        ("ch_mult", [2, 2]),
        ("ch_mult", [1, 2, 2]),
        ("ch_mult", [1]),
        ("num_res_blocks", 2),
        ("attn_resolutions", []),
        ("attn_resolutions", [16]),
        ("attn_resolutions", [16, 8]),
        ("image_size", 32),
        ("image_size", 8),
        ("cond_enc_layers", 0),
        ("cond_enc_layers", 2),
        ("cond_enc_num_res_blocks", 1),
        ("cond_enc_num_res_blocks", 3),
        ("nz", 7),
        ("z_emb_dim", 16),
        ("n_mlp", 1),
        ("n_mlp", 3),
    ],
)
def test_a_configuration_of_another_run_is_refused_and_the_key_named(published, key, value):
    _, pair = published()
    pair[1].write_text(json.dumps(CONFIG | {key: value}))
    message = refusal(pair)
    assert key in message.split("keys of the configuration")[1]
    assert "all_modules." in message or "z_transform." in message
    assert str(pair[0]) in message


def test_a_missing_entry_is_named(published):
    network, pair = published()
    del network.state["all_modules.6.Conv_0.weight"]
    torch.save(network.state, pair[0])
    assert "'all_modules.6.Conv_0.weight' is missing" in refusal(pair)


def test_an_extra_entry_is_named(published):
    network, pair = published()
    torch.save(network.state | {"all_modules.99.weight": torch.zeros(1)}, pair[0])
    assert "all_modules.99.weight" in refusal(pair)


def test_a_misshapen_entry_is_named_with_both_shapes(published):
    network, pair = published()
    torch.save(network.state | {"all_modules.2.weight": torch.zeros(32, 4, 3, 3)}, pair[0])
    message = refusal(pair)
    assert "'all_modules.2.weight' has shape [32, 4, 3, 3]" in message
    assert "asks for [32, 3, 3, 3]" in message


def test_a_pickle_that_holds_code_is_refused_and_not_run(published, tmp_path):
    _, pair = published()
    mark = tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(mark),))

    pair[0].write_bytes(pickle.dumps({"all_modules.0.weight": Bomb()}, protocol=2))
    assert "holds code" in refusal(pair)
    torch.save({"all_modules.0.weight": Bomb()}, pair[0])
    assert "holds code" in refusal(pair)
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut off", bytes(range(256))], ids=repr)
def test_a_file_that_is_no_checkpoint_is_refused(published, content):
    _, pair = published()
    pair[0].write_bytes(content)
    assert str(pair[0]) in refusal(pair)


def test_a_truncated_checkpoint_is_refused(published):
    _, pair = published()
    pair[0].write_bytes(pair[0].read_bytes()[:-1000])
    assert str(pair[0]) in refusal(pair)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(3)], ids=["list", "no tensors", "tensor"])
def test_what_is_no_state_dict_is_refused(published, content):
    _, pair = published()
    torch.save(content, pair[0])
    assert "no state dict" in refusal(pair)


@pytest.mark.parametrize("which", [0, 1], ids=["checkpoint", "configuration"])
def test_a_missing_file_is_named(published, which):
    _, pair = published()
    pair[which].unlink()
    assert f"{pair[which]}: there is no such file" in refusal(pair)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "no readable JSON"),
        ("\xff\xfe", "no readable JSON"),
        ("[1]", "holds no object"),
        (json.dumps({k: v for k, v in CONFIG.items() if k != "nz"}), "'nz' is missing"),
        (json.dumps({k: v for k, v in CONFIG.items() if k != "dataset"}), "'dataset' is missing"),
        (json.dumps(CONFIG | {"ch_mult": "12"}), "'ch_mult' is '12'"),
        (json.dumps(CONFIG | {"ch_mult": [1, 0.5]}), "'ch_mult' is [1, 0.5]"),
        (json.dumps(CONFIG | {"dropout": "none"}), "'dropout' is 'none'"),
        (json.dumps(CONFIG | {"nz": "many"}), "'nz' is 'many'"),
        (json.dumps(CONFIG | {"nz": None}), "'nz' is None"),
        (json.dumps(CONFIG | {"num_res_blocks": 0}), "num_res_blocks is 0"),
        (json.dumps(CONFIG | {"embedding_type": "fourier"}), "'embedding_type' is 'fourier'"),
        (json.dumps(CONFIG | {"fir": False}), "'fir' is False"),
    ],
)
def test_an_unusable_configuration_is_refused(published, text, expected):
    _, pair = published()
    pair[1].write_bytes(text.encode("latin-1"))
    message = refusal(pair)
    assert expected in message
    assert str(pair[1]) in message


def _reference() -> Path:
    beside = Path(__file__).resolve().parents[3] / "shared" / "reference"
    return Path(os.environ.get("CDAL_REFERENCE", beside)) / "published_checkpoints"


@pytest.mark.parametrize("name", ["gray_binary", "gray_three_class", "rgb_binary"])
def test_reference_checkpoints_reproduce(name):
    """Generator, betas and the whole reverse process, computed once with the published network."""
    folder = _reference()
    if not folder.is_dir():
        pytest.skip(f"no reference checkpoints: set CDAL_REFERENCE to the folder of {folder.name}")
    config = json.loads((folder / f"{name}.json").read_text())
    expected = safetensors.torch.load_file(folder / f"{name}.io.safetensors")
    generator = load_published(folder / f"{name}.pth", folder / f"{name}.json")
    steps, votes = expected["z"].shape[:2]
    image = expected["image"].expand(votes, -1, -1, -1)

    def denoise(x: Tensor, step: int) -> Tensor:
        return generator(x, torch.full((votes,), step), image, expected["z"][step])

    betas = published_betas(config["num_timesteps"], config["beta_min"], config["beta_max"])
    noise = SamplerNoise(expected["x_T"], expected["z"], expected["noise"])
    with torch.no_grad():
        close = {"atol": 1e-4, "rtol": 0}
        torch.testing.assert_close(betas.double(), expected["betas"].double(), **close)
        torch.testing.assert_close(denoise(expected["x_T"], steps - 1), expected["generator_at_T"], **close)
        torch.testing.assert_close(sample(denoise, noise, Schedule.of(betas)), expected["sample"], **close)
