"""DICOM Segmentations: in place voxel for voxel, valid, and robust against bad sources."""

from __future__ import annotations

import shutil
import subprocess
from copy import deepcopy
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pytest
from highdicom.legacy import LegacyConvertedEnhancedMRImage
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import generate_uid
from synthetic_dicom import AXIAL, BIRTH_DATE, PATIENT_ID, PATIENT_NAME, SAGITTAL, oblique

from cdal_sdk.errors import OutputError
from cdal_sdk.readers import discover, read_study
from cdal_sdk.readers.dicom_mask import instance_uid
from cdal_sdk.readers.mask import read_mask
from cdal_sdk.study import Code, Label, Study
from cdal_sdk.writers import Algorithm, dicom_seg, write_dicom_probability, write_dicom_seg

HIPPOCAMPUS = Code("5366008", "Hippocampus")
LABELS = (
    Label("Anterior", 1, HIPPOCAMPUS, modifier=Code("255549009", "Anterior")),
    Label("Posterior", 2, HIPPOCAMPUS, modifier=Code("255551008", "Posterior"), colour=(60, 200, 90)),
)
LUNG = (Label("Lungs", 1, Code("39607008", "Lung")),)
ALGORITHM = Algorithm("hippocampus", "0.1.0")

needs_dciodvfy = pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian: dicom3tools) is absent")


def read(path: Path) -> Study:
    (case,) = discover([path])
    return read_study(case)


def asymmetric_mask(study: Study) -> np.ndarray:
    """Two labels that no flip, shift or swap of axes maps onto themselves; the last slice stays empty."""
    mask = np.zeros(study.grid, np.uint8)
    mask[1:4, 1:3, :2] = 1
    mask[4:8, 2:6, 1:4] = 2
    mask[1, 5, 3] = 1
    return mask


def labelled_points(path: Path, segment: int) -> np.ndarray:
    """LPS positions of a segment's voxels, computed from the tags of each frame alone, sorted."""
    ds = dcmread(path)
    shared, points = ds.SharedFunctionalGroupsSequence[0], []
    row, column = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    for groups, frame in zip(ds.PerFrameFunctionalGroupsSequence, ds.pixel_array, strict=True):
        if groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber == segment:
            origin = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
            for r, c in np.argwhere(frame):
                points.append(origin + row * c * between_columns + column * r * between_rows)
    return np.array(sorted(map(tuple, np.round(points, 3))))


@pytest.mark.parametrize("reverse", [False, True], ids=["numbered along the normal", "numbered against it"])
@pytest.mark.parametrize(
    "orientation",
    [AXIAL, SAGITTAL, (-1, 0, 0, 0, 1, 0), oblique(turn=20, tilt=-35), oblique(turn=-110, tilt=70)],
    ids=["axial", "sagittal", "flipped rows", "oblique", "very oblique"],
)
def test_every_voxel_comes_back_to_its_place(tmp_path, write_series, orientation, reverse):
    series = write_series(orientation=orientation, reverse=reverse)
    study = read(series.folder)
    mask = asymmetric_mask(study)
    write_dicom_seg(mask, study, LABELS, ALGORITHM, tmp_path / "seg.dcm")
    for label in LABELS:
        indices = np.argwhere(mask == label.value)
        ras = np.c_[indices, np.ones(len(indices))] @ series.affine.T
        expected = np.array(sorted(map(tuple, np.round(ras[:, :3] * [-1, -1, 1], 3))))
        np.testing.assert_allclose(labelled_points(tmp_path / "seg.dcm", label.value), expected, atol=2e-3)


def test_frames_refer_to_their_own_source(tmp_path, write_series):
    series = write_series(orientation=oblique(turn=20, tilt=-35))
    study = read(series.folder)
    write_dicom_seg(asymmetric_mask(study), study, LABELS, ALGORITHM, tmp_path / "seg.dcm")
    by_uid = {dcmread(path).SOPInstanceUID: dcmread(path) for path in series.files}
    ds = dcmread(tmp_path / "seg.dcm")
    assert len(ds.PerFrameFunctionalGroupsSequence) == len(LABELS) * len(series.files)
    for groups in ds.PerFrameFunctionalGroupsSequence:
        source = by_uid[groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID]
        assert groups.PlanePositionSequence[0].ImagePositionPatient == source.ImagePositionPatient
    assert (ds.StudyInstanceUID, ds.FrameOfReferenceUID) == (source.StudyInstanceUID, source.FrameOfReferenceUID)
    assert (str(ds.PatientName), ds.PatientID, ds.PatientBirthDate) == (PATIENT_NAME, PATIENT_ID, BIRTH_DATE)


def test_codes_name_and_colour_of_each_segment(tmp_path, write_series):
    study = read(write_series().folder)
    write_dicom_seg(asymmetric_mask(study), study, LABELS, ALGORITHM, tmp_path / "seg.dcm")
    segmentation = highdicom.seg.segread(tmp_path / "seg.dcm")
    for number, label in enumerate(LABELS, 1):
        segment = segmentation.get_segment_description(number)
        assert segment.segment_label == label.name
        assert segment.segmented_property_type.value == label.type.value
        modifier = segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
        assert modifier.CodeValue == label.modifier.value
        assert segment.SegmentAlgorithmName == "hippocampus"
        assert segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == "0.1.0"
    assert (segmentation.SegmentationType, segmentation.Modality) == ("BINARY", "SEG")


def test_an_empty_mask_keeps_all_its_frames(tmp_path, write_series):
    study = read(write_series().folder)
    write_dicom_seg(np.zeros(study.grid, np.uint8), study, LABELS, ALGORITHM, tmp_path / "seg.dcm")
    ds = dcmread(tmp_path / "seg.dcm")
    assert ds.NumberOfFrames == 10
    assert not ds.pixel_array.any()


def test_label_numbers_need_not_be_consecutive(tmp_path, write_series):
    study = read(write_series().folder)
    labels = (Label("a", 3, HIPPOCAMPUS), Label("b", 200, HIPPOCAMPUS))
    mask = np.array([0, 3, 200], np.uint8)[asymmetric_mask(study)]
    write_dicom_seg(mask, study, labels, ALGORITHM, tmp_path / "seg.dcm")
    assert len(labelled_points(tmp_path / "seg.dcm", 2)) == (mask == 200).sum()


def test_a_planar_xray(tmp_path, write_xray):
    study = read(write_xray(np.arange(48, dtype=np.uint16).reshape(6, 8)))
    mask = np.zeros(study.grid, np.uint8)
    mask[1:3, 4:8, 0] = 1
    write_dicom_seg(mask, study, LUNG, ALGORITHM, tmp_path / "seg.dcm")
    np.testing.assert_array_equal(dcmread(tmp_path / "seg.dcm").pixel_array, mask[..., 0])


def test_an_enhanced_multi_frame_source(tmp_path, write_series):
    series = write_series(orientation=oblique(turn=20, tilt=-35))
    single = [dcmread(path) for path in series.files]
    enhanced = LegacyConvertedEnhancedMRImage(single, generate_uid(), 2, generate_uid(), 1)
    enhanced.save_as(tmp_path / "enhanced.dcm")
    one, many = read(tmp_path / "enhanced.dcm"), read(series.folder)
    mask = asymmetric_mask(one)
    write_dicom_seg(mask, one, LABELS, ALGORITHM, tmp_path / "one.dcm")
    write_dicom_seg(mask, many, LABELS, ALGORITHM, tmp_path / "many.dcm")
    np.testing.assert_array_equal(labelled_points(tmp_path / "one.dcm", 1), labelled_points(tmp_path / "many.dcm", 1))


def test_a_volume_of_a_multi_frame_file_refers_to_its_own_frames(tmp_path, write_series):
    series = write_series(orientation=oblique(turn=20, tilt=-35))
    single = [dcmread(path) for path in series.files]
    enhanced = LegacyConvertedEnhancedMRImage(single, generate_uid(), 2, generate_uid(), 1)
    groups = enhanced.PerFrameFunctionalGroupsSequence
    enhanced.PerFrameFunctionalGroupsSequence = [deepcopy(groups[index]) for index in [*range(5)] * 2]
    enhanced.PixelData, enhanced.NumberOfFrames = enhanced.PixelData * 2, 10
    (tmp_path / "enhanced").mkdir()
    enhanced.save_as(tmp_path / "enhanced/x.dcm")
    many = read(series.folder)
    mask = asymmetric_mask(many)
    write_dicom_seg(mask, many, LABELS, ALGORITHM, tmp_path / "many.dcm")
    for case in discover([tmp_path / "enhanced"]):
        study = read_study(case)
        write_dicom_seg(mask, study, LABELS, ALGORITHM, tmp_path / "one.dcm")
        for segment in (1, 2):
            there, here = (labelled_points(tmp_path / name, segment) for name in ("many.dcm", "one.dcm"))
            np.testing.assert_allclose(there, here, atol=1e-4)
        ds = dcmread(tmp_path / "one.dcm")
        for frame in ds.PerFrameFunctionalGroupsSequence:
            reference = frame.DerivationImageSequence[0].SourceImageSequence[0]
            place = frame.PlanePositionSequence[0].ImagePositionPatient
            number = int(reference.ReferencedFrameNumber) - 1
            assert number in case.frames
            source = enhanced.PerFrameFunctionalGroupsSequence[number]
            assert place == source.PlanePositionSequence[0].ImagePositionPatient


def without_required_tags(index, ds):
    for keyword in ("PatientBirthDate", "PatientSex", "PatientName", "StudyID", "StudyTime", "AccessionNumber"):
        del ds[keyword]
    del ds["FrameOfReferenceUID"]
    del ds["SliceThickness"]
    ds.SeriesNumber = None


BAD_VALUES = {
    "PatientBirthDate": ("DA", b"next year "),
    "StudyDate": ("DA", b"20241399"),
    "StudyTime": ("TM", b"25:61 "),
    "PatientSex": ("CS", b"X "),
    "PatientIdentityRemoved": ("CS", b"perhaps "),
    "PatientAge": ("AS", b"about forty "),
    "PatientWeight": ("DS", b"heavy "),
    "SeriesNumber": ("IS", b"-5"),
    "SpacingBetweenSlices": ("DS", b"-99 "),
    "PatientName": ("PN", "M\u00fcller^J\u00fcrgen=\u5f20".encode()),
}


def with_bad_tags(index, ds):
    ds.SpecificCharacterSet = "ISO_IR 100"  # which is not that of the name
    for keyword, (vr, raw) in BAD_VALUES.items():
        tag = Tag(keyword)
        ds[tag] = RawDataElement(tag, vr, len(raw), raw, 0, False, True)


def with_frames_of_reference_of_their_own(index, ds):
    ds.FrameOfReferenceUID = f"1.2.3.{index}"


@pytest.mark.parametrize("change", [without_required_tags, with_bad_tags])
def test_no_result_is_lost_over_bad_source_tags(tmp_path, write_series, change, recwarn):
    series = write_series(change=change)
    recwarn.clear()
    study = read(series.folder)
    mask = asymmetric_mask(study)
    write_dicom_seg(mask, study, LABELS, ALGORITHM, tmp_path / "seg.dcm")
    ds = dcmread(tmp_path / "seg.dcm")
    assert ds.PatientBirthDate == ""
    assert ds.PatientSex == ""
    assert ds.SeriesNumber == 1000
    assert len(labelled_points(tmp_path / "seg.dcm", 2)) == (mask == 2).sum()
    quoted = "".join(str(warning.message) for warning in recwarn)
    assert not [raw for _, raw in BAD_VALUES.values() if repr(raw.decode().strip()) in quoted]


@pytest.mark.parametrize("keyword", ["PatientID", "PatientName"])
def test_what_is_in_no_character_set_of_the_source_s_is_left_empty(tmp_path, write_series, caplog, keyword):
    def change(index, ds):
        ds.SpecificCharacterSet = "ISO_IR 192"
        setattr(ds, keyword, "UNMISTAKABLE-X")

    series = write_series(change=change)
    for path in series.files:
        path.write_bytes(path.read_bytes().replace(b"UNMISTAKABLE-X", b"UNMISTAKABLE-\xff"))
    study = read(series.folder)
    write_dicom_seg(asymmetric_mask(study), study, LABELS, ALGORITHM, tmp_path / "seg.dcm")
    assert dcmread(tmp_path / "seg.dcm")[keyword].is_empty
    assert f"left empty, since DICOM does not allow what its source has: {keyword}" in caplog.text
    assert "UNMISTAKABLE" not in caplog.text


def test_a_replacement_character_of_the_source_s_own_is_kept(tmp_path, write_series, caplog):
    def change(index, ds):
        ds.SpecificCharacterSet, ds.PatientID = "ISO_IR 192", "UNMISTAKABLE-\N{REPLACEMENT CHARACTER}"

    study = read(write_series(change=change).folder)
    write_dicom_seg(asymmetric_mask(study), study, LABELS, ALGORITHM, tmp_path / "seg.dcm")
    assert dcmread(tmp_path / "seg.dcm").PatientID == "UNMISTAKABLE-\N{REPLACEMENT CHARACTER}"
    assert not [record for record in caplog.records if record.name.startswith("cdal_sdk")]


@pytest.mark.parametrize(
    ("keyword", "vr", "raw"),
    [
        ("AccessionNumber", "SH", b"UNMISTAKABLE-AC-0123456789"),
        ("StudyID", "SH", b"UNMISTAKABLE-ID-0123456789"),
        ("PatientID", "LO", b"UNMISTAKABLE" * 6),
        ("PatientID", "LO", b"UNMISTAKABLE\\ID "),
        ("PatientName", "PN", b"UNMISTAKABLE\\NAME"),
        ("StudyTime", "TM", b"25:61 "),
        ("PatientSex", "CS", b"X "),
    ],
)
def test_an_identity_that_is_lost_is_told_without_its_value(tmp_path, write_series, caplog, keyword, vr, raw):
    def change(index, ds):
        ds[Tag(keyword)] = RawDataElement(Tag(keyword), vr, len(raw), raw, 0, False, True)

    study = read(write_series(change=change).folder)
    write_dicom_seg(asymmetric_mask(study), study, LABELS, ALGORITHM, tmp_path / "seg.dcm")
    assert dcmread(tmp_path / "seg.dcm")[keyword].is_empty
    said = f"{study.case}: left empty, since DICOM does not allow what its source has: {keyword}"
    assert [record.getMessage() for record in caplog.records if record.name.startswith("cdal_sdk")] == [said]
    assert raw.decode().strip() not in caplog.text


def test_what_the_source_lacks_is_no_loss(tmp_path, write_series, caplog):
    study = read(write_series(change=without_required_tags).folder)
    write_dicom_seg(asymmetric_mask(study), study, LABELS, ALGORITHM, tmp_path / "seg.dcm")
    assert not [record for record in caplog.records if record.name.startswith("cdal_sdk")]


def test_a_study_of_its_own_is_told(tmp_path, write_series, caplog):
    study = read(write_series(change=lambda index, ds: setattr(ds, "StudyInstanceUID", "")).folder)
    write_dicom_seg(asymmetric_mask(study), study, LABELS, ALGORITHM, tmp_path / "seg.dcm")
    assert f"{study.case}: in a study of its own, since its source has no StudyInstanceUID" in caplog.messages


def same_instance(index, ds):
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"


def no_instance(index, ds):
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = ""


@pytest.mark.parametrize(
    ("change", "said"),
    [(same_instance, "slices share a SOPInstanceUID"), (no_instance, "an image has no SOPInstanceUID")],
)
def test_sources_that_cannot_be_referred_to_are_refused_with_a_way_out(tmp_path, write_series, change, said):
    series = write_series()
    for index, path in enumerate(series.files):
        ds = dcmread(path)
        change(index, ds)
        ds.save_as(path, enforce_file_format=False)
    study = read(series.folder)
    with pytest.raises(OutputError, match=f"^{series.uid}: {said}.* convert it to NIfTI"):
        write_dicom_seg(asymmetric_mask(study), study, LABELS, ALGORITHM, tmp_path / "seg.dcm")


def test_identities_that_only_the_meta_information_has_are_referred_to(tmp_path, write_series):
    series = write_series()
    uids = set()
    for path in series.files:
        ds = dcmread(path)
        uids.add(ds.SOPInstanceUID)
        ds.SOPInstanceUID = ""
        del ds.SOPClassUID
        ds.save_as(path, enforce_file_format=False)
        assert instance_uid(path) in uids
    study = read(series.folder)
    write_dicom_seg(asymmetric_mask(study), study, LABELS, ALGORITHM, tmp_path / "seg.dcm")
    assert read_mask(tmp_path / "seg.dcm", [1, 2], planar=False).references == uids


def test_an_unusual_name_is_kept_and_quoted_nowhere(tmp_path, write_series, recwarn, caplog):
    series = write_series(change=lambda index, ds: setattr(ds, "PatientName", "Unmistakable"))
    recwarn.clear()
    study = read(series.folder)
    write_dicom_seg(asymmetric_mask(study), study, LABELS, ALGORITHM, tmp_path / "seg.dcm")
    assert dcmread(tmp_path / "seg.dcm").PatientName == "Unmistakable"
    assert "Unmistakable" not in caplog.text + "".join(str(warning.message) for warning in recwarn)


def test_a_nifti_source_and_a_wrong_mask_are_refused(tmp_path, write_series):
    study = read(write_series().folder)
    with pytest.raises(OutputError, match="shape"):
        write_dicom_seg(np.zeros((2, 2, 2), np.uint8), study, LABELS, ALGORITHM, tmp_path / "seg.dcm")
    with pytest.raises(OutputError, match="number that no label has"):
        write_dicom_seg(np.full(study.grid, 9, np.uint8), study, LABELS, ALGORITHM, tmp_path / "seg.dcm")
    assert not list(tmp_path.glob("*seg.dcm"))


def test_what_does_not_read_back_is_not_kept(tmp_path, write_series, monkeypatch):
    study = read(write_series().folder)
    honest = dicom_seg._segmentation

    def mirrored(maps, *rest):
        return honest(maps[:, ::-1], *rest)

    monkeypatch.setattr(dicom_seg, "_segmentation", mirrored)
    with pytest.raises(OutputError, match="does not read back"):
        write_dicom_seg(asymmetric_mask(study), study, LABELS, ALGORITHM, tmp_path / "seg.dcm")
    assert not list(tmp_path.glob("*seg.dcm"))


def dciodvfy_errors(path: Path) -> list[str]:
    done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)  # noqa: S603, S607
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


CHANGES = [lambda index, ds: None, without_required_tags, with_bad_tags, with_frames_of_reference_of_their_own]


@needs_dciodvfy
@pytest.mark.parametrize("change", CHANGES)
def test_dciodvfy_finds_no_error(tmp_path, write_series, change):
    study = read(write_series(orientation=oblique(turn=20, tilt=-35), change=change).folder)
    write_dicom_seg(asymmetric_mask(study), study, LABELS, ALGORITHM, tmp_path / "seg.dcm")
    assert dciodvfy_errors(tmp_path / "seg.dcm") == []


@needs_dciodvfy
def test_dciodvfy_finds_no_error_in_a_planar_one(tmp_path, write_xray):
    study = read(write_xray(np.arange(48, dtype=np.uint16).reshape(6, 8)))
    write_dicom_seg(np.ones(study.grid, np.uint8), study, LUNG, ALGORITHM, tmp_path / "seg.dcm")
    assert dciodvfy_errors(tmp_path / "seg.dcm") == []


def some_probability(study: Study, labels: tuple[Label, ...] = LABELS) -> np.ndarray:
    return np.random.default_rng(3).random((len(labels), *study.grid), dtype=np.float32)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("orientation", [AXIAL, oblique(turn=-110, tilt=70)], ids=["axial", "very oblique"])
def test_a_probability_comes_back_in_steps_of_a_255th(tmp_path, write_series, orientation, reverse):
    series = write_series(orientation=orientation, reverse=reverse)
    study = read(series.folder)
    probability = some_probability(study)
    write_dicom_probability(probability, study, LABELS, ALGORITHM, tmp_path / "seg.dcm")
    ds = dcmread(tmp_path / "seg.dcm")
    assert (ds.SegmentationType, ds.SegmentationFractionalType) == ("FRACTIONAL", "PROBABILITY")
    shared = ds.SharedFunctionalGroupsSequence[0]
    row = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient[:3], float)
    from_lps = np.linalg.inv(series.affine) @ np.diag([-1, -1, 1, 1])
    for groups, frame in zip(ds.PerFrameFunctionalGroupsSequence, ds.pixel_array, strict=True):
        label = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber - 1
        origin = np.array([*map(float, groups.PlanePositionSequence[0].ImagePositionPatient), 1])
        *start, k = np.round((from_lps @ origin)[:3]).astype(int)
        assert start == [0, 0]
        assert from_lps[:3, :3] @ row == pytest.approx([1 / 0.8, 0, 0], abs=1e-3)
        np.testing.assert_allclose(frame / 255, probability[label, :, :, k].T, atol=0.5 / 255 + 1e-6)


def test_a_probability_of_an_xray(tmp_path, write_xray):
    study = read(write_xray(np.arange(48, dtype=np.uint16).reshape(6, 8)))
    probability = some_probability(study, LUNG)
    write_dicom_probability(probability, study, LUNG, ALGORITHM, tmp_path / "seg.dcm")
    np.testing.assert_allclose(dcmread(tmp_path / "seg.dcm").pixel_array / 255, probability[0, ..., 0], atol=0.002)
    with pytest.raises(OutputError, match="outside 0 to 1"):
        write_dicom_probability(probability + 1, study, LUNG, ALGORITHM, tmp_path / "more.dcm")


@needs_dciodvfy
def test_dciodvfy_finds_no_error_in_probabilities(tmp_path, write_series, write_xray):
    volume = read(write_series(orientation=oblique(turn=20, tilt=-35), change=with_bad_tags).folder)
    xray = read(write_xray(np.arange(48, dtype=np.uint16).reshape(6, 8)))
    for study, labels in ((volume, LABELS), (xray, LUNG)):
        write_dicom_probability(some_probability(study, labels), study, labels, ALGORITHM, tmp_path / "seg.dcm")
        assert dciodvfy_errors(tmp_path / "seg.dcm") == []


@pytest.mark.skipif(shutil.which("segimage2itkimage") is None, reason="the package dcmqi is not installed")
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("orientation", [SAGITTAL, oblique(turn=20, tilt=-35)], ids=["sagittal", "oblique"])
def test_dcmqi_reads_the_same_voxels_at_the_same_places(tmp_path, write_series, orientation, reverse):
    series = write_series(orientation=orientation, reverse=reverse)
    study = read(series.folder)
    mask = asymmetric_mask(study)
    write_dicom_seg(mask, study, LABELS, ALGORITHM, tmp_path / "seg.dcm")
    command = ["segimage2itkimage", "--inputDICOM", tmp_path / "seg.dcm", "--outputDirectory", tmp_path]
    done = subprocess.run([*command, "--outputType", "nifti"], capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
    for label in LABELS:
        image = nibabel.load(tmp_path / f"{label.value}.nii.gz")
        found = np.argwhere(np.asarray(image.dataobj))
        places = np.c_[found, np.ones(len(found))] @ image.affine.T
        expected = np.c_[np.argwhere(mask == label.value), np.ones((mask == label.value).sum())] @ series.affine.T
        order = [np.lexsort(np.round(points, 2).T) for points in (places, expected)]
        np.testing.assert_allclose(places[order[0]], expected[order[1]], atol=0.01)


@pytest.mark.parametrize("name", ["Study1_hippocampus_crop", "Study2_hippocampus_crop", "Study1_T1post_full"])
def test_real_series(tmp_path, shared_data, name):
    study = read(shared_data / "dicom" / name)
    mask = asymmetric_mask(study)
    write_dicom_seg(mask, study, LABELS, ALGORITHM, tmp_path / "seg.dcm")  # compares in patient space itself
    assert (len(labelled_points(tmp_path / "seg.dcm", 1)) == (mask == 1).sum()).all()
    if shutil.which("dciodvfy"):
        assert dciodvfy_errors(tmp_path / "seg.dcm") == []
