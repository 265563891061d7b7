"""Folds, and the record of them: stable, one patient on one side, and known to the model wherever it goes."""

from __future__ import annotations

import json
import random
import re
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cdal_export.exporter import ExportOptions, export_model
from cdal_sdk.bundle import SPLIT_FILE, SplitRecord, name_hash, read_split, split_to_json, write_model_folder
from cdal_sdk.cli.app import app
from cdal_sdk.errors import ModelError, TrainingError, UsageError
from cdal_trainer.evaluate import choose_cases
from cdal_trainer.split import describe_split, record_split, seen_in_training, split_folds
from cdal_trainer.training import Hardware, train
from tests.tiny_model import PLANAR, tiny_generator

HARDWARE = Hardware(accelerator="cpu", precision="32-true", workers=0)
NAMES = [f"case_{i:03d}" for i in range(1, 41)]
RECORD = SplitRecord("a*", "^.", 1, 2, 0, training=(name_hash("a1"),), held_out=(name_hash("a2"), name_hash("b1")))


class TestFolds:
    def test_every_case_is_held_out_once(self):
        held_out = [name for fold in range(5) for name in split_folds(NAMES, 5, fold)[1]]
        assert sorted(held_out) == NAMES

    @pytest.mark.parametrize("fold", range(5))
    def test_no_case_is_on_both_sides_and_none_is_lost(self, fold):
        training, held_out = split_folds(NAMES, 5, fold)
        assert not set(training) & set(held_out)
        assert set(training) | set(held_out) == set(NAMES)

    @pytest.mark.parametrize("per_patient", [1, 2])
    def test_no_case_moves_when_others_come_go_or_change_places(self, per_patient):
        training, held_out = map(set, split_folds(NAMES, 4, 1, per_patient=per_patient))
        fewer = random.Random(0).sample(NAMES, 25)
        for some in (fewer, [*NAMES, "case_041", "case_042", "another_1"]):
            found = split_folds(some, 4, 1, per_patient=per_patient)
            assert set(found[0]) & set(NAMES) == training & set(some)
            assert set(found[1]) & set(NAMES) == held_out & set(some)

    def test_these_cases_stay_held_out(self):
        """By the hash of the patient; figures rest on it."""
        assert split_folds(NAMES[:22], 8, 0)[1] == ["case_006", "case_013", "case_019"]

    def test_a_patient_is_never_on_both_sides(self):
        names = [f"patient{i:02d}-scan{j}" for i in range(9) for j in range(3)]
        for fold in range(3):
            training, held_out = split_folds(names, 3, fold, "^patient..")
            assert not {name[:9] for name in training} & {name[:9] for name in held_out}
            assert len(training) + len(held_out) == len(names)

    @pytest.mark.parametrize("per_patient", [2, 3])
    def test_consecutive_numbers_are_a_patient(self, per_patient):
        for fold in range(4):
            held_out = {int(name[-3:]) for name in split_folds(NAMES[:36], 4, fold, per_patient=per_patient)[1]}
            assert held_out
            for first in range(1, 36, per_patient):
                assert len({number in held_out for number in range(first, first + per_patient)}) == 1

    def test_numbers_count_and_not_their_writing(self):
        """Neither zeros nor what follows the number separate a patient's cases."""
        for fold in range(4):
            held_out = split_folds(["a007_mr", "a8", *NAMES], 4, fold, per_patient=2)[1]
            assert ("a007_mr" in held_out) == ("a8" in held_out)

    def test_the_first_group_of_an_expression_is_the_patient(self):
        for fold in range(3):
            sides = split_folds([f"p{i}_{j}" for i in range(9) for j in range(2)], 3, fold, r"(.*)_\d")
            assert not {name[:2] for name in sides[0]} & {name[:2] for name in sides[1]}
        with pytest.raises(TrainingError, match="finds no patient in the name 'b'"):
            split_folds(["p1", "b"], 2, 0, r"p(\d)|b")

    def test_a_name_without_a_number_is_refused(self):
        with pytest.raises(TrainingError, match="per_patient is 2, but the name 'left' bears no number"):
            split_folds(["case_1", "left"], 2, 0, per_patient=2)

    @pytest.mark.parametrize(("folds", "fold"), [(5, 5), (5, -1), (1, 0), (10**9, 0)])
    def test_a_fold_that_cannot_be_is_refused(self, folds, fold):
        with pytest.raises((TrainingError, UsageError), match="fold"):
            split_folds(NAMES, folds, fold)

    @pytest.mark.parametrize(("names", "patient"), [(["case_001"], ""), (["p1_1", "p1_2"], "^p."), ([], "")])
    def test_of_one_patient_none_can_be_held_out_and_that_is_said(self, names, patient):
        told = rf"^{len(names)} case\(s\) of {min(len(names), 1)} patient.*none can be held out; add cases of other"
        with pytest.raises(TrainingError, match=told):
            split_folds(names, 3, 0, patient)

    @pytest.mark.parametrize(("names", "folds", "fold"), [(NAMES[:3], 8, 0), (["a", "c"], 3, 2), (["a", "c"], 3, 1)])
    def test_another_fold_that_is_advised_works(self, names, folds, fold):
        """Also where all are of the same fold, of these folds."""
        with pytest.raises(TrainingError, match=r"one side empty; use fold \d+ of \d+$") as caught:
            split_folds(names, folds, fold)
        other, number = re.findall(r"\d+", str(caught.value.remedy))
        assert all(split_folds(names, int(number), int(other)))

    def test_a_single_fold_is_told_without_a_setting_that_nobody_gave(self, pictures):
        with pytest.raises(UsageError, match="fold 0 of 1 cannot be held out; give at least 2 folds"):
            choose_cases(pictures, split="0/1")


class TestRecord:
    def test_what_trained_the_first_model_trained_the_second(self, recipe):
        first = record_split(recipe.data, 0, ["a", "b"], ["c", "d"])
        second = record_split(recipe.data, 1, ["c"], ["a", "d"], first)
        assert set(second.training) == {name_hash(name) for name in "abc"}
        assert second.held_out == (name_hash("d"),)
        words = "fold 1 of 3: 1 cases for training, 2 for validation"
        started = "1 of which are of patients that trained the model it started from"
        assert describe_split(second, ["c"], ["a", "d"]) == f"{words}, {started}"
        assert describe_split(first, ["a", "b"], ["c", "d"]).endswith("2 cases for training, 2 for validation")

    def test_another_case_of_a_patient_that_trained_is_not_held_out(self, recipe):
        settings = replace(recipe.data, patient="", per_patient=2)
        first = record_split(settings, 0, ["head_1", "head_4"], ["head_7"])
        second = record_split(settings, 1, ["head_4", "head_5"], ["head_1", "head_2", "head_7"], first)
        assert second.held_out == (name_hash("head_7"),)
        names = ["head_2", "head_3", "head_6", "head_7"]
        assert seen_in_training(second, names, []) == 0, "no other case of their patients is known"
        assert seen_in_training(second, names, ["head_1", "head_4", "head_5"]) == 3
        assert seen_in_training(second, ["unnumbered"], ["head_1"]) == 0

    def test_a_run_an_export_and_an_export_of_it_carry_it_without_names(self, pictures, planar_recipe, tmp_path):
        settings = replace(planar_recipe.data, patient="^..", folds=3)
        best = train(replace(planar_recipe, data=settings), pictures, tmp_path / "run", hardware=HARDWARE)
        record = read_split(best)
        assert (record.cases, record.patient, record.per_patient, record.folds, record.fold) == ("*", "^..", 1, 3, 0)
        assert set(record.training) == {name_hash("a1"), name_hash("a2")}
        assert record.held_out == (name_hash("b1"),)
        for source, target in ((best, tmp_path / "one"), (tmp_path / "one", tmp_path / "two")):
            export_model(source, target, ExportOptions(engines=("torchscript",)))
            assert read_split(target) == record
        assert not [name for name in ("a1", "a2", "b1") if f'"{name}"' in (tmp_path / "two" / SPLIT_FILE).read_text()]

    def test_a_model_without_one_says_so(self, pictures, tmp_path):
        folder = tmp_path / "model"
        write_model_folder(folder, PLANAR, tiny_generator(PLANAR).state_dict())
        assert read_split(folder) is None
        with pytest.raises(UsageError, match="no record of its split"):
            choose_cases(pictures, split="held-out")

    @pytest.mark.parametrize("text", ["{", "{}", '{"surprise": 1}'])
    def test_a_damaged_one_is_refused(self, tmp_path, text):
        with pytest.raises(ModelError, match=r"split\.json"):
            read_split(with_record(tmp_path / "model", text))

    def test_a_changed_one_is_refused(self, tmp_path):
        folder = with_record(tmp_path / "model", split_to_json(RECORD))
        (folder / SPLIT_FILE).write_text(split_to_json(replace(RECORD, training=())))
        with pytest.raises(ModelError, match="differs from its hash"):
            read_split(folder)


class TestUse:
    def test_the_held_out_cases_are_those_of_training(self, pictures):
        chosen, words = choose_cases(pictures, split="held-out", record=RECORD)
        assert [case.name for case in chosen] == ["a2", "b1"]
        assert words == "2 held out by the model's split"

    def test_other_data_do_not_hold_them(self, pictures):
        with pytest.raises(UsageError, match="hold 1 of the 2 cases"):
            choose_cases(pictures, split="held-out", record=replace(RECORD, held_out=(name_hash("a2"), name_hash("z"))))
        with pytest.raises(UsageError, match="record holds out no case"):
            choose_cases(pictures, split="held-out", record=replace(RECORD, held_out=()))

    def test_a_pattern_picks_among_the_held_out_cases(self, pictures):
        chosen, words = choose_cases(pictures, pattern="a*", split="held-out", record=RECORD)
        assert ([case.name for case in chosen], words) == (["a2"], "1 held out by the model's split and named a*")
        with pytest.raises(UsageError, match=r"none of the 2 cases .* is named like 'c\*'"):
            choose_cases(pictures, pattern="c*", split="held-out", record=RECORD)

    def test_a_fold_is_dealt_as_the_recipe_would(self, pictures):
        """Among its cases and by its patients: b1 takes no part; of a1 and a2, each is a patient or both are one."""
        alone = replace(RECORD, patient="")
        assert [case.name for case in choose_cases(pictures, split="0/2", record=alone)[0]] == ["a1"]
        for record, patient in ((RECORD, None), (alone, "^."), (replace(alone, per_patient=2), None)):
            with pytest.raises(TrainingError, match=r"2 case\(s\) of 1 patient\(s\): none can be"):
                choose_cases(pictures, split="0/2", record=record, patient=patient)

    @pytest.mark.parametrize(("cases", "seen"), [("*", 2), ("a2", 1), ("b*", 0)])
    def test_scoring_what_trained_the_model_is_told(self, pictures, tmp_path, cases, seen):
        folder = with_record(tmp_path / "model", split_to_json(RECORD))
        arguments = ["evaluate", "--model", str(folder), "--data", str(pictures), "--cases", cases, "--json"]
        result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "a.json")])
        assert result.exit_code == 0, result.output
        assert (f"warning: {seen} of the " in result.stderr) == (seen > 0), "a1 trained it, and a2 is of its patient"
        assert result.stderr.count("warning") == (seen > 0)
        assert json.loads(result.stdout)["trained_on"] == seen
        assert json.loads((tmp_path / "a.json").read_text())["trained_on"] == seen

    def test_the_command_knows_what_was_held_out(self, pictures, tmp_path):
        folder = with_record(tmp_path / "model", split_to_json(RECORD))
        arguments = ["evaluate", "--model", str(folder), "--data", str(pictures), "--out", str(tmp_path / "a.json")]
        result = CliRunner().invoke(app, [*arguments, "--split", "held-out"])
        assert "2 held out by the model's split cases" in result.output
        by_patient = CliRunner().invoke(app, [*arguments, "--split", "0/2"])
        assert "2 case(s) of 1 patient(s)" in str(by_patient.exception), "of a1 and a2; b1 takes no part"

    def test_calibrating_on_it_is_told_and_kept(self, pictures, tmp_path):
        folder = with_record(tmp_path / "model", split_to_json(RECORD))
        (folder / "MODEL_CARD.md").write_text("# tiny\n")
        arguments = ["calibrate", "--model", str(folder), "--data", str(pictures), "--coverage", "0.5"]
        result = CliRunner().invoke(app, [*arguments, "--engine", "torch", "--json"])
        assert result.exit_code == 0, result.output
        assert "warning: 2 of the 3 cases, or others of their patients, trained this model" in result.stderr
        assert json.loads(result.stdout)["trained_on"] == 2
        assert "of these, 2 or others of their patients trained the model" in (folder / "MODEL_CARD.md").read_text()
        checked = CliRunner().invoke(app, [*arguments, "--cases", "[ab]1", "--check", "a2"])
        assert "'a' would both calibrate and check" in str(checked.exception), "a1 and a2 are of one patient"


def with_record(folder: Path, text: str) -> Path:
    """A tiny model of pictures with a split record."""
    stored = folder.with_suffix(".json")
    stored.write_text(text)
    write_model_folder(folder, PLANAR, tiny_generator(PLANAR).state_dict(), extra_files={SPLIT_FILE: stored})
    return folder


def test_the_spelling_of_accents_decides_neither_fold_nor_record():
    names = [f"Müller{number}" for number in range(12)]
    forms = [[unicodedata.normalize(form, name) for name in names] for form in ("NFC", "NFD")]
    held_out = [[unicodedata.normalize("NFC", name) for name in split_folds(form, 3, 0)[1]] for form in forms]
    assert held_out[0] == held_out[1]
    assert name_hash(forms[0][0]) == name_hash(forms[1][0])
