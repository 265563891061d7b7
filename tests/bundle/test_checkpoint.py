"""Checkpoints: whole or refused, and never a pickle that runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from bundle.conftest import MANIFEST, weights
from cdal_sdk.bundle import checkpoint_content, load_checkpoint, load_model, manifest_from_data, save_checkpoint
from cdal_sdk.errors import ModelError, OutputError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A checkpoint with one further entry."""
    path = tmp_path / "run" / "best.pt"
    save_checkpoint(checkpoint_content(MANIFEST, weights(), step=7), path)
    return path


def content(**changes: Any) -> dict[str, Any]:
    return checkpoint_content(MANIFEST, weights()) | changes


def refusal(path: Path) -> str:
    message = refusal_of(path)
    assert "cdal import-published" in message
    return message


def refusal_of(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_it_loads_as_it_was_saved(path):
    loaded = load_checkpoint(path)
    assert loaded["step"] == 7
    assert manifest_from_data(loaded["manifest"], path) == MANIFEST
    for name, value in weights().items():
        assert torch.equal(loaded["generator"][name], value)


def test_its_manifest_is_sealed_as_it_is_when_saved(path):
    """Training adds its figures to the manifest of a checkpoint that it has loaded."""
    loaded = load_checkpoint(path)
    loaded["manifest"]["seed"] = 12
    save_checkpoint(loaded, path)
    assert load_model(path).manifest.seed == 12
    loaded["manifest"]["seed"] = 13
    torch.save(loaded, path)
    assert "differs from its own SHA-256" in refusal_of(path)


def test_one_from_before_manifests_were_sealed_loads(path):
    torch.save(content(), path)
    assert load_model(path).manifest == MANIFEST


def test_pytorch_itself_loads_it_without_trusting_it(path):
    assert torch.load(path, weights_only=True)["step"] == 7


@pytest.mark.parametrize("error", [OSError("disk full"), RuntimeError("write failed"), KeyboardInterrupt()], ids=repr)
def test_an_interrupted_save_leaves_the_old_one_whole(path, monkeypatch, error):
    def fail(content, file):
        file.write(b"half of it")
        raise error

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OutputError):
        save_checkpoint(content(), path)
    assert load_checkpoint(path)["step"] == 7
    assert list(path.parent.iterdir()) == [path]


def test_one_that_holds_code_is_refused_and_not_run(path, tmp_path):
    mark = tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(mark),))

    torch.save(content(more=Bomb()), path)
    assert "holds code" in refusal(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "other",
    [
        weights(),
        [1],
        content(format="other"),
        content(generator=3),
        {name: value for name, value in content().items() if name != "generator"},
        {name: value for name, value in content().items() if name != "manifest"},
    ],
    ids=["state dict", "list", "other format", "no weights", "without weights", "without manifest"],
)
def test_what_is_no_checkpoint_of_ours_is_refused(path, other):
    torch.save(other, path)
    assert "no checkpoint of cdal" in refusal(path)


@pytest.mark.parametrize("damaged", [b"", b"text", b"PK\x03\x04"], ids=repr)
def test_a_damaged_one_is_refused(path, damaged):
    path.write_bytes(damaged)
    refusal(path)


def test_a_truncated_one_is_refused(path):
    path.write_bytes(path.read_bytes()[:-500])
    refusal(path)


def test_a_missing_one_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"best.pt: there is no such file"):
        load_checkpoint(tmp_path / "best.pt")
