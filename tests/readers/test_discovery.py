"""What is found in files and folders, under which name."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.uid import MediaStorageDirectoryStorage, SegmentationStorage

from cdal_sdk.errors import ReadError, UsageError
from cdal_sdk.readers import dicom_series, discover, read_study


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


def test_a_link_in_a_circle_fails_alone_and_in_a_folder_is_nothing(tmp_path):
    write_nifti(tmp_path / "scan.nii.gz")
    (tmp_path / "loop.nii.gz").symlink_to(tmp_path / "loop.nii.gz")
    good, failed = discover([tmp_path, tmp_path / "loop.nii.gz"])
    assert (good.case, failed.case) == ("scan", "loop")
    assert failed.error is not None
    assert [files.case for files in discover([tmp_path])] == ["scan"]


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
    assert (failed.case, failed.kind) == ("b", "dicom")
    assert "truncated or damaged" in str(failed.error)


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
    assert re.fullmatch(r"empty-folder-[0-9a-f]{8}", empty.case)
    for case, name in ((missing, "Noe^Nobody"), (empty, "Poe^Edgar")):
        assert case.error is not None
        assert name in str(case.error)
        assert name not in case.error.brief()
