"""A run into a folder: outputs, report, skipping, failing alone."""

from __future__ import annotations

import gzip
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from cdal_sdk import Segmenter as AnySegmenter
from cdal_sdk import __version__, segment_cases
from cdal_sdk.errors import OutputError, UsageError
from cdal_sdk.readers import CaseFiles, discover
from cdal_sdk.segmenter import CaseReport, Format, batch
from cdal_sdk.segmenter.verify import verify
from cdal_sdk.slicing import Plan, Prepared
from cdal_sdk.study import Study
from tests.conftest import WriteSeries
from tests.segmenter.conftest import write_volume
from tests.synthetic_dicom import ACCESSION, BIRTH_DATE, PATIENT_ID, PATIENT_NAME


def run(model: Path, source: Path, out: Path, *, formats: tuple[Format, ...] = (), **settings: Any) -> dict[str, Any]:
    """Segment everything in a folder; returns the report, checked to be what is on disk, by case."""
    overwrite = settings.pop("overwrite", False)
    segmenter = AnySegmenter(model, **{"engine": "torch", **settings})  # eager: tracing takes longer than all else here
    report = segment_cases(segmenter, discover([source]), out, formats=formats, overwrite=overwrite)
    on_disk = json.loads((out / "report.json").read_text())
    assert on_disk == json.loads(report.to_json())
    return {case["case"]: case for case in on_disk["cases"]}


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    write_volume(tmp_path / "in/a.nii.gz", 0)
    write_volume(tmp_path / "in/deeper/b.nii", 1)
    return tmp_path / "in"


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_outputs_and_report(volume_model: Path, inputs: Path, tmp_path: Path) -> None:
    cases = run(volume_model, inputs, tmp_path / "out", formats=("probability",), seed=4, votes=2)

    report = json.loads((tmp_path / "out/report.json").read_text())
    assert {key: report[key] for key in ("model", "engine", "seed", "votes")} == {
        "model": "tiny-volume", "engine": "torch", "seed": 4, "votes": 2,
    }  # fmt: skip
    assert report["interval_coverage"] is None, "the tiny model is not calibrated"
    made_by = {
        "software": __version__,
        "model_version": "1",
        "weights_sha256": AnySegmenter(volume_model, engine="torch").weights_sha256,
        "precision": "fp32",
        "device": "cpu",
        "force": False,
    }
    assert {key: report[key] for key in made_by} == made_by
    assert made_by.items() <= cases["a"]["settings"].items()
    assert set(report["seconds"]) == {"wall", "read", "prepare", "engine", "restore", "write"}
    written = sum(case["timing_ms"]["write"] for case in cases.values()) / 1000
    assert report["seconds"]["write"] == pytest.approx(written, abs=0.011)
    assert report["seconds"]["wall"] > report["seconds"]["engine"] > 0
    expected = {"report.json", "report.html", ".cdal-ledger/a.json", ".cdal-ledger/b.json"}
    for case in "ab":
        expected |= {f"{folder}{case}.nii.gz" for folder in ("", "probability/", "spread/")}
        expected.add(f"previews/{case}.png")
    assert files_in(tmp_path / "out") == expected
    assert set(cases["a"]) >= {"case", "status", "error", "source", "outputs", "labels", "mean_spread", "timing_ms"}
    assert cases["a"]["status"] == "ok"
    assert cases["a"]["source"] == "a.nii.gz"
    assert set(cases["a"]["timing_ms"]) == {"read", "prepare", "engine", "restore", "write"}
    assert set(cases["a"]["labels"]) == {"Anterior", "Posterior"}
    assert {name for case in cases.values() for name in case["outputs"]} == {
        name for name in expected if "json" not in name and "html" not in name
    }

    source, mask = (nibabel.load(path) for path in (inputs / "a.nii.gz", tmp_path / "out/a.nii.gz"))
    np.testing.assert_array_equal(mask.affine, source.affine)
    assert mask.get_data_dtype() == np.uint8
    assert mask.shape == source.shape
    assert int(mask.header["sform_code"]) == 2
    counted = (np.asarray(mask.dataobj) == 1).sum() * 1.2 / 1000
    assert cases["a"]["labels"]["Anterior"]["volume_ml"] == pytest.approx(counted, abs=1e-4)


def test_an_unchanged_case_is_skipped(volume_model: Path, inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run(volume_model, inputs, out)
    before = (out / "a.nii.gz").stat().st_mtime_ns

    second = run(volume_model, inputs, out)

    assert [case["status"] for case in second.values()] == ["skipped", "skipped"]
    assert (out / "a.nii.gz").stat().st_mtime_ns == before
    assert second["a"]["labels"] == first["a"]["labels"]
    assert [case["status"] for case in run(volume_model, inputs, out).values()] == ["skipped", "skipped"]


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"votes": 1}, {"engine": "torchscript"}, {"formats": ("probability",)}, {"overwrite": True}]
)
def test_a_changed_setting_redoes_every_case(
    volume_model: Path, inputs: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    run(volume_model, inputs, tmp_path / "out")
    again = run(volume_model, inputs, tmp_path / "out", **change)
    assert [case["status"] for case in again.values()] == ["ok", "ok"]


def test_another_precision_redoes_every_case(volume_model: Path, inputs: Path, tmp_path: Path) -> None:
    """As on another machine, whose CPU lacks bfloat16: one folder never holds masks of both."""
    segmenter = AnySegmenter(volume_model, engine="torch")
    for precision, status in (("bf16", "ok"), ("bf16", "skipped"), ("fp32", "ok")):
        segmenter.precision = precision
        report = segment_cases(segmenter, discover([inputs]), tmp_path / "out")
        assert [(case.status, case.settings["precision"]) for case in report.cases] == [(status, precision)] * 2
    assert verify(tmp_path / "out").problems == []


def test_skipped_cases_are_told_as_they_come(
    volume_model: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(volume_model, inputs, tmp_path / "out")
    told = {case: Event() for case in "ab"}
    digests = batch.digests_in_time

    def slow(files: CaseFiles, *given: Any) -> list[str]:
        assert files.case == "a" or told["a"].wait(60), "the first case was to be told before the second is hashed"
        return digests(files, *given)

    monkeypatch.setattr(batch, "digests_in_time", slow)
    segmenter = AnySegmenter(volume_model, engine="torch")
    report = segment_cases(segmenter, discover([inputs]), tmp_path / "out", on_case=lambda case: told[case.case].set())
    assert [case.status for case in report.cases] == ["skipped", "skipped"]
    assert [case.timing_ms for case in report.cases] == [{}, {}], "zeros would pass for measured"


def test_the_engine_does_not_wait_until_the_next_case_is_hashed(
    volume_model: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = AnySegmenter(volume_model, engine="torch")
    at_work, engine_run, digests = Event(), segmenter.engine.run, batch.digests_in_time

    def work(images: Any) -> Any:
        at_work.set()
        return engine_run(images)

    def slow(files: CaseFiles, *given: Any) -> list[str]:
        assert files.case == "a" or at_work.wait(60), "the engine waits"
        return digests(files, *given)

    monkeypatch.setattr(segmenter.engine, "run", work)
    monkeypatch.setattr(batch, "digests_in_time", slow)
    report = segment_cases(segmenter, discover([inputs]), tmp_path / "out")
    assert [case.error for case in report.cases] == [None, None]


def test_an_unforeseen_error_before_reading_fails_one_case(
    volume_model: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = batch.digests_in_time

    def fragile(files: CaseFiles, *given: Any) -> list[str]:
        if files.case == "a":
            raise MemoryError
        return digests(files, *given)

    monkeypatch.setattr(batch, "digests_in_time", fragile)
    cases = run(volume_model, inputs, tmp_path / "out")
    assert [case["status"] for case in cases.values()] == ["failed", "ok"]
    assert not list((tmp_path / "out/.cdal-ledger").glob("*.lock"))


def test_a_changed_input_or_lost_output_redoes_that_case(volume_model: Path, inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(volume_model, inputs, out)
    write_volume(inputs / "a.nii.gz", seed=9)
    assert [case["status"] for case in run(volume_model, inputs, out).values()] == ["ok", "skipped"]
    (out / "previews/b.png").unlink()
    assert [case["status"] for case in run(volume_model, inputs, out).values()] == ["skipped", "ok"]


def test_a_new_doubt_about_an_input_redoes_that_case(volume_model: Path, inputs: Path, tmp_path: Path) -> None:
    a, b = discover([inputs])
    segmenter = AnySegmenter(volume_model, engine="torch")
    segment_cases(segmenter, [a, b], tmp_path / "out")
    again = segment_cases(segmenter, [replace(a, doubts=("a file beside it is damaged",)), b], tmp_path / "out")
    assert [case.status for case in again.cases] == ["ok", "skipped"]
    assert "a file beside it is damaged" in again.cases[0].review


@pytest.mark.parametrize("damage", [lambda whole: whole[:40], lambda whole: bytes(len(whole))])
def test_a_damaged_output_is_made_again(volume_model: Path, inputs: Path, tmp_path: Path, damage: Any) -> None:
    mask = tmp_path / "out/a.nii.gz"
    run(volume_model, inputs, mask.parent)
    whole = mask.read_bytes()
    mask.write_bytes(damage(whole))
    assert [case["status"] for case in run(volume_model, inputs, mask.parent).values()] == ["ok", "skipped"]
    assert mask.read_bytes() == whole


def test_no_result_of_an_older_run_stays_beside_a_failure(volume_model: Path, inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(volume_model, inputs, out, formats=("probability",))
    whole = (inputs / "a.nii.gz").read_bytes()
    (inputs / "a.nii.gz").write_bytes(whole[:300])

    cases = run(volume_model, inputs, out, formats=("probability",))

    assert cases["a"]["status"] == "failed"
    assert cases["a"]["outputs"] == []
    assert "a.nii.gz" in cases["a"]["error"]
    assert str(tmp_path) not in cases["a"]["error"], "folders may be named after patients"
    assert not [name for name in files_in(out) if Path(name).name.startswith("a.")]
    assert cases["b"]["status"] == "skipped"


def test_what_no_run_wrote_is_kept(
    volume_model: Path, inputs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as a mask that somebody drew, in a folder of labels that are named like the images."""
    out = tmp_path / "labels"
    out.mkdir()
    for name in ("a.nii.gz", "a.png", "a.dcm", "b.nii.gz"):
        (out / name).write_text(f"somebody's {name}")
    (inputs / "deeper/b.nii").write_bytes(b"damaged")

    cases = run(volume_model, inputs, out)

    assert {case: entry["status"] for case, entry in cases.items()} == {"a": "ok", "b": "failed"}
    assert not (out / "b.nii.gz").exists(), "it could pass for a result"
    for name, kept in (("a.nii.gz", "a.nii.gz~"), ("a.png", "a.png"), ("a.dcm", "a.dcm"), ("b.nii.gz", "b.nii.gz~")):
        assert (out / kept).read_text() == f"somebody's {name}"
    assert "a.nii.gz is not as a run in this folder wrote it; it is kept as a.nii.gz~" in caplog.text


def test_a_mask_that_somebody_corrected_is_kept(volume_model: Path, inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(volume_model, inputs, out)
    for correction in ("first", "second"):
        (out / "a.nii.gz").write_text(correction)
        assert run(volume_model, inputs, out)["a"]["status"] == "ok"
        assert nibabel.load(out / "a.nii.gz").shape
    assert [(out / f"a.nii.gz~{number}").read_text() for number in ("", 1)] == ["first", "second"]
    run(volume_model, inputs, out, seed=1)
    assert len(list(out.glob("*~*"))) == 2, "what a run wrote is replaced"


def test_another_source_of_the_same_name_is_told(
    volume_model: Path, inputs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(volume_model, inputs, tmp_path / "out")
    run(volume_model, inputs, tmp_path / "out", seed=1)
    assert "another of that name" not in caplog.text
    write_volume(tmp_path / "other/a.nii.gz", 7)
    run(volume_model, tmp_path / "other", tmp_path / "out")
    assert "a: its source has changed, or is another of that name; the result is replaced" in caplog.text


def test_a_series_that_grows_is_no_other_source(
    volume_model: Path, write_series: WriteSeries, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its name is its own and no other's."""
    series = write_series()
    run(volume_model, series.folder, tmp_path / "out")
    path = min(series.folder.iterdir())
    with path.open("ab") as file:
        file.write(bytes(8))
    run(volume_model, series.folder, tmp_path / "out")
    assert "another of that name" not in caplog.text


def test_a_case_that_the_ledger_cannot_take_leaves_no_mask(
    volume_model: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OutputError("this cannot be written (No space left on device)")

    monkeypatch.setattr("cdal_sdk.segmenter.ledger.Ledger.write", full)
    cases = run(volume_model, inputs, tmp_path / "out")
    assert [case["status"] for case in cases.values()] == ["failed", "failed"]
    assert files_in(tmp_path / "out") == {"report.json", "report.html"}


def test_a_case_that_cannot_be_written_fails_alone(volume_model: Path, inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "previews/a.png").mkdir(parents=True)  # something is in the way

    cases = run(volume_model, inputs, out)

    assert [case["status"] for case in cases.values()] == ["failed", "ok"]
    assert "a.png" in cases["a"]["error"]
    assert not (out / "a.nii.gz").exists(), "half a case is no case"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_source_that_does_not_answer_when_it_is_hashed_fails_alone(
    volume_model: Path, inputs: Path, tmp_path: Path
) -> None:
    cases = discover([inputs])
    segmenter = AnySegmenter(volume_model, engine="torch", read_timeout=5)
    segment_cases(segmenter, cases, tmp_path / "out")
    let_go = block(inputs / "a.nii.gz")
    try:
        report = segment_cases(segmenter, cases, tmp_path / "out")
    finally:
        let_go()
    assert {case.case: case.status for case in report.cases} == {"a": "failed", "b": "skipped"}
    assert "took longer than 5 seconds" in (report.cases[0].error or "")
    left = [name for name in files_in(tmp_path / "out") if Path(name).name.startswith("a.")]
    assert left == [], "what an older run left would pass for a result of this one"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_an_interruption_while_a_source_is_hashed(volume_model: Path, inputs: Path, tmp_path: Path) -> None:
    """It does not wait for the drive, and what an earlier run made of that source stays."""
    out, cases = tmp_path / "out", discover([inputs])
    segmenter = AnySegmenter(volume_model, engine="torch")
    segment_cases(segmenter, cases, out)
    before = files_in(out)
    let_go = block(inputs / "deeper/b.nii")

    def interrupt(case: CaseReport) -> None:
        raise KeyboardInterrupt

    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            segment_cases(segmenter, cases, out, on_case=interrupt)
    finally:
        let_go()
    assert time.monotonic() - began < 60, "the time limit for reading is longer"
    assert files_in(out) == before
    assert [case["case"] for case in json.loads((out / "report.json").read_text())["cases"]] == ["a"]


def block(path: Path) -> Callable[[], None]:
    """Put a pipe in a file's place: to open it blocks, as on a drive that is gone. Returns what lets go who waits."""
    path.unlink()
    os.mkfifo(path)
    return lambda: os.close(os.open(path, os.O_WRONLY))


def test_a_ledger_that_cannot_be_changed_fails_one_case(volume_model: Path, inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "out/.cdal-ledger/a.json").mkdir(parents=True)  # can be deleted by nobody as a file
    cases = run(volume_model, inputs, tmp_path / "out")
    assert [case["status"] for case in cases.values()] == ["failed", "ok"]
    assert "its entry in the ledger cannot be deleted" in cases["a"]["error"]


def test_names_too_long_for_the_file_system_fail_alone(volume_model: Path, inputs: Path, tmp_path: Path) -> None:
    good, long = discover([inputs])
    given = [replace(long, case="x" * 300), good]
    report = segment_cases(AnySegmenter(volume_model, engine="torch"), given, tmp_path / "out")
    assert [case.status for case in report.cases] == ["failed", "ok"]


@pytest.mark.skipif(os.name != "posix", reason="needs pipes")
def test_a_pipe_or_a_device_does_not_block(volume_model: Path, inputs: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii.gz")
    (tmp_path / "endless.nii").symlink_to("/dev/zero")
    given = [tmp_path / "pipe.nii.gz", tmp_path / "endless.nii", inputs / "a.nii.gz"]
    signal.alarm(60)  # the end of this test, where it blocks
    try:
        report = segment_cases(AnySegmenter(volume_model, engine="torch"), discover(given), tmp_path / "out")
        problems = verify(tmp_path / "out", discover(given)).problems
    finally:
        signal.alarm(0)
    assert sorted(case.status for case in report.cases) == ["failed", "failed", "ok"]
    assert problems == []


def test_a_format_that_does_not_apply_is_told_once(
    volume_model: Path, inputs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(volume_model, inputs, tmp_path / "out", formats=("dicom-seg", "probability"))
    assert [record.getMessage() for record in caplog.records] == [
        "--format dicom-seg is passed over for inputs that it cannot hold"
    ]


@pytest.mark.parametrize("seconds", [-1.0, 0.0, float("nan"), float("inf")])
def test_a_read_timeout_is_a_time(volume_model: Path, seconds: float) -> None:
    with pytest.raises(UsageError, match="the read timeout is"):
        AnySegmenter(volume_model, engine="torch", read_timeout=seconds)


def test_an_unforeseen_error_fails_one_case(
    volume_model: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its text, which may quote the input, stays out of the report."""
    from cdal_sdk.segmenter import predictor

    prepare = predictor.prepare

    def fragile(study: Study, plan: Plan) -> Prepared:
        if study.case == "a":
            raise ZeroDivisionError(PATIENT_NAME)
        return prepare(study, plan)

    monkeypatch.setattr(predictor, "prepare", fragile)
    cases = run(volume_model, inputs, tmp_path / "out")
    assert [case["status"] for case in cases.values()] == ["failed", "ok"]
    assert "ZeroDivisionError" in cases["a"]["error"]
    assert PATIENT_NAME not in cases["a"]["error"]


def test_an_interrupted_run_leaves_a_valid_report(volume_model: Path, inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        interrupted_run(volume_model, inputs, out)
    report = json.loads((out / "report.json").read_text())
    finished = sorted(path.stem for path in (out / ".cdal-ledger").glob("*.json"))
    assert [(case["case"], case["status"]) for case in report["cases"]] == [(case, "ok") for case in finished]
    assert "a" in finished


def test_no_run_forgets_what_others_finished(volume_model: Path, inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(volume_model, inputs, out)
    with pytest.raises(KeyboardInterrupt):
        interrupted_run(volume_model, inputs, out)
    write_volume(tmp_path / "other/c.nii.gz", 2)
    assert list(run(volume_model, tmp_path / "other", out)) == ["c"], "the report is of this run alone"
    assert [case["status"] for case in run(volume_model, inputs, out).values()] == ["skipped", "skipped"]


def interrupted_run(model: Path, inputs: Path, out: Path) -> None:
    """A run that the user stops when the first case is told."""

    def interrupt(case: object) -> None:
        raise KeyboardInterrupt

    segment_cases(AnySegmenter(model, engine="torch"), discover([inputs]), out, on_case=interrupt)


def test_an_input_is_never_replaced_by_its_result(volume_model: Path, inputs: Path, tmp_path: Path) -> None:
    before = (inputs / "a.nii.gz").read_bytes()
    (tmp_path / "link").symlink_to(inputs)
    for out in (inputs, tmp_path / "link"):
        with pytest.raises(UsageError, match=r"a\.nii\.gz: an input would be replaced"):
            run(volume_model, inputs, out)
        with pytest.raises(UsageError, match="the source would be replaced"):
            AnySegmenter(volume_model, engine="torch")(inputs / "a.nii.gz").save(out)
    assert (inputs / "a.nii.gz").read_bytes() == before


def test_a_file_name_that_is_no_utf8(volume_model: Path, tmp_path: Path) -> None:
    source = write_volume(tmp_path / "in/x.nii.gz")
    source.rename(os.fsdecode(os.fsencode(source.parent) + b"/M\xfcller.nii.gz"))
    (case,) = run(volume_model, tmp_path / "in", tmp_path / "out").values()
    assert case["status"] == "ok"


def test_dicom_becomes_a_segmentation_and_names_no_patient(
    volume_model: Path, write_series: WriteSeries, tmp_path: Path
) -> None:
    series = write_series(PATIENT_NAME)  # also the folder's name
    cases = run(volume_model, series.folder, tmp_path / "out", formats=("nifti",))

    case = cases[series.uid]
    assert case["status"] == "ok"
    assert case["outputs"] == [f"{series.uid}.dcm", f"{series.uid}.nii.gz", f"previews/{series.uid}.png"]
    np.testing.assert_allclose(nibabel.load(tmp_path / f"out/{series.uid}.nii.gz").affine, series.affine, atol=1e-5)
    assert not secrets_in(tmp_path / "out")


def test_a_failing_series_names_no_patient(volume_model: Path, write_series: WriteSeries, tmp_path: Path) -> None:
    series = write_series(PATIENT_NAME, skip=[2])
    (case,) = run(volume_model, series.folder, tmp_path / "out").values()
    assert case["status"] == "failed"
    assert "slice is missing" in case["error"]
    assert not secrets_in(tmp_path / "out")


def test_a_single_file_that_fails_names_no_patient(
    planar_model: Path, write_xray: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_xray(np.ones((9, 9), np.uint16), f"{PATIENT_NAME}.dcm")
    path.write_bytes(path.read_bytes()[:-40])
    (case,) = run(planar_model, path, tmp_path / "out").values()
    assert case["error"].startswith(f"{case['case']}: ")
    assert PATIENT_NAME not in json.dumps(case)


def test_in_the_folder_of_the_inputs_a_second_run_skips(
    volume_model: Path, write_series: WriteSeries, tmp_path: Path
) -> None:
    """It depends on discovery, which must take no preview or map of the first run for an input."""
    series = write_series("in")
    for status in ("ok", "skipped"):
        cases = run(volume_model, series.folder, series.folder, formats=("probability",), force=True)
        assert {name: case["status"] for name, case in cases.items()} == {series.uid: status}


def secrets_in(out: Path) -> list[str]:
    """Files with a trace of the patient; a DICOM segmentation belongs to the patient and may have one."""
    found = []
    for path in out.rglob("*"):
        if not path.is_file() or path.suffix == ".dcm":
            continue
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        elif path.suffix == ".png":
            content = repr(Image.open(path).info).encode()
        secrets = (PATIENT_NAME, PATIENT_ID, BIRTH_DATE, ACCESSION)
        found += [path.name for secret in secrets if secret.encode() in content or secret in str(path.relative_to(out))]
    return found


def test_pictures(planar_model: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 255, (20, 30), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(values).save(tmp_path / "in/x.png")

    cases = run(planar_model, tmp_path / "in", tmp_path / "out")

    mask = np.asarray(Image.open(tmp_path / "out/x.png"))
    assert mask.shape == (20, 30)
    assert set(np.unique(mask)) == {0, 255}
    size = cases["x"]["labels"]["Anterior"]
    assert size["area_px"] == (mask == 255).sum()
    assert "area_mm2" not in size, "the spacing is not known"
