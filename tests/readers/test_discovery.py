"""What is found in files and folders, under which name."""

from __future__ import annotations

import errno
import gzip
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.uid import MediaStorageDirectoryStorage, SegmentationStorage

from cdal_sdk.digest import sha256
from cdal_sdk.errors import ReadError, UsageError
from cdal_sdk.readers import IsolatedReader, dicom_series, discover, discovery, read_study
from cdal_sdk.segmenter.ledger import Ledger
from cdal_sdk.segmenter.report import CaseReport


def write_nifti(path: Path, shape: tuple[int, ...] = (4, 5, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.int16), np.eye(4)), path)
    return path


def write_png(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 3)).save(path, format="PNG")
    return path


def test_recognises_every_format_by_content(tmp_path, write_series):
    series = write_series("study/mr")  # files without a suffix
    write_nifti(tmp_path / "study/a.nii")
    write_nifti(tmp_path / "study/b.nii.gz")
    write_png(tmp_path / "study/c.png")
    write_png(tmp_path / "study/picture_without_suffix")
    cases = discover([tmp_path / "study"])
    assert [(case.case, case.kind) for case in cases] == [
        ("a", "nifti"),
        ("b", "nifti"),
        ("c", "image"),
        ("picture_without_suffix", "image"),
        (series.uid, "dicom"),
    ]


def test_passes_over_what_was_never_meant_for_us(tmp_path):
    write_nifti(tmp_path / "scan.nii.gz")
    (tmp_path / "README.txt").write_text("hello")
    (tmp_path / "report.json").write_text("{}")
    (tmp_path / "archive.tar.gz").write_bytes(gzip.compress(b"no image" * 100))
    (tmp_path / "._scan.nii.gz").write_bytes(b"what macOS leaves behind")
    (tmp_path / ".hidden").mkdir()
    write_nifti(tmp_path / ".hidden" / "other.nii.gz")
    assert [case.case for case in discover([tmp_path])] == ["scan"]


@pytest.mark.parametrize("name", ["fake.dcm", "fake.nii.gz", "fake.nii", "fake.png", "fake.TIFF"])
def test_a_text_file_with_a_promising_name_fails_alone(tmp_path, name):
    write_nifti(tmp_path / "good.nii.gz")
    (tmp_path / name).write_text("this is text, long enough to hold any magic number there is " * 20)
    failed, good = discover([tmp_path])
    assert isinstance(failed.error, ReadError)
    assert name in str(failed.error)
    assert good.error is None
    with pytest.raises(ReadError, match=name):
        read_study(failed)


def test_an_empty_file_says_so(tmp_path):
    (tmp_path / "empty.dcm").touch()
    (case,) = discover([tmp_path])
    assert "empty" in str(case.error)


def test_a_file_named_by_the_user_is_never_passed_over(tmp_path):
    (tmp_path / "README.txt").write_text("hello")
    (case,) = discover([tmp_path / "README.txt"])
    assert "README.txt" in str(case.error)


def test_a_missing_path_is_wrong_usage(tmp_path):
    with pytest.raises(UsageError, match="nowhere"):
        discover([tmp_path / "nowhere"])


def test_a_missing_path_among_others_fails_alone(tmp_path):
    write_nifti(tmp_path / "scan.nii.gz")
    good, failed = discover([tmp_path / "scan.nii.gz", tmp_path / "nowhere.nii.gz"])
    assert good.error is None
    assert failed.case == "nowhere"
    assert "nowhere.nii.gz: there is no such file" in str(failed.error)


def test_a_link_that_leads_nowhere_fails_alone_if_it_was_meant_to_be_an_input(tmp_path):
    write_nifti(tmp_path / "scan.nii.gz")
    (tmp_path / "loop.nii.gz").symlink_to(tmp_path / "loop.nii.gz")
    for name in ("gone.png", "notes.txt", "latest"):
        (tmp_path / name).symlink_to(tmp_path / f"nowhere/{name}")
    gone, loop, scan = discover([tmp_path])
    assert scan.error is None
    assert (gone.case, loop.case) == ("gone", "loop")
    assert "gone.png: the link leads nowhere; fetch the file" in str(gone.error)
    assert [files.case for files in discover([tmp_path, tmp_path / "loop.nii.gz"])] == ["gone", "loop", "scan"]


def test_a_slice_that_is_a_link_to_nowhere_fails_its_series(tmp_path, write_series):
    series = write_series()
    last = series.files[-1]
    last.unlink()
    last.symlink_to(tmp_path / "annex/not-fetched")
    (case,) = discover([series.folder])
    assert case.error is not None
    assert "a file beside its slices may be one of them: the link leads nowhere" in str(case.error)


def test_an_excluded_folder_is_passed_over_unless_it_is_an_input(tmp_path, monkeypatch):
    write_nifti(tmp_path / "scan.nii.gz")
    write_nifti(tmp_path / "out" / "old.nii.gz")
    inner = write_nifti(tmp_path / "out" / "deep" / "inner.nii.gz")
    write_nifti(tmp_path / "deep" / "out" / "other.nii.gz")
    (tmp_path / "link").symlink_to(tmp_path)

    def cases(*inputs: Path, exclude: Path = tmp_path / "out") -> set[str]:
        return {files.case for files in discover(inputs, exclude=exclude)}

    assert cases(tmp_path) == cases(tmp_path / "link") == {"other", "scan"}
    assert cases(tmp_path, exclude=tmp_path / "link" / "out") == {"other", "scan"}
    assert cases(tmp_path, inner) == cases(tmp_path, inner.parent) == {"inner", "other", "scan"}
    assert cases(tmp_path / "out") == {"inner", "old"}
    assert cases(tmp_path, exclude=tmp_path) == {"inner", "old", "other", "scan"}
    monkeypatch.chdir(tmp_path)
    assert cases(Path(), exclude=Path("out")) == {"other", "scan"}


@pytest.mark.parametrize("intent", ["label", "estimate"])
@pytest.mark.parametrize("name", ["mask.nii", "mask.nii.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_segmentations_are_no_inputs(tmp_path, intent, name, kind):
    write_nifti(tmp_path / "scan.nii.gz")
    result = kind(np.zeros((3, 4, 5), np.uint8), np.eye(4))
    result.header.set_intent(intent)
    nibabel.save(result, tmp_path / name)
    assert [files.case for files in discover([tmp_path])] == ["scan"]
    (explicit,) = discover([tmp_path / name])
    assert "a segmentation, not an image" in str(explicit.error)


def test_nothing_to_segment_is_wrong_usage(tmp_path):
    (tmp_path / "README.txt").write_text("hello")
    with pytest.raises(UsageError, match="nothing to segment"):
        discover([tmp_path])


def test_an_empty_folder_among_others_fails_alone(tmp_path):
    write_nifti(tmp_path / "full/scan.nii.gz")
    (tmp_path / "empty").mkdir()
    good, failed = discover([tmp_path / "full", tmp_path / "empty"])
    assert good.error is None
    assert "empty" in str(failed.error)


def test_mixed_series_in_one_folder_are_taken_apart(tmp_path, write_series):
    first, second = write_series("one"), write_series("two")
    folder = tmp_path / "mixed"
    folder.mkdir()
    for series in (first, second):
        for path in series.files:
            path.rename(folder / f"{series.uid}-{path.name}")
    cases = discover([folder])
    assert {case.case: len(case.paths) for case in cases} == {first.uid: 5, second.uid: 5}


def test_a_series_is_split_where_the_orientation_differs(write_series):
    def localizer(index, ds):
        if index == 4:
            ds.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]

    series = write_series(change=localizer)
    cases = discover([series.folder])
    assert sorted(len(case.paths) for case in cases) == [1, 4]
    assert len({case.case for case in cases}) == 2
    assert all(case.case.startswith(series.uid) for case in cases)


def test_impossible_header_values_stop_no_other_case(tmp_path, write_series):
    def long(index, ds):
        if index == 4:
            ds.PixelSpacing = [1, 1, 1]

    write_nifti(tmp_path / "scan.nii.gz")
    write_series(change=long)
    assert sorted(len(case.paths) for case in discover([tmp_path])) == [1, 1, 4]


def test_rounded_cosines_do_not_split_a_series(write_series):
    def rounded(index, ds):
        ds.ImageOrientationPatient = [1, 0.0004 * (index % 2), 0, 0, 1, 0]

    assert len(discover([write_series(change=rounded).folder])) == 1


def test_dicom_without_preamble_is_recognised(write_series):
    series = write_series()
    for path in series.files:
        raw = path.read_bytes()
        path.write_bytes(raw[132:])
    (case,) = discover([series.folder])
    assert len(case.paths) == 5
    np.testing.assert_array_equal(read_study(case).image[0], series.voxels)


def test_dicom_objects_that_are_no_images(write_series):
    series = write_series()
    segmentation = dcmread(series.files[0])
    segmentation.SOPClassUID = segmentation.file_meta.MediaStorageSOPClassUID = SegmentationStorage
    segmentation.SeriesInstanceUID += ".9"
    path = series.folder / "seg.dcm"
    segmentation.save_as(path)
    assert [case.case for case in discover([series.folder])] == [series.uid]
    (named,) = discover([path])
    assert "seg.dcm" in str(named.error)
    del segmentation.Rows, segmentation.SOPClassUID
    segmentation.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    segmentation.save_as(series.folder / "DICOMDIR", enforce_file_format=False)
    path.unlink()
    (case,) = discover([series.folder])
    assert case.error is None


def test_a_slice_cut_off_anywhere_never_leaves_a_shorter_volume(write_series):
    series = write_series()
    damaged = series.files[-1]  # at the end of the stack, where no gap shows
    raw = damaged.read_bytes()
    header = len(raw) - series.voxels[..., 0].nbytes
    uid = raw.rindex(series.uid.encode()) + len(series.uid)
    for end in [*range(132, header, 13), header]:
        damaged.write_bytes(raw[:end])
        cases = discover([series.folder])
        failed = []
        for case in cases:
            try:
                read_study(case)
            except ReadError as error:
                assert damaged.name in str(error)
                failed.append(case)
        assert failed, end
        if end > uid + 1:
            assert [len(case.paths) for case in failed] == [len(case.paths) for case in cases] == [5], end


def test_a_damaged_image_does_not_make_complete_ones_of_its_series_fail(tmp_path, write_xray):
    good = write_xray(np.eye(4, dtype=np.uint16), "a.dcm")
    raw = good.read_bytes()
    (tmp_path / "b.dcm").write_bytes(raw[: raw.index(b"\x28\0\x10\0")])
    intact, failed = discover([tmp_path])
    assert intact.error is None
    assert re.fullmatch(r"damaged-[0-9a-f]{8}", failed.case)
    assert failed.kind == "dicom"
    assert "truncated or damaged" in str(failed.error)
    assert "b.dcm" not in failed.error.brief(), "which may be the name of a patient"


REMNANTS = {
    "empty": b"",
    "zeros": bytes(2000),
    "cut": bytes(131),
    "page": b"<HTML>502</HTML>",
    "message": b' {"no": 1}',
}


@pytest.mark.parametrize("name", ["IM4", "IM4.dcm", "1.2.3.4"])
@pytest.mark.parametrize("content", REMNANTS.values(), ids=REMNANTS.keys())
def test_what_is_left_of_the_last_slice_fails_the_series(write_series, name, content):
    series = write_series(skip=[4])
    (series.folder / name).write_bytes(content)
    (case,) = discover([series.folder])
    assert (case.case, len(case.paths)) == (series.uid, 5)
    with pytest.raises(ReadError, match="a file beside its slices may be one of them") as caught:
        read_study(case)
    assert name not in caught.value.brief()


def test_a_slice_that_cannot_be_opened_fails_the_series(write_series, monkeypatch):
    series = write_series()
    honest = Path.open

    def open_(path, *arguments, **options):
        if path == series.files[4]:
            raise PermissionError(13, "Permission denied")
        return honest(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", open_)
    (case,) = discover([series.folder])
    assert "cannot be opened (Permission denied)" in str(case.error)


def test_what_lies_among_slices_on_any_disc_fails_nothing(write_series, tmp_path):
    series = write_series()
    for name, content in {
        "README": b"see the viewer", "LICENSE": b"(c)", "index.xml": b"<a/>", "list.txt": b"", "a.pdf": b"%PDF-1.7",
        "run.exe": b"MZ", "INDEX": b"<?xml version='1.0'?>", ".DS_Store": b"",
    }.items():  # fmt: skip
        (series.folder / name).write_bytes(content)
    (case,) = discover([series.folder])
    assert case.error is None
    assert case.doubts == ()
    write_nifti(tmp_path / "other/scan.nii.gz")
    (tmp_path / "other/lock").touch()  # where there are no slices, it is no slice
    assert len(discover([tmp_path])) == 2


def test_beside_two_series_a_damaged_file_fails_alone_and_is_told_of_both(tmp_path, write_series):
    first, second = write_series("one"), write_series("two")
    for path in second.files:
        path.rename(first.folder / f"other-{path.name}")
    (first.folder / "lost").touch()
    cases = {case.case: case for case in discover([first.folder])}
    failed = next(case for name, case in cases.items() if name.startswith("damaged-"))
    assert "the file is empty" in str(failed.error)
    for uid in (first.uid, second.uid):
        assert read_study(cases[uid]).doubts == ("a damaged file beside its slices may be one of them",)


@pytest.mark.parametrize(
    ("skip", "announced", "numbers", "doubts"),
    [
        ([], 5, range(1, 6), ()),
        ([], None, range(5), ()),
        ([4], 5, range(1, 6), ("slices may be missing: 5 are announced, 4 are here",)),
        ([0], None, range(1, 6), ("slices may be missing: 4 are numbered from 2 to 5",)),
        ([], None, (1, 2, 3, 4, 9), ("slices may be missing: 5 are numbered from 1 to 9",)),
        ([], None, (1, 2, 3, 4, None), ()),
    ],
)
def test_numbers_that_do_not_add_up_are_a_doubt(write_series, skip, announced, numbers, doubts):
    def counted(index, ds):
        ds.InstanceNumber, ds.ImagesInAcquisition = list(numbers)[index], announced

    (case,) = discover([write_series(skip=skip, change=counted).folder])
    assert read_study(case).doubts == doubts


def test_numbers_run_on_over_the_volumes_of_a_series(write_series):
    def two(index, ds):
        ds.EchoTime, ds.AcquisitionNumber, ds.ImagesInAcquisition = (3, 1, 3) if index < 3 else (9, 2, 2)

    assert [case.doubts for case in discover([write_series(change=two).folder])] == [(), ()]


def test_a_series_without_a_uid_is_told_once(write_series):
    series = write_series(change=lambda index, ds: delattr(ds, "SeriesInstanceUID"))
    (case,) = discover([series.folder])
    assert "the SeriesInstanceUID is missing" in str(case.error)
    assert len(case.paths) == 5


def test_a_folder_that_cannot_be_listed_is_a_failed_case(tmp_path, monkeypatch):
    write_nifti(tmp_path / "scan.nii.gz")
    (tmp_path / "Doe^Jane").mkdir()
    honest = os.scandir

    def scandir(path):
        if Path(path).name == "Doe^Jane":
            raise PermissionError(13, "Permission denied", str(path))
        return honest(path)

    monkeypatch.setattr(os, "scandir", scandir)
    for inputs in ([tmp_path], [tmp_path, tmp_path / "Doe^Jane"]):
        good, failed = discover(inputs)
        assert good.error is None
        assert re.fullmatch(r"unreadable-folder-[0-9a-f]{8}", failed.case)
        assert failed.error is not None
        assert failed.error.brief() == "the folder cannot be listed; check its permissions"


def test_links_to_folders_are_followed_but_not_in_circles_or_upwards(tmp_path):
    write_nifti(tmp_path / "elsewhere/a.nii.gz")
    write_nifti(tmp_path / "in/b.nii.gz")
    for name, target in {"ward": "elsewhere", "again": "elsewhere", "up": ".", "self": "in"}.items():
        (tmp_path / "in" / name).symlink_to(tmp_path / target)
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "in")
    assert sorted(case.case for case in discover([tmp_path / "in"])) == ["a", "b"]


def test_what_an_earlier_run_wrote_is_no_input(tmp_path, caplog):
    out = tmp_path / "in/masks"
    write_png(tmp_path / "in/x.png")
    for name in ("x.png", "spread/x.nii.gz", "previews/x.png", "previews/killed.png"):
        (write_png if name.endswith("png") else write_nifti)(out / name)
    assert len(discover([tmp_path / "in"])) == 5
    digests = {name: sha256(out / name) for name in ("x.png", "spread/x.nii.gz", "previews/x.png")}
    Ledger(out).write(CaseReport("x", "ok", None, "x.png", outputs=[*digests], output_sha256=digests))
    (out / ".cdal-ledger/damaged.json").write_text("[")
    write_png(out / "mine.png")
    assert [case.paths[0].name for case in discover([tmp_path / "in"])] == ["x.png", "mine.png"]
    assert len(discover([out / "x.png"])) == 1, "what the user names is taken"
    assert not caplog.messages
    written = (out / "x.png").stat()
    Image.new("L", (4, 3), 9).save(out / "x.png")
    os.utime(out / "x.png", (written.st_atime, written.st_mtime))
    (out / "mine.png").rename(out / "x.png~1")
    assert [case.paths[0] for case in discover([tmp_path / "in"])] == [tmp_path / "in/x.png"]
    told = "passed over 1 output(s) of an earlier run that have changed since; name them to segment them"
    assert caplog.messages == [told], "it may be a corrected mask, or a scan"


def test_names_with_a_tilde_are_inputs_but_for_what_a_run_kept(tmp_path):
    write_nifti(tmp_path / "in/PATIEN~1/scan.nii.gz")
    for name in ("SCAN~1.NII", "scan.nii.gz~1", "backup.nii.gz~"):
        write_nifti(tmp_path / "scan.nii.gz")
        (tmp_path / "scan.nii.gz").rename(tmp_path / "in" / name)
    assert len(discover([tmp_path / "in"])) == 3
    Ledger(tmp_path / "in").write(CaseReport("x", "ok", None, "x.png"))
    assert sorted(case.paths[0].name for case in discover([tmp_path / "in"])) == ["SCAN~1.NII", "scan.nii.gz"]


def test_scans_in_the_folder_for_the_outputs_are_told(tmp_path, caplog):
    write_png(tmp_path / "in/a.png")
    (tmp_path / "in/masks").mkdir()
    discover([tmp_path / "in"], exclude=tmp_path / "in/masks")
    assert not caplog.messages
    write_png(tmp_path / "in/masks/b.png")
    assert [case.case for case in discover([tmp_path / "in"], exclude=tmp_path / "in/masks")] == ["a"]
    assert "masks, though what lies there is of no earlier run" in caplog.text


def test_pictures_of_a_dicom_disc_belong_to_its_viewer(tmp_path, write_series, caplog):
    series = write_series("cd/series")
    write_png(tmp_path / "cd/viewer/Doe^Jane.png")
    assert len(discover([tmp_path / "cd"])) == 2
    (tmp_path / "cd/DICOMDIR").write_bytes(b"index")
    assert [case.case for case in discover([tmp_path])] == [series.uid]
    assert caplog.messages == ["passed over 1 picture(s) of a DICOM disc; name them to segment them"]
    assert len(discover([tmp_path / "cd", tmp_path / "cd/viewer/Doe^Jane.png"])) == 2


@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.AnalyzeImage, nibabel.Nifti2Pair])
def test_a_volume_in_two_files_is_told(tmp_path, kind):
    write_nifti(tmp_path / "scan.nii.gz")
    nibabel.save(kind(np.zeros((3, 4, 5), np.int16), np.eye(4)), tmp_path / "pair.img")
    failed, good = discover([tmp_path])
    assert (failed.case, good.case) == ("pair", "scan")
    assert "two files, .hdr and .img; save it as one" in str(failed.error)


def test_a_moved_folder_keeps_its_names(tmp_path, write_series):
    def two(index, ds):
        ds.EchoTime = 3 if index < 3 else 9

    write_nifti(tmp_path / "study/a/scan.nii.gz")
    write_nifti(tmp_path / "study/b/scan.nii.gz")
    (tmp_path / "study/cut.dcm").write_bytes(bytes(140))
    write_series("study/series", change=two)
    names = [case.case for case in discover([tmp_path / "study"])]
    (tmp_path / "study").rename(tmp_path / "moved")
    assert [case.case for case in discover([tmp_path / "moved"])] == names
    echoes = {case.case for case in discover([tmp_path / "moved/series"])}
    for path in (tmp_path / "moved/series").iterdir():
        path.rename(path.with_name(f"exported-{path.name}"))
    assert {case.case for case in discover([tmp_path / "moved/series"])} == echoes < set(names)


def test_names_leave_room_for_suffixes_on_every_file_system(tmp_path):
    for folder in "ab":
        write_nifti(tmp_path / folder / ("\N{CJK UNIFIED IDEOGRAPH-8133}" * 80 + ".nii"))
    names = {case.case for case in discover([tmp_path])}
    assert len(names) == 2
    assert all(180 < len(name.encode()) <= 200 for name in names)


def test_finding_the_stacks_of_many_series_takes_linear_time(tmp_path, write_series, monkeypatch):
    for number in range(4):
        write_series(f"{number}")
    compared = []
    honest = dicom_series._same_stack
    monkeypatch.setattr(dicom_series, "_same_stack", lambda one, other: compared.append(one) or honest(one, other))
    assert len(discover([tmp_path])) == 4
    assert len(compared) == 4 * 4


def test_two_cases_of_one_name_stay_apart_and_stable(tmp_path):
    one, two = write_nifti(tmp_path / "a/scan.nii.gz"), write_nifti(tmp_path / "b/scan.nii.gz")
    names = [case.case for case in discover([tmp_path])]
    assert len(set(names)) == 2
    assert all(name.startswith("scan-") for name in names)
    assert [case.case for case in discover([two, one])] == names[::-1]
    assert [case.case for case in discover([one])] == ["scan"]


def test_names_differ_in_more_than_case(tmp_path):
    write_nifti(tmp_path / "Scan.nii.gz")
    write_png(tmp_path / "scan.png")
    assert len({case.case.lower() for case in discover([tmp_path])}) == 2


def test_a_file_given_twice_is_one_case(tmp_path):
    path = write_nifti(tmp_path / "scan.nii.gz")
    assert len(discover([tmp_path, path, tmp_path / "." / "scan.nii.gz"])) == 1


def test_importing_readers_and_writers_is_light():
    code = "import sys, cdal_sdk.readers, cdal_sdk.writers; print({'pydicom', 'nibabel', 'PIL'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.strip() == "set()"


def test_case_names_are_safe_as_file_names(tmp_path, write_series):
    write_nifti(tmp_path / "odd/a:b\\c*.nii.gz")
    write_png(tmp_path / "odd/...png")
    write_series("odd/evil", change=lambda index, ds: setattr(ds, "SeriesInstanceUID", "../../etc"))
    for case in discover([tmp_path / "odd"]):
        assert not set(case.case) & set('/\\:*?"<>|')
        assert not case.case.startswith(".")


def test_no_folder_name_gets_into_a_case_name(tmp_path):
    write_nifti(tmp_path / "Doe^Jane/scan.nii.gz")
    write_nifti(tmp_path / "Roe^Richard/scan.nii.gz")
    (tmp_path / "Poe^Edgar").mkdir()
    cases = discover([tmp_path, tmp_path / "Poe^Edgar", tmp_path / "Noe^Nobody"])
    assert not any("oe" in case.case for case in cases)
    *_, missing, empty = cases
    assert re.fullmatch(r"missing-[0-9a-f]{8}", missing.case)
    assert discover([tmp_path, tmp_path / "Doe^Jane.dcm"])[-1].case.startswith("missing-")
    assert re.fullmatch(r"empty-folder-[0-9a-f]{8}", empty.case)
    for case, name in ((missing, "Noe^Nobody"), (empty, "Poe^Edgar")):
        assert case.error is not None
        assert name in str(case.error)
        assert name not in case.error.brief()


class TestADriveThatIsGone:
    def test_an_input_on_it_fails_alone_and_names_the_folder(self, tmp_path, gone):
        write_nifti(tmp_path / "good/scan.nii.gz")
        write_nifti(tmp_path / "bad/scan.nii.gz")
        gone(tmp_path / "bad/Doe^Jane")
        (tmp_path / "bad/Doe^Jane").mkdir()
        good, silent = discover([tmp_path / "bad", tmp_path / "good"], reader=IsolatedReader(0.2))
        assert (good.case, good.error) == ("scan", None)
        assert re.fullmatch(r"silent-[0-9a-f]{8}", silent.case)
        assert str(silent.error).startswith(f"{tmp_path}/bad/Doe^Jane: reading it took longer than 0.2 seconds")
        assert "Doe" not in silent.error.brief()

    def test_names_are_those_of_a_run_with_it(self, tmp_path, gone):
        for folder in ("good/a", "good/b", "bad"):
            write_nifti(tmp_path / folder / "scan.nii.gz")
        inputs = [tmp_path / "good", tmp_path / "bad"]
        names = [case.case for case in discover(inputs)][:2]
        gone(tmp_path / "bad")
        assert [case.case for case in discover(inputs, reader=IsolatedReader(0.2))][:2] == names

    def test_alone_it_ends_the_search(self, tmp_path, gone):
        gone(tmp_path / "bad")
        with pytest.raises(ReadError, match=r"bad: reading it took longer .*check the drive"):
            discover([tmp_path / "bad"], reader=IsolatedReader(0.2))

    def test_it_may_go_after_the_files_were_listed(self, tmp_path, monkeypatch):
        one, two = write_nifti(tmp_path / "in/one.nii.gz"), write_nifti(tmp_path / "in/two.nii.gz")
        back, honest = threading.Event(), discovery.recognise

        def recognise(path, *arguments, **options):
            if path == two:
                back.wait(20)
            return honest(path, *arguments, **options)

        monkeypatch.setattr(discovery, "recognise", recognise)
        try:
            cases = discover([tmp_path / "in", one], reader=IsolatedReader(0.2))
        finally:
            back.set()
        assert [files.case[:4] for files in cases] == ["one", "sile"]
        assert str(cases[1].error).startswith(f"{tmp_path}/in: reading it took longer")

    def test_it_may_go_before_the_headers_are_read(self, tmp_path, write_series, monkeypatch):
        """One limit for all of them, not one for each."""
        folder, back = write_series("study/mr").folder, threading.Event()
        reader = IsolatedReader(0.2)
        monkeypatch.setattr(reader, "header", lambda *_, **__: back.wait(20))
        began = time.monotonic()
        try:
            with pytest.raises(ReadError, match=r"mr: reading it took longer than 0.2 seconds"):
                discover([folder], reader=reader)
        finally:
            back.set()
        assert time.monotonic() - began < 5

    def test_the_rest_of_a_series_is_to_be_reviewed(self, tmp_path, write_series, gone):
        series = write_series("study/mr")
        (tmp_path / "elsewhere").mkdir()
        for path in sorted(series.folder.iterdir())[:2]:
            path.rename(tmp_path / "elsewhere" / path.name)
        inputs = [series.folder, tmp_path / "elsewhere"]
        assert [case.doubts for case in discover(inputs)] == [()]
        gone(tmp_path / "elsewhere")
        rest, _ = discover(inputs, reader=IsolatedReader(5))  # time for the process to start
        assert rest.error is None
        assert any("slices of this series may lie there" in doubt for doubt in rest.doubts)

    def test_a_drive_that_answers_with_an_error_fails_its_input_alone(self, tmp_path, monkeypatch):
        write_nifti(tmp_path / "good/scan.nii.gz")
        honest = Path.is_dir

        def is_dir(path, *arguments, **options):
            if path == tmp_path / "bad":
                raise OSError(errno.ENOTCONN, "Transport endpoint is not connected", str(path))
            return honest(path, *arguments, **options)

        monkeypatch.setattr(Path, "is_dir", is_dir)
        good, bad = discover([tmp_path / "bad", tmp_path / "good"])
        assert (good.case, good.error) == ("scan", None)
        assert str(bad.error).startswith(f"{tmp_path}/bad: it cannot be searched (Transport endpoint is not connected)")

    def test_many_folders_may_take_longer_than_one(self, tmp_path, monkeypatch):
        for number in range(10):
            write_nifti(tmp_path / f"{number}/scan{number}.nii.gz")
        honest = os.scandir
        monkeypatch.setattr(os, "scandir", lambda path: time.sleep(0.2) or honest(path))
        began = time.monotonic()
        assert len(discover([tmp_path], reader=IsolatedReader(0.3))) == 10
        assert time.monotonic() - began > 2, "else it shows nothing"
