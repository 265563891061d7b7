"""Whole runs, a few steps long: they resume bit for bit, leave loadable files and stop where they diverge."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from filelock import FileLock
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import cdal_trainer.prepared
import cdal_trainer.recipe
from cdal_sdk.bundle import load_model, read_split, save_checkpoint
from cdal_sdk.errors import EngineError, OutputError, TrainingError, UsageError
from cdal_trainer import steps, training, watch
from cdal_trainer.batches import SliceBatches
from cdal_trainer.cases import labelled_cases
from cdal_trainer.cli import _next
from cdal_trainer.logbook import Clock, Logbook, read_log
from cdal_trainer.pictures import draw_curves
from cdal_trainer.prepared import prepare_case, prepare_cases
from cdal_trainer.recipe import Recipe
from cdal_trainer.state import TrainingState
from cdal_trainer.training import Hardware, Progress, train
from cdal_trainer.watch import Watch
from tests.tiny_model import enliven
from trainer.conftest import GRID, write_case, write_folder

HARDWARE = Hardware(accelerator="cpu", precision="32-true", workers=0)


@pytest.fixture(scope="module")
def whole_run(recipe, tmp_path_factory) -> Path:
    """The folder of a run that was never interrupted; data lie beside it."""
    folder = tmp_path_factory.mktemp("whole")
    train(recipe, write_folder(folder / "Task"), folder / "run", hardware=HARDWARE)
    return folder / "run"


@pytest.fixture
def finished(whole_run, tmp_path) -> Path:
    """A copy of it, to go on with."""
    return shutil.copytree(whole_run, tmp_path / "run")


class KilledError(Exception):
    """As a kill would, this ends a run at once."""


@pytest.fixture
def kill_before(monkeypatch) -> Callable[[int], None]:
    """A function that makes the next run die before a step."""
    advance = TrainingState.advance

    def arm(step: int) -> None:
        def die(self, batch):
            if self.step == step:
                monkeypatch.setattr(TrainingState, "advance", advance)
                raise KilledError
            return advance(self, batch)

        monkeypatch.setattr(TrainingState, "advance", die)

    return arm


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def assert_same(first: Any, second: Any, path: str = "") -> None:
    """Equal to the last bit, at any depth."""
    assert type(first) is type(second), path
    if isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key, value in first.items():
            assert_same(value, second[key], f"{path}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), path
        for i, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{path}.{i}")
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second), path
    else:
        assert first == second, path


@pytest.mark.parametrize("workers", [0, 1])
def test_a_killed_run_goes_on_bit_for_bit(data, recipe, whole_run, tmp_path, kill_before, workers):
    """Killed between two checkpoints, twice; the discriminator steps every second time."""
    hardware = replace(HARDWARE, workers=workers)
    for step in (2, 5):
        kill_before(step)
        with pytest.raises(KilledError):
            train(recipe, data, tmp_path / "killed", hardware=hardware)
    assert load(tmp_path / "killed/last.pt")["step"] == 3
    train(recipe, data, tmp_path / "killed", hardware=hardware)
    for name in ("last.pt", "best.pt"):
        assert_same(load(whole_run / name), load(tmp_path / "killed" / name))


def test_training_changes_all_that_it_should(data, recipe, tmp_path, kill_before):
    settings = replace(recipe.optimisation, validate_every=1)
    recipe = replace(recipe, optimisation=settings)
    kill_before(1)
    with pytest.raises(KilledError):
        train(recipe, data, tmp_path / "run", hardware=HARDWARE)
    early = load(tmp_path / "run/last.pt")
    train(recipe, data, tmp_path / "run", hardware=HARDWARE)
    late = load(tmp_path / "run/last.pt")
    for part in ("generator", "discriminator"):
        still = [n for n, value in early["networks"][part].items() if torch.equal(value, late["networks"][part][n])]
        assert not still, part
    assert not [name for name, value in early["generator"].items() if torch.equal(value, late["generator"][name])]
    assert (early["step"], late["step"]) == (1, 6)


def test_a_run_leaves_a_model_that_loads_and_says_what_it_is(recipe, whole_run):
    assert {path.name for path in whole_run.iterdir()} - {".lock"} == {
        "best.pt",
        "last.pt",
        "recipe.json",
        "split.json",
        "log.csv",
        "tensorboard",
        "prepared",
        "curves.png",
        "validation.png",
    }
    model = load_model(whole_run / "best.pt")
    assert model.manifest.name == "hippocampus"
    assert model.manifest.provenance.metrics.keys() == {"dice_Anterior", "dice_Posterior"}
    assert "2 for validation" in model.manifest.provenance.split
    assert model.manifest.plan == recipe.plan
    split = json.loads((whole_run / "split.json").read_text())
    assert sorted([*split["training"], *split["validation"]]) == ["one", "three", "two"]
    for name, value in load(whole_run / "best.pt")["generator"].items():
        assert torch.equal(model.generator.state_dict()[name], value)


def test_progress_is_told_and_logged(data, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_REPORT_EVERY", 2)
    told: list[Progress] = []
    train(recipe, data, tmp_path / "run", hardware=HARDWARE, report=told.append)
    assert [progress.step for progress in told] == [2, 3, 4, 6, 6]
    assert [bool(progress.dice) for progress in told] == [False, True, False, True, True]
    assert [progress.final for progress in told] == [False, False, False, False, True]
    assert [progress.at_least for progress in told] == [True, False, False, False, False]
    told.pop()
    assert told[0].losses.keys() == {"loss", "d_real", "d_fake", "r1"}
    assert told[-1].seconds_left > 0  # for the scoring at the end
    assert all(progress.samples_per_second > 0 and progress.steps == 6 for progress in told)
    with (tmp_path / "run/log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [2, 3, 4, 6]
    assert float(rows[0]["loss"]) == pytest.approx(told[0].losses["loss"], abs=1e-4)


@pytest.mark.parametrize(("further", "scale"), [({"r1": 0.0}, "symlog"), ({}, "log")])
def test_the_curves_tell_small_losses_apart(tmp_path, monkeypatch, further, scale):
    """From 0.02 to 0.01 is as far as from 2 to 1, also where the discriminator's penalty is 0."""
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path: drawn.append(self.axes[0]))
    draw_curves([{"step": step, "loss": loss, **further} for step, loss in ((1, 2.0), (2, 0.01))], tmp_path / "c.png")
    assert drawn[0].get_yscale() == scale
    heights = drawn[0].transData.transform([(1, loss) for loss in (2, 1, 0.02, 0.01)])[:, 1]
    assert heights[0] - heights[1] == pytest.approx(heights[2] - heights[3])
    assert drawn[0].get_ylim()[0] >= 0


def test_a_resumed_log_has_each_step_once(data, recipe, tmp_path, kill_before, monkeypatch):
    """Rows that a killed run wrote after its last checkpoint are written again by the next."""
    monkeypatch.setattr(training, "_REPORT_EVERY", 1)
    kill_before(5)
    with pytest.raises(KilledError):
        train(recipe, data, tmp_path / "run", hardware=HARDWARE)
    train(recipe, data, tmp_path / "run", hardware=HARDWARE)
    rows = read_log(tmp_path / "run/log.csv")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [name for name in rows[2] if name.startswith("dice")] == ["dice_Anterior", "dice_Posterior"]
    assert list((tmp_path / "run/tensorboard").iterdir())


def test_a_batch_in_parts_gives_the_gradient_of_the_whole(data, recipe, monkeypatch):
    """Parts of 2 and 1 of 3; time steps and noise, which are drawn part by part, are all the same here."""
    monkeypatch.setattr(
        steps, "_draw", lambda recipe, like, rng: (torch.zeros(len(like)).long(), torch.ones(len(like), 4))
    )
    monkeypatch.setattr(steps, "_noise", lambda like, rng: torch.ones_like(like))
    gradients: list[list[torch.Tensor]] = []
    for parts in (1, 2):
        settings = replace(recipe.optimisation, accumulate=parts, batch=3, grad_clip=0)
        plain = replace(recipe, optimisation=settings, attention=replace(recipe.attention, scale=None))
        state = TrainingState(plain, HARDWARE.fabric(), "")
        enliven(state.main)
        cases = prepare_cases(labelled_cases(data), recipe.plan, {1, 2}, data / "cache")
        state.advance(SliceBatches(cases, plain)[0])
        gradients.append([parameter.grad for parameter in state.main.parameters() if parameter.grad is not None])
    for whole, summed in zip(*gradients, strict=True):
        torch.testing.assert_close(summed, whole, atol=1e-6, rtol=1e-3)
    assert max(float(gradient.abs().max()) for gradient in gradients[0]) > 1e-3


def test_dropout_resumes_bit_for_bit(data, recipe, tmp_path, kill_before):
    dropping = replace(recipe, network=replace(recipe.network, dropout=0.5))
    train(dropping, data, tmp_path / "whole", hardware=HARDWARE)
    kill_before(4)
    with pytest.raises(KilledError):
        train(dropping, data, tmp_path / "killed", hardware=HARDWARE)
    train(dropping, data, tmp_path / "killed", hardware=HARDWARE)
    assert_same(load(tmp_path / "whole/last.pt"), load(tmp_path / "killed/last.pt"))


def test_a_kill_while_scoring_at_the_end_is_made_up_for(data, recipe, tmp_path, monkeypatch):
    def die(*_):
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(training, "_score_best", die)
        with pytest.raises(KilledError):
            train(recipe, data, tmp_path / "run", hardware=HARDWARE)
    told: list[Progress] = []
    best = train(recipe, data, tmp_path / "run", hardware=HARDWARE, report=told.append)
    assert [progress.final for progress in told] == [True]
    assert load_model(best).manifest.provenance.metrics.keys() == {"dice_Anterior", "dice_Posterior"}
    assert (tmp_path / "run/validation.png").exists()


def test_validation_is_drawn_each_time(data, recipe, tmp_path, kill_before):
    kill_before(4)
    with pytest.raises(KilledError):
        train(recipe, data, tmp_path / "run", hardware=HARDWARE)
    assert (tmp_path / "run/validation.png").exists()


class TestDivergenceInFiniteNumbers:
    @pytest.fixture(autouse=True)
    def short(self, monkeypatch):
        monkeypatch.setattr(watch, "_WINDOW", 2)

    @pytest.fixture
    def diverging(self, monkeypatch) -> None:
        """Any run's loss is a thousand times as large from step 4 on."""
        advance = TrainingState.advance

        def blow_up(self, batch):
            losses = advance(self, batch)
            return {name: value * 1000 if self.step > 4 else value for name, value in losses.items()}

        monkeypatch.setattr(TrainingState, "advance", blow_up)

    def test_a_loss_that_comes_back_or_grows_is_told(self):
        returning = Watch()
        for step, loss in enumerate((1.0, 1.0, 0.2, 0.2, 0.6)):
            returning.look(loss, step)
        with pytest.raises(TrainingError, match=r"diverges: it was 0\.2 and is 1 at step 9"):
            returning.look(1.4, 9)
        grown = Watch()
        grown.look(1.0, 0)
        grown.look(1.0, 1)
        with pytest.raises(TrainingError, match="diverges"):
            grown.look(30.0, 2)

    def test_a_loss_that_comes_back_half_way_is_told_and_one_that_wavers_is_not(self):
        half, wavering = Watch(), Watch()
        for step, loss in enumerate((1.0, 1.0, 0.03, 0.03)):
            half.look(loss, step)
            wavering.look(loss / 3 if step > 1 else loss, step)
        with pytest.raises(TrainingError, match=r"diverges: it was 0\.03 and is 0\.34 at step 9"):
            half.look(0.65, 9)
        for step in range(9, 20):
            wavering.look(0.3, step)

    @pytest.mark.usefixtures("diverging")
    def test_it_stops_before_anything_of_it_is_saved_and_again_when_resumed(self, data, recipe, tmp_path):
        """The resumed run has one step before it diverges, which tells nothing by itself."""
        often = replace(recipe, optimisation=replace(recipe.optimisation, steps=8, validate_every=1))
        for _ in range(2):
            with pytest.raises(TrainingError, match=r"diverges.* at step 5"):
                train(often, data, tmp_path / "run", hardware=HARDWARE)
            assert {load(tmp_path / "run" / name)["step"] <= 4 for name in ("last.pt", "best.pt")} == {True}

    @pytest.mark.usefixtures("diverging")
    def test_what_it_advises_works(self, data, recipe, tmp_path, monkeypatch):
        folder = tmp_path / "a run"
        with pytest.raises(TrainingError, match="--out NEW") as caught:
            train(recipe, data, folder, hardware=HARDWARE)
        monkeypatch.undo()  # at half the rate, it learns
        settings = re.search(r"--out NEW (.*), or check", str(caught.value))[1]
        changed = with_settings(recipe, [part for part in shlex.split(settings) if part != "--set"])
        assert changed.optimisation.initial == str(folder / "best.pt")
        assert changed.optimisation.lr_generator == recipe.optimisation.lr_generator / 2
        best = train(changed, data, tmp_path / "NEW", hardware=HARDWARE)
        assert load(best)["step"] in (3, 6)
        assert read_split(best) == read_split(folder / "best.pt")

    @pytest.mark.usefixtures("diverging")
    def test_what_it_advises_before_anything_was_saved_needs_nothing(self, data, recipe, tmp_path):
        late = replace(recipe, optimisation=replace(recipe.optimisation, validate_every=6))
        with pytest.raises(TrainingError, match=r"--out NEW --set optimisation\.lr_generator"):
            train(late, data, tmp_path / "run", hardware=HARDWARE)


def with_settings(recipe: Recipe, overrides: list[str]) -> Recipe:
    """A recipe changed as by --set."""
    plain = msgspec.to_builtins(recipe)
    for override in overrides:
        cdal_trainer.recipe._override(plain, override)
    return cdal_trainer.recipe._convert(plain, "test")


@pytest.mark.parametrize("attribute", ["path", "_events"])
def test_a_full_disk_is_told_with_the_file(data, recipe, tmp_path, monkeypatch, attribute):
    """A line of the log or of TensorBoard's fails, as on a full disk; the checkpoint of before stays."""
    add = Logbook.add
    (tmp_path / attribute).symlink_to("/dev/full")

    def full(self, progress):
        if progress.step == 6:
            setattr(self, attribute, tmp_path / attribute)
        add(self, progress)

    monkeypatch.setattr(Logbook, "add", full)
    with pytest.raises(OutputError, match=rf"/{attribute}: the log cannot be written \(No space left"):
        train(recipe, data, tmp_path / "run", hardware=HARDWARE)
    assert load(tmp_path / "run/last.pt")["step"] == 6


def test_tensorboard_reads_what_is_logged(tmp_path):
    """A resumed run's entries take the place of those that a killed one wrote after its last checkpoint."""
    for step in (0, 1):
        logbook = Logbook(tmp_path, ("loss", "d_real"), ("A",), step)
        for later in (1, 2):
            losses = {"loss": 0.5 + step, "d_real": 0.25}
            logbook.add(Progress(step + later, 4, losses, 1.0, 2.0, {"A": 0.75} if later == 2 else {}))
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert sorted(board.Tags()["scalars"]) == ["d/real", "dice/A", "loss", "samples/per_second"]
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [(1, 0.5), (2, 1.5), (3, 1.5)]
    assert [event.value for event in board.Scalars("dice/A")] == [0.75]


@pytest.mark.parametrize("method", ["cdal", "unet"])
def test_the_next_command_can_be_pasted(method):
    assert "a run/best.pt" in shlex.split(_next(method, Path("a run/best.pt")))


def test_a_full_disk_while_preparing_names_the_file(data, recipe, tmp_path):
    """Files may not grow beyond a thousand bytes, which the safetensors library meets as it would a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OutputError, match=r"cache/[0-9a-f]{24}\.safetensors: .* cannot be written"):
            prepare_cases(labelled_cases(data), recipe.plan, {1, 2}, tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "cache").iterdir())


def test_what_a_kill_left_half_written_is_removed(data, recipe, finished, tmp_path):
    """In a cache that others may be filling at this moment, only what has lain there for long."""
    shared = tmp_path / "shared"
    shared.mkdir()
    own = [finished / ".0123abcd-last.pt", finished / "prepared/.0123abcd-x.safetensors"]
    old, young = shared / ".0123abcd-old.safetensors", shared / ".0123abcd-young.safetensors"
    for path in (*own, old, young):
        path.touch()
    long_ago = time.time() - 7200
    os.utime(old, (long_ago, long_ago))
    train(recipe, data, finished, hardware=HARDWARE)
    assert not [path for path in own if path.exists()]
    train(recipe, data, finished, hardware=HARDWARE, cache=shared)
    assert young.exists()
    assert not old.exists()


def test_a_run_goes_on_with_its_own_cases_only(data, recipe, finished, tmp_path, kill_before):
    """Wherever they lie; by their content, and not by their names alone. So does one that is under way."""
    moved = shutil.copytree(data, tmp_path / "moved")
    train(recipe, moved, finished, hardware=HARDWARE)
    kill_before(4)
    with pytest.raises(KilledError):
        train(recipe, moved, tmp_path / "killed", hardware=HARDWARE)
    write_case(moved, "two", label=np.ones(GRID, np.uint8))
    for folder in (finished, tmp_path / "killed"):
        with pytest.raises(TrainingError, match=r"split\.json: the files of the case 'two' have changed"):
            train(recipe, moved, folder, hardware=HARDWARE)
        train(recipe, data, folder, hardware=HARDWARE)
    index = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps({"training": index["training"][1:]}))
    with pytest.raises(TrainingError, match="settings or cases, the first that differs being 'one'"):
        train(recipe, data, finished, hardware=HARDWARE)


def test_a_damaged_cache_is_made_again(data, recipe, tmp_path):
    cases = labelled_cases(data)
    first = prepare_cases(cases, recipe.plan, {1, 2}, tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"no such thing")
    again = prepare_cases(cases, recipe.plan, {1, 2}, tmp_path)
    np.testing.assert_array_equal(first[0].images, again[0].images)


def test_a_missing_device_is_told(data, recipe, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one here")
    with pytest.raises(EngineError, match="no CUDA device"):
        train(recipe, data, tmp_path / "run", hardware=replace(HARDWARE, accelerator="cuda"))


def test_prepared_cases_are_cached_until_a_file_changes(data, recipe, tmp_path, monkeypatch):
    prepared = []
    monkeypatch.setattr(
        cdal_trainer.prepared, "prepare_case", lambda *given: prepared.append(given[0].name) or prepare_case(*given)
    )
    cases = labelled_cases(data)

    def prepare_all():
        prepared.clear()
        found = prepare_cases(cases, recipe.plan, {1, 2}, tmp_path / "cache")
        return found, list(prepared)

    first, names = prepare_all()
    assert names == ["one", "two", "three"]
    again, names = prepare_all()
    assert names == []
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)
    write_case(data, "two", label=np.ones(GRID, np.uint8))
    changed, names = prepare_all()
    assert names == ["two"]
    assert set(np.unique(changed[1].labels)) == {1}


def test_separate_discriminators_train(data, recipe, tmp_path):
    separate = replace(recipe, discriminator=replace(recipe.discriminator, separate=True))
    best = train(separate, data, tmp_path / "run", hardware=HARDWARE)
    names = load(best)["networks"]["discriminator"]
    assert {name.split(".")[1] for name in names} == {"0", "1"}


def test_an_unknown_method_lists_what_there_is(data, recipe, tmp_path):
    with pytest.raises(UsageError, match=r"no method 'magic'; choose one of: .*cdal"):
        train(replace(recipe, method="magic"), data, tmp_path / "run", hardware=HARDWARE)


def test_without_attention_there_is_no_discriminator_step(data, recipe, tmp_path):
    told: list[Progress] = []
    plain = replace(recipe, attention=replace(recipe.attention, scale=None))
    train(plain, data, tmp_path / "run", hardware=HARDWARE, report=told.append)
    assert told[0].losses.keys() == {"loss"}


def test_a_finished_run_has_nothing_left_to_do(data, recipe, finished):
    before = load(finished / "last.pt")
    assert train(recipe, data, finished, hardware=HARDWARE) == finished / "best.pt"
    assert_same(load(finished / "last.pt"), before)


def test_a_folder_of_another_recipe_is_refused_and_kept(data, recipe, finished):
    before = (finished / "last.pt").read_bytes()
    other = replace(recipe, optimisation=replace(recipe.optimisation, batch=3))
    with pytest.raises(TrainingError, match="another recipe"):
        train(other, data, finished, hardware=HARDWARE)
    assert (finished / "last.pt").read_bytes() == before


def test_a_folder_of_another_fold_is_refused(data, recipe, finished):
    with pytest.raises(TrainingError, match="other settings"):
        train(recipe, data, finished, fold=1, hardware=HARDWARE)


def spoil(recipe: Recipe, monkeypatch: pytest.MonkeyPatch, part: str, at: int) -> None:
    """Make the images (or the generator's gradient) of one step infinite."""
    advance = TrainingState.advance

    def spoilt(self, batch):
        if self.step == at and part == "loss":
            batch = [torch.full_like(batch[0], torch.inf), batch[1]]
        if self.step == at and part == "gradient":
            parameter = self.main.label_conv.bias
            parameter.register_hook(lambda gradient: gradient * torch.nan)
        return advance(self, batch)

    monkeypatch.setattr(TrainingState, "advance", spoilt)


@pytest.mark.parametrize("part", ["loss", "gradient"])
def test_divergence_stops_with_the_step_and_keeps_the_last_good_checkpoint(data, recipe, tmp_path, monkeypatch, part):
    spoil(recipe, monkeypatch, part, at=4)
    with pytest.raises(
        TrainingError,
        match=f"{part} of the (generator|discriminator) is not finite at step 4; start anew, with --out NEW",
    ):
        train(recipe, data, tmp_path / "run", hardware=HARDWARE)
    kept = load(tmp_path / "run/last.pt")
    assert kept["step"] == 3
    assert all(value.isfinite().all() for value in kept["networks"]["generator"].values())


@pytest.mark.parametrize("precision", ["auto", "bf16-mixed"])
def test_other_precisions_run(data, recipe, tmp_path, precision):
    hardware = replace(HARDWARE, precision=precision)
    best = train(recipe, data, tmp_path / "run", hardware=hardware)
    assert load(best)["networks"]["generator"]["label_conv.weight"].dtype == torch.float32


def test_a_run_on_pictures(pictures, planar_recipe, tmp_path):
    best = train(planar_recipe, pictures, tmp_path / "run", hardware=HARDWARE)
    assert load_model(best).manifest.provenance.metrics.keys() == {"dice_Lungs"}


def test_an_image_on_both_sides_of_the_split_is_refused(pictures, planar_recipe, tmp_path):
    """Of another name, format and mask; nothing is bound, so that the folder may be used once the image is out."""
    with Image.open(pictures / "images/a1.png") as picture:
        picture.save(pictures / "images/b1.tif")
    (pictures / "images/b1.png").unlink()
    with pytest.raises(TrainingError, match=r"'a1' and 'b1' are the same image, on both sides.*data\.patient"):
        train(planar_recipe, pictures, tmp_path / "run", hardware=HARDWARE)
    assert not (tmp_path / "run/split.json").exists()
    for name in ("a1.png", "b1.tif"):
        Image.new("L", (32, 32), 255).save(pictures / "images" / name)
    assert train(planar_recipe, pictures, tmp_path / "run", hardware=HARDWARE).exists(), "blank ones are nobody's"


def test_a_run_may_start_from_another_model(data, recipe, whole_run, tmp_path):
    start = replace(recipe, optimisation=replace(recipe.optimisation, initial=str(whole_run / "best.pt")))
    state = TrainingState(start, HARDWARE.fabric(), "")
    for name, value in load(whole_run / "best.pt")["generator"].items():
        assert torch.equal(state.main.state_dict()[name], value)
        assert torch.equal(state.average.weights[name], value)


def test_a_start_from_a_model_that_saw_the_held_out_cases_is_told(data, recipe, whole_run, tmp_path, caplog):
    start = replace(recipe, optimisation=replace(recipe.optimisation, initial=str(whole_run / "best.pt")))
    best = train(start, data, tmp_path / "run", fold=1, hardware=HARDWARE)
    assert "1 for validation, 1 of which are of patients that trained the model it started from" in caplog.text
    assert "1 of which" in load_model(best).manifest.provenance.split
    assert read_split(best).held_out == ()


def test_a_start_from_a_model_without_a_record_is_told_and_gives_none(data, recipe, whole_run, tmp_path, caplog):
    """Else whatever had trained that model would count as held out."""
    content = load(whole_run / "best.pt")
    save_checkpoint({**content, "split": None}, tmp_path / "first.pt")
    start = replace(recipe, optimisation=replace(recipe.optimisation, initial=str(tmp_path / "first.pt")))
    best = train(start, data, tmp_path / "run", fold=1, hardware=HARDWARE)
    assert "is not known: validation may look better than it is" in caplog.text
    assert "is not known" in load_model(best).manifest.provenance.split
    assert read_split(best) is None


def test_two_runs_cannot_share_a_folder(data, recipe, tmp_path):
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run/.lock"), pytest.raises(UsageError, match="another run is at work in this folder"):
        train(recipe, data, tmp_path / "run", hardware=HARDWARE)
    train(recipe, data, tmp_path / "run", hardware=HARDWARE)


def test_channels_last_is_another_layout_of_the_same_run(data, recipe, whole_run, tmp_path):
    last = replace(recipe, optimisation=replace(recipe.optimisation, channels_last=True))
    best = load(train(last, data, tmp_path / "run", hardware=HARDWARE))
    weight = best["generator"]["label_conv.weight"]
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not load(whole_run / "best.pt")["generator"]["label_conv.weight"].is_contiguous(
        memory_format=torch.channels_last
    )
    rows = [read_log(folder / "log.csv")[0]["loss"] for folder in (tmp_path / "run", whole_run)]
    assert rows[0] == pytest.approx(rows[1], rel=1e-3)


def test_a_start_of_another_network_is_refused(planar_recipe, whole_run):
    start = replace(planar_recipe, optimisation=replace(planar_recipe.optimisation, initial=str(whole_run / "best.pt")))
    with pytest.raises(TrainingError, match="network differs"):
        TrainingState(start, HARDWARE.fabric(), "")


class TestClock:
    @pytest.fixture
    def clock(self, monkeypatch) -> Callable[..., Clock]:
        """A function that makes a clock which has seen laps: of steps, or of validations where negative."""

        def make(*laps: float, steps: int = 10, validate_every: int = 4, final: float = 0.0) -> Clock:
            now = iter(np.cumsum([0.0, *map(abs, laps)]).tolist())
            monkeypatch.setattr("time.monotonic", lambda: next(now))
            made = Clock(steps, validate_every, final)
            for lap in laps:
                made.stepped() if lap > 0 else made.validated()
            return made

        return make

    def test_steps_and_validations_count_apart(self, clock):
        seen = clock(2.0, 2.0, -10.0)
        assert seen.seconds_left(2) == pytest.approx(8 * 2 + 3 * 10)  # validations after 4, 8 and 10
        assert seen.seconds_left(8) == pytest.approx(2 * 2 + 1 * 10)

    def test_the_scoring_at_the_end_counts(self, clock):
        seen = clock(2.0, 2.0, -10.0, final=6.0)
        assert seen.seconds_left(10) == pytest.approx(60)
        assert seen.complete
        assert not clock(2.0, 2.0).complete, "it knows no validation yet"

    def test_a_slow_start_is_forgotten(self, clock):
        assert clock(20.0, 0.5, 0.5, steps=1500).seconds_left(3) == pytest.approx(1497 * 0.5)

    def test_until_there_is_more_the_first_step_counts(self, clock):
        assert clock(3.0).seconds_left(1) == pytest.approx(27)
