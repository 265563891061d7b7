"""Model folders: whole or refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import safetensors.torch
import torch

from bundle.conftest import MANIFEST, weights
from cdal_sdk.bundle import (
    GATE_FILE,
    MANIFEST_FILE,
    SPLIT_FILE,
    WEIGHTS_FILE,
    SplitRecord,
    check_folder,
    checkpoint_content,
    load_model,
    read_manifest,
    read_split,
    replace_manifest,
    save_checkpoint,
    split_to_json,
    store,
    stored_weights,
    write_model_folder,
)
from cdal_sdk.bundle.manifest import seal
from cdal_sdk.digest import sha256
from cdal_sdk.errors import ModelError, OutputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder."""
    write_model_folder(tmp_path / "tiny.cdal", MANIFEST, weights())
    return tmp_path / "tiny.cdal"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint with the least that one holds."""
    path = tmp_path / "best.pt"
    save_checkpoint(checkpoint_content(MANIFEST, weights()), path)
    return path


def edit(folder: Path, **changes: Any) -> None:
    """Change entries of a folder's manifest behind its back, and seal it again."""
    path = folder / MANIFEST_FILE
    path.write_text(json.dumps(seal(json.loads(path.read_text()) | changes)))


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_folder_loads_as_it_was_written(folder):
    model = load_model(folder)
    assert model.manifest.with_files({}) == MANIFEST
    assert model.manifest.files.keys() == {WEIGHTS_FILE}
    assert model.files == {WEIGHTS_FILE: folder / WEIGHTS_FILE}
    assert read_manifest(folder) == model.manifest
    for name, value in model.generator.state_dict().items():
        assert torch.equal(value, weights()[name])


def test_a_loaded_generator_is_ready_for_inference(folder):
    generator = load_model(str(folder)).generator
    assert not generator.training
    assert not any(p.requires_grad for p in generator.parameters())


def test_a_folder_and_the_checkpoint_it_came_from_share_their_identity(folder, checkpoint):
    model = load_model(checkpoint)
    assert model.weights_sha256 == load_model(folder).weights_sha256
    assert not model.files
    assert model.manifest == MANIFEST
    assert read_manifest(checkpoint) == MANIFEST


def test_other_weights_have_another_identity(folder, tmp_path):
    write_model_folder(tmp_path / "other", MANIFEST, weights(1))
    assert load_model(folder).weights_sha256 != load_model(tmp_path / "other").weights_sha256


def test_half_precision_halves_the_file_and_loads_in_float32(folder, tmp_path):
    write_model_folder(tmp_path / "half", MANIFEST, stored_weights(weights(), half=True))
    sizes = [(path / WEIGHTS_FILE).stat().st_size for path in (folder, tmp_path / "half")]
    assert sizes[1] < 0.6 * sizes[0]
    for name, value in load_model(tmp_path / "half").generator.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, weights()[name].half().float())


def test_what_overflows_half_precision_is_refused_by_name(tmp_path):
    spoilt = weights()
    spoilt["out.bias"] = torch.full((3,), 7e4)
    with pytest.raises(ModelError, match=r"'out.bias' overflows half precision"):
        stored_weights(spoilt, half=True)
    assert not list(tmp_path.iterdir())


def test_further_files_are_copied_and_a_damaged_engine_left_out(tmp_path, caplog):
    engine = tmp_path / "built"
    engine.write_bytes(b"engine")
    manifest = write_model_folder(tmp_path / "m", MANIFEST, weights(), extra_files={"engines/cpu/a.pt": engine})
    assert manifest.files.keys() == {WEIGHTS_FILE, "engines/cpu/a.pt"}
    load_model(tmp_path / "m")
    (tmp_path / "m/engines/cpu/a.pt").write_bytes(b"tamper")
    with caplog.at_level("WARNING"):
        assert load_model(tmp_path / "m").files.keys() == {WEIGHTS_FILE}, "the model runs without its damaged engine"
    assert "'engines/cpu/a.pt' differs from its hash" in caplog.text


def test_tampered_weights_are_refused(folder):
    path = folder / WEIGHTS_FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert f"'{WEIGHTS_FILE}' differs from its hash" in refusal(folder)


def test_missing_weights_are_refused(folder):
    (folder / WEIGHTS_FILE).unlink()
    assert f"'{WEIGHTS_FILE}' is missing" in refusal(folder)


def test_a_manifest_with_a_flipped_bit_is_refused(folder):
    path = folder / MANIFEST_FILE
    path.write_text(path.read_text().replace('"polarity": 1', '"polarity": 0'))
    assert "differs from its own SHA-256" in refusal(folder)


def test_another_manifest_for_the_same_files_is_sealed_too(folder):
    replace_manifest(folder, replace(read_manifest(folder), votes=9))
    assert read_manifest(folder).votes == 9
    assert "sha256" in json.loads((folder / MANIFEST_FILE).read_text())


def test_a_manifest_that_lists_no_weights_is_refused(folder):
    edit(folder, files={})
    assert "lists no weights" in refusal(folder)


@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "/etc/hostname", "", "."])
def test_a_manifest_s_files_stay_inside_the_folder(folder, name):
    (folder.parent / "secret").write_bytes(b"secret")
    edit(folder, files=read_manifest(folder).files | {name: "0" * 64})
    assert f"'{name}' is missing" in refusal(folder)


def test_a_folder_without_manifest_is_refused(folder):
    (folder / MANIFEST_FILE).unlink()
    assert f"holds no {MANIFEST_FILE}" in refusal(folder)


def test_weights_of_another_network_are_refused(folder, checkpoint):
    network = replace(MANIFEST.network, width=16)
    edit(folder, network=msgspec.to_builtins(network))
    assert "weights and manifest disagree" in refusal(folder)
    less = {name: value for name, value in weights().items() if name != "out.bias"}
    save_checkpoint(checkpoint_content(MANIFEST, less), checkpoint)
    assert "the first being 'out.bias'" in refusal(checkpoint)


def test_weights_that_are_no_safetensors_are_refused(folder):
    (folder / WEIGHTS_FILE).write_bytes(b"nonsense")
    manifest = read_manifest(folder)
    edit(folder, files={WEIGHTS_FILE: sha256(folder / WEIGHTS_FILE)})
    assert manifest.files
    assert f"'{WEIGHTS_FILE}' cannot be read" in refusal(folder)


@pytest.mark.parametrize("moment", ["_check_files", "_tensors"])
def test_an_export_that_replaces_the_folder_while_it_loads_does_no_harm(folder, monkeypatch, moment):
    """Manifest and weights are those of one export, here of the later one."""
    real = getattr(store, moment)

    def export_first(*arguments):
        monkeypatch.undo()
        write_model_folder(folder, replace(MANIFEST, votes=9), weights(1))
        return real(*arguments)

    monkeypatch.setattr(store, moment, export_first)
    model = load_model(folder)
    assert model.manifest.votes == 9
    assert torch.equal(model.generator.state_dict()["label_conv.weight"], weights(1)["label_conv.weight"])


def test_gate_images_that_were_replaced_are_refused(folder, tmp_path):
    images = tmp_path / "images"
    safetensors.torch.save_file({"000": torch.zeros(1, 3, 4, 4)}, images)
    write_model_folder(folder, MANIFEST, weights(), extra_files={GATE_FILE: images})
    model = load_model(folder)
    assert [image.shape for image in model.gate_images()] == [(1, 3, 4, 4)]
    safetensors.torch.save_file({"000": torch.ones(1, 3, 4, 4)}, folder / GATE_FILE)
    with pytest.raises(ModelError, match=f"'{GATE_FILE}' differs from its hash"):
        model.gate_images()


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(ModelError, match=r"no model 'nowhere'; give a model folder, a checkpoint, or one of"):
        load_model("nowhere")


def test_writing_again_replaces_the_folder(folder):
    write_model_folder(folder, MANIFEST, weights(), extra_files={"engines/stale": Path(__file__)})
    stale = folder / "engines/stale"
    (folder / f".0123abcd-{MANIFEST_FILE}").touch()  # as a process leaves it that was killed
    write_model_folder(folder, replace(MANIFEST, votes=9), weights(1))
    model = load_model(folder)
    assert model.manifest.votes == 9
    assert torch.equal(model.generator.state_dict()["label_conv.weight"], weights(1)["label_conv.weight"])
    assert not stale.exists()
    assert list(folder.parent.iterdir()) == [folder]


def test_another_folder_is_never_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.png").touch()
    with pytest.raises(OutputError, match="no model folder"):
        write_model_folder(tmp_path / "photos", MANIFEST, weights())
    assert (tmp_path / "photos/cat.png").exists()


@pytest.mark.parametrize("manifest", ["{}", '{"manifest_version": 3}', "<xml/>"])
def test_another_folder_s_manifest_makes_no_model_folder(tmp_path, manifest):
    """Browser extensions, web applications and packages have files of that name."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src/manifest.json").write_text(manifest)
    (tmp_path / "src/work.py").touch()
    with pytest.raises(OutputError, match="no model folder"):
        write_model_folder(tmp_path / "src", MANIFEST, weights())
    assert {path.name for path in (tmp_path / "src").iterdir()} == {"manifest.json", "work.py"}


@pytest.mark.parametrize("name", ["MODEL_CARD.md", "engines/notes/mine.txt", "link"])
def test_a_user_s_own_file_in_a_model_folder_is_not_lost(folder, name):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    if name == "link":
        (folder / name).symlink_to(folder.parent)
    else:
        (folder / name).write_text("mine")
    with pytest.raises(OutputError, match=f"also holds '{name}', which would be lost"):
        write_model_folder(folder, replace(MANIFEST, votes=9), weights(1))
    assert (folder / name).exists()
    assert load_model(folder).manifest.votes == MANIFEST.votes


def test_a_model_folder_that_no_longer_holds_can_be_made_again(folder):
    """Edited by hand, of another version, or looked at with a Mac."""
    for old, new in ((f'"seed": {MANIFEST.seed}', '"seed": 77'), ('"schema": 1', '"schema": 0')):
        path = folder / "manifest.json"
        path.write_text(path.read_text().replace(old, new))
        (folder / ".DS_Store").touch()
        with pytest.raises(ModelError):
            load_model(folder)
        write_model_folder(folder, MANIFEST, weights())
        assert load_model(folder).manifest.seed == MANIFEST.seed


def test_the_folder_where_one_works_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="itself cannot be replaced; give one inside it"):
        check_folder(Path())


def test_a_split_is_read_again_where_an_export_replaced_the_folder(folder, tmp_path, monkeypatch):
    """It changes after the manifest was read, so that the hashes of the old one do not fit."""
    records = [SplitRecord("*", "", 1, 2, number, ("a",), ("b",)) for number in range(2)]
    for number, record in enumerate(records):
        (tmp_path / f"{number}.json").write_text(split_to_json(record))
    write_model_folder(folder, MANIFEST, weights(), extra_files={SPLIT_FILE: tmp_path / "0.json"})
    check = store._check_files

    def replaced(path, manifest):
        monkeypatch.setattr(store, "_check_files", check)
        write_model_folder(folder, MANIFEST, weights(1), extra_files={SPLIT_FILE: tmp_path / "1.json"})
        return check(path, manifest)

    monkeypatch.setattr(store, "_check_files", replaced)
    assert read_split(folder) == records[1]


def test_an_empty_folder_is_a_place_for_a_model(tmp_path):
    (tmp_path / "m").mkdir()
    write_model_folder(tmp_path / "m", MANIFEST, weights())
    assert load_model(tmp_path / "m").manifest.name == MANIFEST.name


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["full disk", "interrupt"])
def test_an_interrupted_write_leaves_the_old_folder_whole(folder, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(store, "manifest_to_json", fail)
    with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt):
        write_model_folder(folder, replace(MANIFEST, votes=9), weights(1))
    assert load_model(folder).manifest.votes == MANIFEST.votes
    assert list(folder.parent.iterdir()) == [folder]


KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from bundle.conftest import MANIFEST, weights
from cdal_sdk.bundle import write_model_folder
folder = Path(sys.argv[1])
def kill(event, arguments):
    if event == "shutil.rmtree" or event == "os.rename" and str(arguments[1]) == str(folder):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(kill)
write_model_folder(folder, replace(MANIFEST, votes=9), weights())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere two folders cannot be exchanged in one step")
def test_a_process_killed_while_it_exchanges_folders_leaves_a_model(folder):
    """Killed when the new folder is about to come, or the old one about to go."""
    assert run_alone(KILLED, folder).wait(timeout=120) == -signal.SIGKILL
    assert load_model(folder).manifest.votes == 9
    (left,) = (path for path in folder.parent.iterdir() if path != folder)
    write_model_folder(folder, MANIFEST, weights())
    assert left.exists(), "it may be of a process that is at work"
    os.utime(left, (0, 0))
    (folder.parent / ".tiny.cdal-new-20250101").mkdir()
    os.utime(folder.parent / ".tiny.cdal-new-20250101", (0, 0))
    write_model_folder(folder, MANIFEST, weights())
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, ".tiny.cdal-new-20250101"}


def run_alone(program: str, folder: Path) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(root), str(root / "tests")))}
    order = [sys.executable, "-c", program, str(folder)]
    return subprocess.Popen(order, env=environment, stderr=subprocess.PIPE, text=True)  # noqa: S603


WRITES = """
import sys
from bundle.conftest import MANIFEST, weights
from cdal_sdk.bundle import write_model_folder
for _ in range(40):
    write_model_folder(__import__("pathlib").Path(sys.argv[1]), MANIFEST, weights())
"""


def test_two_that_write_one_folder_leave_one_whole(folder):
    writers = [run_alone(WRITES, folder) for _ in range(2)]
    assert [writer.communicate(timeout=120)[1] for writer in writers] == ["", ""]
    assert load_model(folder).manifest.name == MANIFEST.name
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("error", [OSError("refused"), KeyboardInterrupt()], ids=["refusal", "interrupt"])
def test_a_swap_that_fails_brings_the_old_folder_back(folder, monkeypatch, error):
    monkeypatch.setattr(store, "_exchange", lambda *_: False)
    replace_path = Path.replace

    def fail(self, target):
        if Path(target) == folder and "-old-" not in str(self):
            raise error
        return replace_path(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt):
        write_model_folder(folder, replace(MANIFEST, votes=9), weights(1))
    monkeypatch.undo()
    assert load_model(folder).manifest.votes == MANIFEST.votes
    assert list(folder.parent.iterdir()) == [folder]


def test_the_only_copy_is_never_deleted(folder, monkeypatch):
    """Where not even the old folder can be brought back, it stays aside."""
    monkeypatch.setattr(store, "_exchange", lambda *_: False)
    replace_path = Path.replace

    def fail(self, target):
        if Path(target) == folder:
            raise PermissionError("refused")
        return replace_path(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OutputError):
        write_model_folder(folder, replace(MANIFEST, votes=9), weights(1))
    monkeypatch.undo()
    (kept,) = folder.parent.glob(".tiny.cdal-cdal-old-*/00")
    assert load_model(kept).manifest.votes == MANIFEST.votes


def test_a_missing_further_file_leaves_nothing_behind(tmp_path):
    with pytest.raises(OutputError):
        write_model_folder(tmp_path / "m", MANIFEST, weights(), extra_files={"engine": tmp_path / "nowhere"})
    assert not list(tmp_path.iterdir())


def test_whoever_can_read_the_manifest_can_read_the_weights(folder):
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1


def test_a_moved_folder_still_loads(folder):
    shutil.move(folder, folder.parent / "elsewhere")
    load_model(folder.parent / "elsewhere")


def test_weights_are_plain_safetensors(folder):
    assert safetensors.torch.load_file(folder / WEIGHTS_FILE).keys() == weights().keys()
