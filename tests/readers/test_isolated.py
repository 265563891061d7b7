"""A reader that hangs or crashes costs one case."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cdal_sdk.errors import ReadError
from cdal_sdk.readers import CaseFiles, IsolatedReader, discover, read_study

# A worker that hangs on one case, crashes on another, prints where the answers go on a third, and else is itself.
MOODY = """
import os, runpy, sys, time
import cdal_sdk.readers as readers
import cdal_sdk.readers.dicom_header as headers
honest, honest_header = readers.read_study, headers.read_header
def read_header(path, explicit):
    if "hang" in path.name: time.sleep(600)
    if "crash" in path.name: os.abort()
    if "memory" in path.name: raise MemoryError
    return honest_header(path, explicit=explicit)
headers.read_header = read_header
def read_study(files, whole_pixels):
    if "hang" in files.case: time.sleep(600)
    if "crash" in files.case: os.abort()
    print("noise", flush=True)
    if "memory" in files.case: raise MemoryError
    return honest(files, whole_pixels)
readers.read_study = read_study
runpy.run_module("cdal_sdk.readers.worker", run_name="__main__")
"""


def renamed(files: CaseFiles, case: str) -> CaseFiles:
    return CaseFiles(case, files.kind, files.paths)


def test_a_study_comes_through_unchanged(write_series, write_xray, tmp_path):
    def doubtful(index, ds):
        ds.ImagesInAcquisition, ds.BurnedInAnnotation = 9, "YES"

    write_series("in", orientation=(0.6, 0.8, 0, 0, 0, -1), change=doubtful)
    write_xray(np.arange(12, dtype=np.uint16).reshape(3, 4), "in/x.dcm", lambda ds: setattr(ds, "PixelSpacing", [1, 2]))
    reader = IsolatedReader(60)
    try:
        for files in discover([tmp_path / "in"]):
            here, there = read_study(files), reader.read(files)
            np.testing.assert_array_equal(here.image, there.image)
            if here.affine is None:
                assert there.affine is None
            else:
                np.testing.assert_array_equal(here.affine, there.affine)
            for name in ("case", "source", "pixel_spacing", "modality", "doubts", "burnt_in"):
                assert getattr(here, name) == getattr(there, name)
    finally:
        reader.close()


def test_hanging_crashing_and_failing_cost_one_case_each(write_series, tmp_path):
    good = discover([write_series().folder])[0]
    bad = discover([write_series("bad", skip=[2]).folder])[0]
    reader = IsolatedReader(5, (sys.executable, "-c", MOODY))
    start = time.monotonic()
    try:
        for case, said in (("hang", "took longer than 5 seconds"), ("crash", "reading it crashed")):
            with pytest.raises(ReadError, match=said):
                reader.read(renamed(good, case))
            assert reader.read(good).image.shape == (1, 9, 7, 5)
        with pytest.raises(ReadError, match="a slice is missing"):
            reader.read(bad)
        with pytest.raises(MemoryError):
            reader.read(renamed(good, "memory"))
        assert reader.read(good).image.shape == (1, 9, 7, 5)
    finally:
        reader.close()
    assert time.monotonic() - start < 60


def test_a_header_that_hangs_or_crashes_costs_one_case(write_series, tmp_path):
    good = write_series("in/good")
    one = next(iter(good.files))
    for name in ("hang", "crash"):
        (tmp_path / f"in/{name}.dcm").write_bytes(one.read_bytes())
    reader = IsolatedReader(5, (sys.executable, "-c", MOODY))
    try:
        found = {files.case: files for files in discover([tmp_path / "in"], reader=reader)}
    finally:
        reader.close()
    assert found.pop(good.uid).error is None
    crash, hang = sorted(found.values(), key=lambda files: files.paths)
    assert "took longer than 5 seconds" in str(hang.error)
    assert "reading it crashed" in str(crash.error)


def test_headers_are_the_same_from_another_process(write_series, write_xray, tmp_path):
    write_series("in/a", orientation=(0.6, 0.8, 0, 0, 0, -1))
    write_xray(np.arange(12, dtype=np.uint16).reshape(3, 4), "in/x.dcm")
    raw = write_xray(np.arange(12, dtype=np.uint16).reshape(3, 4), "in/whole.dcm").read_bytes()
    (tmp_path / "in/no_preamble").write_bytes(raw[132:])
    (tmp_path / "in/cut.dcm").write_bytes(raw[:400])
    reader = IsolatedReader(60)
    try:
        there = discover([tmp_path / "in"], reader=reader)
    finally:
        reader.close()
    here = discover([tmp_path / "in"])
    assert len(here) == 5
    assert [(a.case, a.kind, a.paths, str(a.error)) for a in here] == [
        (b.case, b.kind, b.paths, str(b.error)) for b in there
    ]


def test_closing_ends_a_hanging_reader_at_once(write_series):
    from concurrent.futures import ThreadPoolExecutor

    good = discover([write_series().folder])[0]
    reader = IsolatedReader(600, (sys.executable, "-c", MOODY))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(reader.read, renamed(good, "hang"))
        time.sleep(1)
        reader.close()
        with pytest.raises(ReadError):
            waiting.result(timeout=10)
    with pytest.raises(ReadError, match="stopped"):
        reader.read(good)


def test_a_path_that_is_no_utf8(tmp_path, write_xray):
    import os

    path = write_xray(np.eye(4, dtype=np.uint16))
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller.dcm"))
    path.rename(odd)
    reader = IsolatedReader(60)
    try:
        assert reader.read(CaseFiles("x", "dicom", (odd,))).source.paths == (odd,)
    finally:
        reader.close()


def test_a_process_that_was_stopped_before_a_request_does_not_disturb_the_end(tmp_path, monkeypatch):
    """As by a service manager, which stops all processes of a run at once."""
    gone = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    gone.wait()
    reader = IsolatedReader(60)
    reader._process = gone
    monkeypatch.setattr(gone, "poll", lambda: None)  # nobody has noticed yet
    with pytest.raises(ReadError, match="reading it crashed"):
        reader.read(CaseFiles("x", "image", (tmp_path / "x.png",)))
    reader.close()


@pytest.mark.parametrize("searched", [[], [""]], ids=["as started", "as from a prompt"])
def test_modules_in_the_current_folder_are_not_run(tmp_path, write_series, monkeypatch, searched):
    (tmp_path / "disc").mkdir()
    (tmp_path / "disc/msgspec.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')\n")
    (files,) = discover([write_series().folder])
    monkeypatch.chdir(tmp_path / "disc")
    monkeypatch.setattr(sys, "path", [*searched, *sys.path])
    reader = IsolatedReader(60)
    try:
        assert reader.read(files).image.shape == (1, 9, 7, 5)
    finally:
        reader.close()
    assert not (tmp_path / "run").exists()
