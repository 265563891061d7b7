"""One series, several volumes: echoes, acquisitions, repetitions; and what must not be divided."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from synthetic_dicom import phantom

from cdal_sdk.errors import ReadError
from cdal_sdk.readers import discover, read_study

COUNT = 5


def volumes(folder):
    return [read_study(case).image[0] for case in discover([folder])]


def interleaved(mark, values, write_series):
    """A series of several volumes at the same positions, distinguished by one mark; returns folder and voxels."""
    stacked = np.concatenate([phantom() + 1000 * n for n in range(len(values))], axis=2)

    def place(index, ds):
        position = index % COUNT
        ds.ImagePositionPatient = [-20.0, 35.5, 12.25 + 2.5 * position]
        ds.InstanceNumber = 1 + position * len(values) + index // COUNT
        if mark is not None:
            setattr(ds, mark, values[index // COUNT])

    return write_series(voxels=stacked, change=place), np.split(stacked, len(values), axis=2)


@pytest.mark.parametrize(
    ("mark", "values"),
    [
        ("EchoTime", [4.92, 7.38]),
        ("EchoNumbers", [1, 2, 3]),
        ("ImageType", [["ORIGINAL", "PRIMARY", "M", "WATER"], ["ORIGINAL", "PRIMARY", "M", "FAT"]]),
        ("TemporalPositionIdentifier", [1, 2, 3]),
        ("DiffusionBValue", [0.0, 1000.0]),
        ("AcquisitionNumber", [1, 2]),
        ("FlipAngle", [3, 20]),
        (None, [1, 2, 3]),  # only the order of the images tells
    ],
)
def test_volumes_at_the_same_positions_are_taken_apart(write_series, mark, values):
    series, expected = interleaved(mark, values, write_series)
    found = volumes(series.folder)
    assert len(found) == len(values)
    for voxels in expected:
        assert any(np.array_equal(voxels, volume) for volume in found)


def test_two_marks_at_once(write_series):
    stacked = np.concatenate([phantom() + 1000 * n for n in range(4)], axis=2)

    def place(index, ds):
        ds.ImagePositionPatient = [-20.0, 35.5, 12.25 + 2.5 * (index % COUNT)]
        ds.EchoTime, ds.AcquisitionNumber = 3 + (index // COUNT) % 2, 1 + index // (2 * COUNT)

    found = volumes(write_series(voxels=stacked, change=place).folder)
    assert sorted(int(volume.min()) for volume in found) == [0, 1000, 2000, 3000]


def test_an_echo_at_other_positions_is_a_volume_of_its_own(write_series):
    def late(index, ds):
        ds.EchoTime = 3 if index < 3 else 9

    assert sorted(volume.shape[2] for volume in volumes(write_series(change=late).folder)) == [2, 3]


def test_the_same_echo_in_other_digits_divides_no_volume(write_series):
    def spelled(index, ds):
        ds.EchoTime = "2.460" if index % 2 else "2.46"

    (volume,) = volumes(write_series(change=spelled).folder)
    assert volume.shape[2] == COUNT


@pytest.mark.parametrize("mark", ["AcquisitionNumber", "AcquisitionTime", "TriggerTime", "FlipAngle"])
def test_what_changes_from_slice_to_slice_divides_no_volume(write_series, mark):
    values = {"AcquisitionTime": "10150{}"}

    def changed(index, ds):
        setattr(ds, mark, values[mark].format(index) if mark in values else index)

    (volume,) = volumes(write_series(change=changed).folder)
    assert volume.shape[2] == COUNT


def test_a_slice_that_lost_its_mark_does_not_leave_a_shorter_volume(write_series):
    def damaged(index, ds):
        if index == COUNT - 1:  # at the end, where no gap shows
            del ds.EchoTime

    (volume,) = volumes(write_series(change=damaged).folder)
    assert volume.shape[2] == COUNT


def test_a_slice_that_lost_its_place_does_not_leave_a_shorter_volume(write_series):
    def damaged(index, ds):
        if index == COUNT - 1:
            del ds.ImagePositionPatient

    series = write_series(change=damaged)
    (case,) = discover([series.folder])
    with pytest.raises(ReadError, match=f"{series.files[-1].name}: the position, orientation or pixel spacing"):
        read_study(case)


def test_copies_of_a_file_are_one_slice(write_series):
    series = write_series()
    (series.folder / "copy").mkdir()
    for path in series.files[1:3]:
        shutil.copy(path, series.folder / "copy" / path.name)
    (volume,) = volumes(series.folder)
    np.testing.assert_array_equal(volume, series.voxels)


def test_other_pixels_under_the_same_identity_are_no_copy(write_series):
    series = write_series()
    raw = series.files[2].read_bytes()
    (series.folder / "changed").write_bytes(raw[:-2] + b"\1\1")
    with pytest.raises(ReadError, match="same position"):
        volumes(series.folder)


def test_an_unequal_number_of_repetitions_is_named(write_series):
    stacked = np.concatenate([phantom(), phantom()], axis=2)

    def place(index, ds):
        ds.ImagePositionPatient = [-20.0, 35.5, 12.25 + 2.5 * (index % COUNT)]

    series = write_series(voxels=stacked, change=place, skip=[7])
    with pytest.raises(ReadError, match="same position"):
        volumes(series.folder)


RELATING = [("FrameOfReferenceUID", "frames of reference"), ("StudyInstanceUID", "studies")]


@pytest.mark.parametrize(("mark", "named"), RELATING)
def test_slices_that_an_anonymiser_tore_apart_are_one_volume_to_be_reviewed(write_series, mark, named):
    series = write_series(change=lambda index, ds: setattr(ds, mark, f"1.2.3.{index}"))
    shutil.copy(series.files[1], series.folder / "copy")
    (case,) = discover([series.folder])
    study = read_study(case)
    np.testing.assert_array_equal(study.image[0], series.voxels)
    np.testing.assert_allclose(study.affine, series.affine)
    assert study.doubts == (f"its series has 5 {named}, so that slices may not belong together",)


@pytest.mark.parametrize(("mark", "named"), RELATING)
def test_a_missing_slice_is_still_missed_where_an_anonymiser_tore_them_apart(write_series, mark, named):
    series = write_series(change=lambda index, ds: setattr(ds, mark, f"1.2.3.{index}"), skip=[2])
    with pytest.raises(ReadError, match="a slice is missing"):
        volumes(series.folder)


def test_echoes_are_taken_apart_without_frames_of_reference(write_series):
    stacked = np.concatenate([phantom(), phantom() + 1000], axis=2)

    def place(index, ds):
        ds.ImagePositionPatient = [-20.0, 35.5, 12.25 + 2.5 * (index % COUNT)]
        ds.EchoTime, ds.FrameOfReferenceUID = 3 + index // COUNT, f"1.2.3.{index}"

    found = volumes(write_series(voxels=stacked, change=place).folder)
    assert [volume.shape[2] for volume in found] == [COUNT, COUNT]


@pytest.mark.parametrize(("mark", "named"), RELATING)
def test_what_relates_several_slices_makes_a_volume_of_its_own_to_be_reviewed(write_series, mark, named):
    series = write_series(change=lambda index, ds: setattr(ds, mark, f"1.2.3.{index // 3}"))
    studies = [read_study(case) for case in discover([series.folder])]
    assert sorted(study.grid[2] for study in studies) == [2, 3]
    assert all(f"2 {named}" in study.doubts[0] for study in studies)


def test_patients_under_one_series_uid_are_cases_of_their_own(write_series):
    """A mask has one patient, and must not mix the slices of two."""

    def place(index, ds):
        ds.SeriesInstanceUID, ds.StudyInstanceUID = "1.2.3", f"1.2.3.{index // COUNT}"
        ds.ImagePositionPatient = [-20.0, 35.5, 12.25 + 2.5 * (index % COUNT)]
        ds.InstanceNumber = 1 + index % COUNT

    stacked = np.concatenate([phantom(), phantom() + 1000], axis=2)
    found = volumes(write_series(voxels=stacked, change=place).folder)
    assert sorted(int(volume.min()) for volume in found) == [0, 1000]


def test_a_parallel_slice_of_another_spacing_may_be_missing(write_series):
    def other(index, ds):
        if index == COUNT - 1:
            ds.PixelSpacing = [0.1, 0.1]

    for case in discover([write_series(change=other).folder]):
        assert any("parallel ones of its series have another size" in doubt for doubt in case.doubts)


@pytest.mark.parametrize("drift", [lambda k: 0.002 * (k >= COUNT // 2), lambda k: 0.0006 * k], ids=["halves", "slowly"])
def test_planes_that_drift_may_be_one_volume(write_series, drift):
    def turned(index, ds):
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, drift(index)]

    cases = discover([write_series(change=turned).folder])
    assert len(cases) > 1
    for case in cases:
        said = "its slices lie in planes that are almost parallel, so that they may be one volume"
        assert case.doubts == (said,)
        assert said in read_study(case).doubts


@pytest.mark.parametrize("numbers", [2, 3, 5])
def test_an_orientation_that_is_none_fails_its_series_and_not_the_search(write_series, numbers):
    def cut(index, ds):
        if index == COUNT - 1:
            ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0][:numbers]

    cases = discover([write_series(change=cut).folder])
    with pytest.raises(ReadError):
        for case in cases:
            read_study(case)


def test_a_scout_across_the_slices_is_no_doubt(write_series):
    def scout(index, ds):
        if index == COUNT - 1:
            ds.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]

    assert [case.doubts for case in discover([write_series(change=scout).folder])] == [(), ()]
