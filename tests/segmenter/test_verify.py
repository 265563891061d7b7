"""`verify` finds whatever was changed after a run, and nothing where nothing was."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from cdal_sdk import Segmenter, segment_cases
from cdal_sdk.bundle import read_manifest
from cdal_sdk.digest import sha256
from cdal_sdk.errors import ReadError, UsageError
from cdal_sdk.readers import CaseFiles, discover
from cdal_sdk.segmenter.report import CaseReport
from cdal_sdk.segmenter.verify import Problem, verify
from cdal_sdk.study import Study
from tests.conftest import WriteSeries
from tests.segmenter.conftest import write_volume
from tests.synthetic_dicom import PATIENT_NAME


def findings(out: Path, source: Path | None = None) -> list[str]:
    return [problem.what for problem in verify(out, discover([source]) if source else ()).problems]


@pytest.fixture(scope="module")
def finished(volume_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an input and its output, made once."""
    folder = tmp_path_factory.mktemp("finished")
    write_volume(folder / "in/a.nii.gz")
    segmenter = Segmenter(volume_model, engine="torch")
    segment_cases(segmenter, discover([folder / "in"]), folder / "out", formats=("probability",))
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def rewrite_mask(path: Path, change: Callable[[np.ndarray], np.ndarray], affine: np.ndarray | None = None) -> None:
    image = nibabel.load(path)
    array = change(np.asarray(image.dataobj))
    nibabel.save(nibabel.Nifti1Image(array, image.affine if affine is None else affine), path)


def accept(out: Path) -> None:
    """Record the present hashes, as somebody would who wants a changed file to pass."""

    def renew(entry: dict[str, Any]) -> None:
        entry["output_sha256"] = {name: sha256(out / name) for name in entry["outputs"]}

    rewrite(out / ".cdal-ledger/a.json", renew)
    rewrite(out / "report.json", lambda report: renew(report["cases"][0]))


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_an_untouched_run_holds(finished: Path, volume_model: Path) -> None:
    found = verify(finished / "out", discover([finished / "in"]), read_manifest(volume_model))
    assert found.problems == []
    assert (found.cases, found.files, found.sources) == (1, 4, 1)


def test_a_changed_missing_or_foreign_file(run: Path) -> None:
    out = run / "out"
    with (out / "spread/a.nii.gz").open("ab") as file:
        file.write(b"x")
    (out / "previews/a.png").unlink()
    shutil.copy(out / "a.nii.gz", out / "b.nii.gz")
    assert sorted(findings(out)) == [
        "no finished case accounts for this file",
        "previews/a.png is missing",
        "spread/a.nii.gz has changed since it was written",
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda mask: np.where(mask == 1, 9, mask).astype(np.uint8), "the numbers [9], which no label has"),
        (lambda mask: np.where(mask == 1, 2, mask).astype(np.uint8), "not the size in the report"),
        (lambda mask: mask[1:], "has the shape [10, 13, 7], its source has [11, 13, 7]"),
        (lambda mask: mask.astype(np.float32), "cannot be read (TypeError)"),
    ],
)
def test_a_wrong_mask_whose_hash_was_forged(run: Path, change: Callable[[np.ndarray], np.ndarray], said: str) -> None:
    rewrite_mask(run / "out/a.nii.gz", change)
    accept(run / "out")
    assert any(said in what for what in findings(run / "out"))


def test_a_mask_at_another_place(run: Path) -> None:
    moved = nibabel.load(run / "out/a.nii.gz").affine.copy()
    moved[0, 3] += 3
    rewrite_mask(run / "out/a.nii.gz", lambda mask: mask, moved)
    accept(run / "out")
    assert findings(run / "out") == ["a.nii.gz lies 3.00 mm from its source"]


def test_a_changed_or_missing_source(run: Path) -> None:
    write_volume(run / "in/a.nii.gz", seed=5)
    assert findings(run / "out", run / "in") == ["its source has changed since it was segmented"]
    (run / "in/a.nii.gz").rename(run / "in/other.nii.gz")
    told = [
        "its source is not among the given inputs",
        "neither a finished case nor the last report tells of it",
    ]
    assert findings(run / "out", run / "in") == told


def test_a_source_that_was_moved_is_known_by_its_bytes(run: Path) -> None:
    (run / "moved").mkdir()
    (run / "in/a.nii.gz").rename(run / "moved/renamed.nii.gz")
    write_volume(run / "moved/a.nii.gz", seed=5)  # another one has its name now
    found = verify(run / "out", discover([run / "moved"]))
    assert found.sources == 1
    assert found.problems == [Problem("a", "neither a finished case nor the last report tells of it")], "that other one"


def test_a_source_that_failed_is_told_by_the_report(run: Path) -> None:
    shutil.copy(run / "in/a.nii.gz", run / "in/b.nii.gz")
    assert findings(run / "out", run / "in") == ["neither a finished case nor the last report tells of it"]
    failed = asdict(CaseReport("b", "failed", "it cannot be read", "b.nii.gz"))
    rewrite(run / "out/report.json", lambda report: report["cases"].append(failed))
    assert findings(run / "out", run / "in") == []


def test_a_source_that_cannot_be_read(run: Path) -> None:
    def crash(files: CaseFiles) -> Study:
        raise ReadError("reading it crashed", where=files.paths[0])

    found = verify(run / "out", discover([run / "in"]), read=crash)
    assert [problem.what for problem in found.problems] == ["its source cannot be read: a.nii.gz: reading it crashed"]
    (run / "in/a.nii.gz").write_bytes(b"")
    (what,) = findings(run / "out", run / "in")
    assert what.startswith("its source cannot be read: a.nii.gz: the file is empty")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_source_that_does_not_answer_is_told(run: Path) -> None:
    source = run / "in/a.nii.gz"
    given = discover([source])
    source.unlink()
    os.mkfifo(source)  # to open it blocks, as on a drive that is gone
    try:
        found = verify(run / "out", given, timeout=0.2)
    finally:
        os.close(os.open(source, os.O_WRONLY))  # lets the thread go that was left behind
    assert "reading it took longer than 0.2 seconds" in found.problems[0].what


def test_no_dicom_file_is_named(planar_model: Path, write_xray: Callable[..., Path], tmp_path: Path) -> None:
    def crash(files: CaseFiles) -> Study:
        raise ReadError("reading it crashed", where=files.paths[0])

    given = discover([write_xray(np.arange(600, dtype=np.uint16).reshape(20, 30), f"{PATIENT_NAME}.dcm")])
    segment_cases(Segmenter(planar_model, engine="torch"), given, tmp_path / "out")
    (problem,) = verify(tmp_path / "out", given, read=crash).problems
    assert problem.what == f"its source cannot be read: {given[0].case}: reading it crashed"


DIFFER = "report.json and its record in the ledger differ in "


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda report: report["cases"][0]["labels"]["Anterior"].update(volume_ml=99.0), DIFFER + "labels"),
        (lambda report: report["cases"][0].update(status="failed"), DIFFER + "status"),
        (lambda report: report["cases"][0].update(review=["all is well"]), DIFFER + "review"),
        (lambda report: report.update(seed=2), "it was made with other settings than report.json tells"),
        (lambda report: report.update(cases=[{"case": 1}]), "it is damaged or cannot be read"),
    ],
)
def test_a_report_that_was_changed(run: Path, change: Callable[[dict[str, Any]], object], said: str) -> None:
    rewrite(run / "out/report.json", change)
    assert findings(run / "out") == [said]


def test_a_report_that_is_missing_or_lists_what_the_ledger_lacks(run: Path) -> None:
    out = run / "out"
    (out / ".cdal-ledger/a.json").rename(out / ".cdal-ledger/b.json")
    said = "report.json lists it, but the ledger has no record of it"
    damaged = "its record in the ledger is damaged or cannot be read"
    assert findings(out) == [damaged, said]
    (out / ".cdal-ledger/b.json").rename(out / ".cdal-ledger/a.json")
    (out / "report.json").unlink()
    assert verify(out).problems == [Problem("report.json", "it is missing")]


def test_a_copy_without_the_hidden_ledger(run: Path) -> None:
    out = run / "out"
    shutil.rmtree(out / ".cdal-ledger")
    found = verify(out, discover([run / "in"]))
    assert (found.cases, found.files, found.sources, found.problems) == (1, 4, 1, [])
    (out / "a.nii.gz").write_bytes(b"something else")
    assert findings(out) == ["a.nii.gz has changed since it was written"]
    rewrite(out / "report.json", lambda report: report["cases"][0].update(case="../out/a"))
    assert "its name leads out of the folder" in findings(out)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda entry: entry.pop("source"), "its record in the ledger is damaged or cannot be read"),
        (lambda entry: entry.update(outputs=[1]), "its record in the ledger is damaged or cannot be read"),
        (lambda entry: entry.update(geometry={}), "its record or its files cannot be checked (KeyError)"),
        (lambda entry: entry["labels"].update(Anterior={}), "its record or its files cannot be checked (KeyError)"),
    ],
)
def test_a_damaged_record_hides_no_other_problem(
    run: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    rewrite(run / "out/.cdal-ledger/a.json", change)
    shutil.copy(run / "out/a.nii.gz", run / "out/b.nii.gz")
    found = findings(run / "out")
    assert said in found
    assert found[-1] == "no finished case accounts for this file"


def test_an_output_that_cannot_be_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        if path.name == "a.nii.gz" and path.parent.name == "out":
            raise PermissionError(13, "Permission denied")
        return sha256(path)

    monkeypatch.setattr("cdal_sdk.segmenter.verify.sha256", refuse)
    assert findings(run / "out") == ["a.nii.gz cannot be read (Permission denied)"]


def test_a_record_that_leads_out_of_the_folder(run: Path) -> None:
    record = run / "out/.cdal-ledger/a.json"
    record.write_text(record.read_text().replace('"previews/a.png"', '"../in/a.nii.gz"'))
    assert "../in/a.nii.gz is no output of this case" in findings(run / "out")


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no case was finished"):
        verify(tmp_path)


def test_dicom_and_pictures(
    volume_model: Path, planar_model: Path, write_series: WriteSeries, write_xray: Callable[..., Path], tmp_path: Path
) -> None:
    series = write_series("in/series", orientation=(0.6, 0.8, 0, 0, 0, -1))
    segmenter = Segmenter(volume_model, engine="torch", force=True)
    segment_cases(segmenter, discover([series.folder]), tmp_path / "volumes", formats=("nifti", "probability"))
    assert findings(tmp_path / "volumes", series.folder) == []
    path = tmp_path / f"volumes/{series.uid}.dcm"
    ds = dcmread(path)
    ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID = "1.2.3"
    ds.save_as(path)
    said = findings(tmp_path / "volumes", series.folder)
    assert f"{path.name} refers to other images than its source" in said

    values = np.random.default_rng(0).integers(0, 255, (20, 30), dtype=np.uint8)
    write_xray(values, "in/x.dcm")
    Image.fromarray(values).save(tmp_path / "in/y.png")
    inputs = [tmp_path / "in/x.dcm", tmp_path / "in/y.png"]
    segment_cases(Segmenter(planar_model, engine="torch"), discover(inputs), tmp_path / "planar", formats=("nifti",))
    found = verify(tmp_path / "planar", discover(inputs))
    assert (found.cases, found.problems) == (2, [])
