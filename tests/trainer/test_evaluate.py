"""`cdal evaluate`: which cases count, what is written, and that a score is that of the mask a user gets."""

from __future__ import annotations

import csv
import json
from contextlib import nullcontext

import nibabel
import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from cdal_sdk import Segmenter
from cdal_sdk.cli.app import app
from cdal_sdk.errors import TrainingError, UsageError
from cdal_sdk.masks import dice
from cdal_trainer.cases import labelled_cases
from cdal_trainer.evaluate import choose_cases, evaluate, load_trained
from cdal_trainer.evaluation import Evaluation
from cdal_trainer.prepared import digest_of
from tests.tiny_model import PLANAR, VOLUME, save_tiny
from trainer.conftest import AFFINE, GRID, write_case


@pytest.fixture
def planar(tmp_path):
    return save_tiny(PLANAR, tmp_path / "planar")


class TestChoice:
    def test_all_or_by_pattern(self, pictures):
        assert [case.name for case in choose_cases(pictures)[0]] == ["a1", "a2", "b1"]
        chosen, words = choose_cases(pictures, pattern="a*")
        assert [case.name for case in chosen] == ["a1", "a2"]
        assert words == "2 named a*"

    def test_by_fold(self, pictures):
        held_out = [case.name for fold in range(3) for case in choose_cases(pictures, split=f"{fold}/3")[0]]
        assert sorted(held_out) == ["a1", "a2", "b1"]
        by_patient = [choose_cases(pictures, split=f"{fold}/5", patient="^.")[0] for fold in (0, 4)]
        assert [[case.name for case in cases] for cases in by_patient] == [["b1"], ["a1", "a2"]]

    def test_by_the_split_of_a_run(self, pictures, tmp_path):
        path = tmp_path / "split.json"
        path.write_text(json.dumps({"training": ["a1", "a2"], "validation": ["b1"]}))
        assert [case.name for case in choose_cases(pictures, split=str(path))[0]] == ["b1"]

    def test_a_split_of_other_data_is_refused(self, pictures, tmp_path):
        path = tmp_path / "split.json"
        path.write_text(json.dumps({"validation": ["c1"]}))
        with pytest.raises(UsageError, match="no case 'c1'"):
            choose_cases(pictures, split=str(path))

    def test_the_split_of_a_run_is_of_its_files(self, pictures, tmp_path):
        path = tmp_path / "split.json"
        path.write_text(json.dumps({"validation": {"b1": digest_of(labelled_cases(pictures, "b1")[0])}}))
        assert [case.name for case in choose_cases(pictures, split=str(path))[0]] == ["b1"]
        Image.new("L", (32, 32), 9).save(pictures / "images/b1.png")
        with pytest.raises(TrainingError, match=r"split\.json: the files of the case 'b1' have changed"):
            choose_cases(pictures, split=str(path))

    @pytest.mark.parametrize("split", [None, "held-out", "split.json"])
    def test_a_patient_that_nothing_asks_for_is_refused(self, pictures, split):
        with pytest.raises(UsageError, match=r"only a fold asks for the patient.*K/N"):
            choose_cases(pictures, split=split, patient="^.")

    @pytest.mark.parametrize("split", ["nowhere.json", "a/b", "1"])
    def test_what_is_no_split_is_refused(self, pictures, split):
        with pytest.raises(UsageError, match="is no split"):
            choose_cases(pictures, split=split)


def test_scores_are_those_of_the_masks_a_user_gets(pictures, planar):
    cases, _ = choose_cases(pictures)
    evaluation = evaluate(load_trained(planar), cases)
    segmenter = Segmenter(planar)
    for case, scored in zip(cases, evaluation.cases, strict=True):
        truth = (np.asarray(Image.open(case.label)) > 0).astype(np.uint8)
        assert scored.scores["Anterior"].dice == pytest.approx(dice(segmenter(case.image).mask, truth, 1))


def test_volumes_are_scored_whole_and_in_millimetres(data, tmp_path, monkeypatch):
    """The label map of a voxel, the mask of its neighbour two voxels on: the distance is two of that axis' steps."""
    trained = load_trained(save_tiny(VOLUME, tmp_path / "volume"))
    label = np.zeros(GRID, np.uint8)
    label[8, 4, 6] = 1
    stretched = AFFINE @ np.diag([1.0, 2.5, 1.0, 1.0])
    write_case(data, "one", label, stretched)
    image = np.arange(label.size, dtype=np.float32).reshape(GRID)
    nibabel.Nifti1Image(image, stretched).to_filename(data / "imagesTr/one.nii.gz")
    moved = np.zeros((1, *GRID), np.float32)
    moved[0, 8, 6, 6] = 1
    monkeypatch.setattr("cdal_trainer.evaluate._segment", lambda trained, study: moved[0].astype(np.uint8))
    evaluation = evaluate(trained, choose_cases(data, pattern="one")[0])
    assert evaluation.summary.keys() == {"Anterior", "Posterior"}
    assert evaluation.cases[0].scores["Anterior"].hd95 == pytest.approx(5.0)
    assert evaluation.cases[0].scores["Posterior"].dice == 1  # on neither side


def test_what_a_user_could_not_segment_is_not_scored(data, planar):
    with pytest.raises(TrainingError, match=r"one\.nii\.gz: this is a volume, the model was trained on planar images"):
        evaluate(load_trained(planar), choose_cases(data)[0])


def test_a_comparison_with_other_cases_is_refused_before_any_work(pictures, planar, tmp_path, monkeypatch):
    evaluation = evaluate(load_trained(planar), choose_cases(pictures, pattern="a*")[0])
    evaluation.save(tmp_path / "a.json", PLANAR.labels)
    monkeypatch.setattr("cdal_trainer.evaluate._segment", lambda *_: pytest.fail("it was segmented"))
    arguments = ["evaluate", "--model", str(planar), "--data", str(pictures), "--out", str(tmp_path / "b.json")]
    result = CliRunner().invoke(app, [*arguments, "--against", str(tmp_path / "a.json")])
    assert isinstance(result.exception, UsageError)


def test_a_mask_that_does_not_fit_is_named(pictures, planar):
    Image.new("L", (9, 9)).save(pictures / "masks/a1.png")
    trained, (cases, _) = load_trained(planar), choose_cases(pictures)
    with pytest.raises(TrainingError, match=r"a1\.png"):
        evaluate(trained, cases)


def test_nothing_to_score_is_refused(planar):
    with pytest.raises(TrainingError, match="no case to score"):
        evaluate(load_trained(planar), [])


class TestFiles:
    @pytest.fixture
    def evaluation(self, pictures, planar) -> Evaluation:
        return evaluate(load_trained(planar, votes=3, seed=5), choose_cases(pictures)[0], chosen="all 3")

    def test_they_hold_every_case(self, evaluation, tmp_path):
        written = evaluation.save(tmp_path / "scores.json", PLANAR.labels)
        assert [path.name for path in written] == ["scores.json", "scores.csv", "scores.png"]
        data = json.loads(written[0].read_text())
        assert (data["model"], data["votes"], data["seed"], data["chosen"]) == ("tiny-planar", 3, 5, "all 3")
        with written[1].open() as file:
            rows = list(csv.DictReader(file))
        assert [row["case"] for row in rows] == ["a1", "a2", "b1"]
        for row, case in zip(rows, data["cases"], strict=True):
            assert float(row["dice"]) == pytest.approx(case["scores"]["Anterior"]["dice"], abs=1e-5)
        with Image.open(written[2]) as picture:
            assert picture.size[0] > 500

    def test_they_read_back(self, evaluation, tmp_path):
        evaluation.save(tmp_path / "scores.json", PLANAR.labels)
        again = Evaluation.from_json(tmp_path / "scores.json")
        assert again.to_data() == evaluation.to_data()

    def test_a_comparison_is_added(self, evaluation, tmp_path):
        evaluation.save(tmp_path / "scores.json", PLANAR.labels, other=evaluation)
        comparison = json.loads((tmp_path / "scores.json").read_text())["comparison"]
        assert comparison["model"] == "tiny-planar"
        assert comparison["dice"]["Anterior"]["p_value"] == 1

    @pytest.mark.parametrize("name", ["scores_0.5", "scores_0.5.json"])
    def test_a_dot_in_the_name_is_kept(self, evaluation, tmp_path, name):
        written = evaluation.save(tmp_path / name, PLANAR.labels)
        assert [path.name for path in written] == ["scores_0.5.json", "scores_0.5.csv", "scores_0.5.png"]

    def test_a_comparison_on_other_cases_is_refused(self, evaluation):
        fewer = Evaluation("m", "cdal", "torch", 1, 0, 2, evaluation.cases[:2])
        with pytest.raises(UsageError, match="different cases"):
            evaluation.against(fewer)

    def test_those_of_an_older_version_read_back(self, evaluation, tmp_path):
        data = evaluation.to_data()
        del data["trained_on"]
        (tmp_path / "old.json").write_text(json.dumps(data))
        assert Evaluation.from_json(tmp_path / "old.json").to_data() == evaluation.to_data()

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"cases": [{"case": 1}]}'])
    def test_what_is_no_result_is_refused(self, tmp_path, text):
        (tmp_path / "scores.json").write_text(text)
        with pytest.raises(UsageError, match="no result of cdal evaluate"):
            Evaluation.from_json(tmp_path / "scores.json")


def test_the_command(pictures, planar, tmp_path):
    arguments = ["evaluate", "--model", str(planar), "--data", str(pictures), "--out", str(tmp_path / "a.json")]
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 0, first.output
    assert "tiny-planar, all 3 cases" in first.output
    second = CliRunner().invoke(app, [*arguments, "--votes", "1", "--against", str(tmp_path / "a.json"), "--json"])
    assert second.exit_code == 0, second.output
    summary = json.loads(second.stdout)
    assert (summary["votes"], summary["evaluations"]) == (1, 2)
    assert summary["trained_on"] is None, "a model without a record"
    assert summary["comparison"]["dice"]["Anterior"]["cases"] == 3


def test_a_comparison_on_one_patient_has_no_interval(pictures, planar, tmp_path):
    arguments = ["evaluate", "--model", str(planar), "--data", str(pictures), "--cases", "a1", "--out"]
    path = str(tmp_path / "a.json")
    assert CliRunner().invoke(app, [*arguments, path]).exit_code == 0
    told = CliRunner().invoke(app, [*arguments, str(tmp_path / "b.json"), "--against", path])
    assert "one patient: no interval, p = 1" in told.output
    assert json.loads((tmp_path / "b.json").read_text())["comparison"]["dice"]["Anterior"]["interval"] is None


def test_names_are_told_as_they_are(pictures, planar, tmp_path):
    arguments = ["evaluate", "--model", str(planar), "--data", str(pictures), "--out", str(tmp_path / "a.json")]
    told = CliRunner().invoke(app, [*arguments, "--cases", "a[/1]"])
    assert told.exit_code == 0, told.output
    assert "named a[/1]" in told.output


@pytest.mark.parametrize("command", [("evaluate", "--out", "scores.json"), ("calibrate", "--dry-run")])
@pytest.mark.parametrize("terminal", [True, False])
def test_building_an_engine_is_shown_on_a_terminal(pictures, planar, tmp_path, monkeypatch, command, terminal):
    shown = []

    class Status(nullcontext):
        update = shown.append

        def __enter__(self):
            return self

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CDAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Console, "is_terminal", terminal)
    monkeypatch.setattr(Console, "status", lambda _, text: shown.append(text) or Status())
    CliRunner().invoke(
        app, [*command, "--model", str(planar), "--data", str(pictures), "--engine", "torchscript", "--json"]
    )
    building = ["loading the model", "building the engine torchscript in fp32, once on this machine"]
    assert shown[:2] == (building if terminal else [])
