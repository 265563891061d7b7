"""DICOM in: the order and place of slices, what is refused, photometry."""

from __future__ import annotations

import threading
from contextlib import closing, suppress
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from highdicom.legacy import LegacyConvertedEnhancedMRImage
from pydicom import config, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import Tag
from pydicom.uid import (
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from synthetic_dicom import ACCESSION, AXIAL, BIRTH_DATE, PATIENT_ID, PATIENT_NAME, SAGITTAL, oblique, phantom

from cdal_sdk.errors import ReadError
from cdal_sdk.readers import IsolatedReader, dicom_file, dicom_pixels, discover, read_study
from cdal_sdk.readers.dicom_file import open_dicom
from cdal_sdk.readers.dicom_frames import frame_doubts_of
from cdal_sdk.study import Study


def read(path: Path) -> Study:
    (case,) = discover([path])
    return read_study(case)


def refusal(path: Path) -> str:
    with pytest.raises(ReadError) as caught:
        read(path)
    text = str(caught.value)
    assert not any(secret in text for secret in (PATIENT_NAME, PATIENT_ID, BIRTH_DATE, ACCESSION))
    return text


@pytest.mark.parametrize("reverse", [False, True], ids=["numbered along the normal", "numbered against it"])
@pytest.mark.parametrize(
    "orientation",
    [AXIAL, SAGITTAL, (-1, 0, 0, 0, 1, 0), oblique(turn=20, tilt=-35), oblique(turn=-110, tilt=70)],
    ids=["axial", "sagittal", "flipped rows", "oblique", "very oblique"],
)
def test_every_voxel_comes_to_its_place(write_series, orientation, reverse):
    series = write_series(orientation=orientation, reverse=reverse)
    study = read(series.folder)
    np.testing.assert_array_equal(study.image[0], series.voxels)
    assert study.affine is not None
    np.testing.assert_allclose(study.affine, series.affine, atol=1e-4)
    assert study.source.paths == tuple(series.files)
    assert study.modality == "MR"
    assert study.spacing == pytest.approx((0.8, 0.9, 2.5), abs=1e-4)


def test_a_missing_slice_is_named(write_series):
    series = write_series(skip=[2])
    text = refusal(series.folder)
    assert "a slice is missing" in text
    assert "14.75 and 19.75" in text
    assert text.startswith(f"{min(series.files)}: ")  # a file, since the folder may be named after the patient


def test_several_missing_slices_are_counted(write_series):
    voxels = phantom((4, 3, 12))
    assert "3 slices are missing" in refusal(write_series(voxels=voxels, skip=[3, 4, 8]).folder)


def test_two_slices_at_one_position(write_series):
    def doubled(index, ds):
        if index == 3:
            ds.ImagePositionPatient = [-20.0, 35.5, 12.25 + 2 * 2.5]

    assert "same position, 17.25 mm" in refusal(write_series(change=doubled).folder)


def test_two_slices_at_nearly_one_position_are_no_gap_for_the_others(write_series):
    def doubled(index, ds):
        if index == 3:
            ds.ImagePositionPatient = [-20.0, 35.5, 12.25 + 2 * 2.5 + 0.1]

    assert "same position" in refusal(write_series(change=doubled).folder)


def test_uneven_spacing(write_series):
    def moved(index, ds):
        if index == 4:
            ds.ImagePositionPatient = [-20.0, 35.5, 12.25 + 4 * 2.5 + 0.9]

    assert "unevenly spaced, 2.50 to 3.40 mm" in refusal(write_series(change=moved).folder)


def test_gantry_tilt(write_series):
    text = refusal(write_series(shift=(0, 0.5, 0)).folder)
    assert "gantry tilt of 11.3 degrees" in text


def test_the_rounding_of_decimal_strings_is_no_tilt_and_no_unevenness(write_series):
    def rounded(index, ds):
        ds.ImagePositionPatient = [round(float(value), 2) for value in ds.ImagePositionPatient]

    series = write_series(orientation=oblique(turn=20, tilt=30), change=rounded)
    study = read(series.folder)
    assert study.affine is not None
    np.testing.assert_allclose(study.affine, series.affine, atol=0.01)


def test_one_slice_is_a_volume_of_its_thickness(write_series):
    study = read(write_series(skip=[1, 2, 3, 4]).folder)
    assert study.image.shape == (1, 9, 7, 1)
    assert study.spacing == pytest.approx((0.8, 0.9, 2.5))


def test_orientation_that_is_none(write_series):
    series = write_series(change=lambda index, ds: setattr(ds, "ImageOrientationPatient", [1, 0, 0, 1, 0, 0]))
    assert "perpendicular" in refusal(series.folder)


def test_rescale_is_applied_slice_by_slice(write_series):
    def rescaled(index, ds):
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 2 + index, -1000, "HU"

    series = write_series(change=rescaled)
    expected = series.voxels * (2 + np.arange(5)) - 1000
    np.testing.assert_array_equal(read(series.folder).image[0], expected)


def test_a_volume_keeps_its_values_whatever_its_window(write_series):
    def windowed(index, ds):
        ds.WindowCenter, ds.WindowWidth = 10, 5

    series = write_series(change=windowed)
    np.testing.assert_array_equal(read(series.folder).image[0], series.voxels)


def test_monochrome1_is_inverted(write_series):
    series = write_series(change=lambda index, ds: setattr(ds, "PhotometricInterpretation", "MONOCHROME1"))
    np.testing.assert_array_equal(read(series.folder).image[0], series.voxels.max() - series.voxels)


def test_truncated_pixels(write_series):
    series = write_series()
    raw = series.files[2].read_bytes()
    series.files[2].write_bytes(raw[:-30])
    assert str(series.files[2]) in refusal(series.folder)


@pytest.mark.parametrize("missing", [[], ["pylibjpeg-rle"], ["gdcm>=3.0.10"], ["pylibjpeg-openjpeg>=2.0"]])
@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_truncated_compressed_pixels_are_no_lack_of_a_decoder(write_series, monkeypatch, syntax, missing):
    path = write_series(skip=[1, 2, 3, 4], voxels=phantom((90, 70, 5))).files[0]
    ds = dcmread(path)
    ds.compress(syntax, generate_instance_uid=False)
    (frame,) = generate_frames(ds.PixelData, number_of_frames=1)
    ds.PixelData = encapsulate([frame[: len(frame) // 8]])
    ds.save_as(path)
    decoder = SimpleNamespace(is_available=True, missing_dependencies=[f"plug-in - requires {m}" for m in missing])
    monkeypatch.setattr(dicom_pixels, "get_decoder", lambda syntax: decoder)
    text = refusal(path)
    assert "the pixels cannot be decoded" in text
    lacking = missing not in ([], ["pylibjpeg-rle"])
    assert ("the file is damaged or truncated" in text, "cdal-sdk[dicom]" in text) == (not lacking, lacking)


def test_no_decoder_names_the_plug_ins(write_series):
    series = write_series()
    ds = dcmread(series.files[0])
    ds.file_meta.TransferSyntaxUID = MPEG4HP41  # which is no still image
    ds.PixelData = encapsulate([ds.PixelData])
    ds.save_as(series.files[0])
    assert "cdal-sdk[dicom]" in refusal(series.folder)


def test_an_enhanced_multi_frame_file_equals_its_single_frames(tmp_path, write_series):
    series = write_series(orientation=oblique(turn=20, tilt=-35))
    single = [dcmread(path) for path in series.files]
    enhanced = LegacyConvertedEnhancedMRImage(single, generate_uid(), 2, generate_uid(), 1)
    enhanced.save_as(tmp_path / "enhanced.dcm")
    study = read(tmp_path / "enhanced.dcm")
    assert study.affine is not None
    np.testing.assert_array_equal(study.image[0], series.voxels)
    np.testing.assert_allclose(study.affine, series.affine, atol=1e-4)


def enhanced_file(path, write_series, frames=range(5), change=lambda ds, groups: None):
    """An enhanced multi-frame file of some frames of a series."""
    single = [dcmread(file) for file in write_series().files]
    ds = dcmread_again(LegacyConvertedEnhancedMRImage(single, generate_uid(), 2, generate_uid(), 1), path)
    groups = [deepcopy(ds.PerFrameFunctionalGroupsSequence[index]) for index in frames]
    ds.PixelData, ds.NumberOfFrames = ds.pixel_array[list(frames)].tobytes(), len(groups)
    change(ds, groups)
    ds.PerFrameFunctionalGroupsSequence = groups
    ds.save_as(path)
    return path


def dcmread_again(ds, path):
    ds.save_as(path)
    return dcmread(path)


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        ([0, 1, 3, 4], "a slice is missing, between the positions 14.75 and 19.75 mm"),
        ([0, 1, 1, 2, 3, 4], "two slices lie at the same position"),
    ],
)
def test_frames_that_form_no_volume_are_told_like_single_slices(tmp_path, write_series, frames, said):
    assert said in refusal(enhanced_file(tmp_path / "enhanced.dcm", write_series, frames))


def two_echoes(ds, groups):
    """The even and the odd frames are volumes, the second one brighter."""
    pixels = ds.pixel_array.copy()
    pixels[1::2] += 1000
    ds.PixelData = pixels.tobytes()
    for number, frame in enumerate(groups):
        echo = Dataset()
        echo.EffectiveEchoTime = 3.0 + number % 2
        frame.MREchoSequence = DicomSequence([echo])


def first_and_second(ds, groups):
    """Nothing but the order of the frames tells the volumes apart."""
    two_echoes(ds, groups)
    for frame in groups:
        del frame.MREchoSequence


def compressed(ds, groups):
    two_echoes(ds, groups)
    ds.PerFrameFunctionalGroupsSequence = groups
    ds.compress(RLELossless, generate_instance_uid=False)


@pytest.mark.parametrize("change", [two_echoes, first_and_second, compressed])
def test_the_volumes_of_a_multi_frame_file_are_cases_of_their_own(tmp_path, write_series, change):
    twice = [frame for frame in range(5) for _ in range(2)]
    path = enhanced_file(tmp_path / "enhanced.dcm", write_series, twice, change)
    cases = discover([path])
    assert len({case.case for case in cases}) == 2
    one, other = map(read_study, cases)
    np.testing.assert_array_equal(one.image[0], phantom())
    np.testing.assert_array_equal(other.image[0], phantom() + 1000)
    assert (one.source.frames, other.source.frames) == ((0, 2, 4, 6, 8), (1, 3, 5, 7, 9))
    reader = IsolatedReader(60)
    try:
        assert [case.frames for case in discover([path], reader=reader)] == [case.frames for case in cases]
        there = reader.read(cases[1])
    finally:
        reader.close()
    np.testing.assert_array_equal(there.image, other.image)
    assert there.source == other.source


def test_a_gap_in_one_volume_of_a_multi_frame_file_is_told(tmp_path, write_series):
    def gap(ds, groups):
        two_echoes(ds, groups)
        pixels, kept = ds.pixel_array, [number for number in range(10) if number not in (4, 5)]
        ds.PixelData, ds.NumberOfFrames = pixels[kept].tobytes(), 8
        groups[:] = [groups[number] for number in kept]

    path = enhanced_file(tmp_path / "enhanced.dcm", write_series, [f for f in range(5) for _ in range(2)], gap)
    for case in discover([path]):
        with pytest.raises(ReadError, match=r"a slice is missing, between the positions 14\.75 and 19\.75 mm"):
            read_study(case)


@pytest.mark.parametrize(("parts", "said"), [(2, "part 1 of 2 of one image"), (None, "part 1 of ? of one image")])
def test_a_part_of_a_multi_frame_image_is_no_volume(tmp_path, write_series, parts, said):
    def concatenated(ds, groups):
        ds.ConcatenationUID, ds.InConcatenationNumber, ds.InConcatenationTotalNumber = generate_uid(), 1, parts

    text = refusal(enhanced_file(tmp_path / "enhanced.dcm", write_series, change=concatenated))
    assert said in text
    assert "join its parts first" in text


def test_the_only_part_of_a_multi_frame_image_is_all_of_it(tmp_path, write_series):
    def concatenated(ds, groups):
        ds.ConcatenationUID, ds.InConcatenationNumber, ds.InConcatenationTotalNumber = generate_uid(), 1, 1

    assert read(enhanced_file(tmp_path / "enhanced.dcm", write_series, change=concatenated)).doubts == ()


@pytest.mark.parametrize(
    ("first", "step", "doubts"),
    [
        (1, 1, ()),
        (7, 1, ("slices may be missing: 5 are numbered from 7 to 11",)),
        (1, 2, ("slices may be missing: 5 are numbered from 1 to 9",)),
    ],
)
def test_frames_that_are_not_numbered_from_1_may_not_be_all(tmp_path, write_series, first, step, doubts):
    def numbered(ds, groups):
        for number, frame in enumerate(groups):
            frame.FrameContentSequence[0].InStackPositionNumber = first + step * number

    assert read(enhanced_file(tmp_path / "enhanced.dcm", write_series, change=numbered)).doubts == doubts


@pytest.mark.parametrize(("turned", "doubtful"), [((0, 1, 0.002), True), ((0, 0, -1), False)])
def test_frames_in_almost_parallel_planes_may_be_one_volume(tmp_path, write_series, turned, doubtful):
    def changed(ds, groups):
        del ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence
        for number, frame in enumerate(groups):
            plane = Dataset()
            plane.ImageOrientationPatient = [1, 0, 0, *(turned if number > 2 else (0, 1, 0))]
            frame.PlaneOrientationSequence = DicomSequence([plane])

    cases = discover([enhanced_file(tmp_path / "enhanced.dcm", write_series, change=changed)])
    assert len(cases) == 2
    said = "its slices lie in planes that are almost parallel, so that they may be one volume"
    assert [said in frame_doubts_of(dcmread(case.paths[0]), case.frames) for case in cases] == [doubtful] * 2


def test_the_modality_of_a_multi_frame_file_is_no_free_text(tmp_path, write_series):
    path = enhanced_file(
        tmp_path / "enhanced.dcm", write_series, change=lambda ds, _: setattr(ds, "Modality", "ZYXWV^JOHN")
    )
    assert read(path).modality == "OT"


@pytest.mark.parametrize(("value", "burnt_in"), [("YES", True), ("yes ", True), ("NO", False), (None, False)])
def test_text_burnt_into_the_pixels_is_a_doubt(write_series, write_xray, value, burnt_in):
    def one(index, ds):
        ds.BurnedInAnnotation = value if index == 3 else "NO"

    pixels = np.eye(4, dtype=np.uint16)
    for study in (read(write_series(change=one).folder), read(write_xray(pixels, change=lambda ds: one(3, ds)))):
        assert study.burnt_in is burnt_in
        assert study.doubts == (("text may be burnt into the pixels, which the preview does not show",) * burnt_in)


def raw_tags(**values):
    """A change that puts values into numeric tags as they are, however wrong."""

    def change(*arguments):
        for keyword, value in values.items():
            tag = Tag(keyword)
            arguments[-1][tag] = RawDataElement(tag, "DS", len(value), value, 0, False, True)

    return change


@pytest.mark.parametrize("thickness", [b"2,50", b"", b"thin"])
def test_a_thickness_matters_only_to_a_single_slice(write_series, thickness):
    broken = raw_tags(SliceThickness=thickness)
    assert read(write_series("five", change=broken).folder).spacing == pytest.approx((0.8, 0.9, 2.5))
    one = read(write_series("one", change=broken, skip=[1, 2, 3, 4]).folder)
    assert one.spacing == pytest.approx((0.8, 0.9, 2.5 if b"2" in thickness else 1.0))


@pytest.mark.parametrize(
    ("tags", "slope", "intercept"),
    [
        ({"RescaleSlope": b"", "RescaleIntercept": b""}, 1, 0),
        ({"RescaleSlope": b"2 "}, 2, 0),
        ({"RescaleSlope": b"", "RescaleIntercept": b"-7"}, 1, -7),
        ({"RescaleSlope": b"1,5 ", "RescaleIntercept": b"3 "}, 1.5, 3),
        ({"RescaleSlope": b"0 ", "RescaleIntercept": b"3 "}, 0, 3),
    ],
)
def test_a_rescale_that_lacks_a_part_is_applied(write_series, write_xray, tags, slope, intercept):
    series = write_series(change=raw_tags(**tags))
    np.testing.assert_allclose(read(series.folder).image[0], series.voxels * slope + intercept)
    pixels = np.array([[0, 10], [20, 30]], np.uint16)
    shown = read(write_xray(pixels, change=raw_tags(**tags))).image[0, :, :, 0]
    np.testing.assert_allclose(shown, pixels.astype(float) * slope + intercept)


def test_a_rescale_that_is_no_number_is_refused(write_series):
    assert "the rescale is no number" in refusal(write_series(change=raw_tags(RescaleSlope=b"steep ")).folder)


def test_the_name_of_a_file_stays_out_of_reports(write_xray):
    path = write_xray(np.eye(4, dtype=np.uint16), "DOE_JOHN_19500101.dcm")
    path.write_bytes(path.read_bytes()[:-8])
    (files,) = discover([path])
    reader = IsolatedReader(60)
    try:
        for attempt in (read_study, reader.read):
            with pytest.raises(ReadError, match="DOE_JOHN") as caught:
                attempt(files)
            assert "DOE" not in caught.value.brief()
    finally:
        reader.close()


def test_an_xray_is_planar_and_windowed_as_displayed(write_xray):
    def windowed(ds):
        ds.WindowCenter, ds.WindowWidth = 1000, 1000

    pixels = np.array([[0, 600, 800], [1000, 1200, 4000]], np.uint16)
    study = read(write_xray(pixels, change=windowed))
    assert study.planar
    assert study.image.shape == (1, 2, 3, 1)
    shown = study.image[0, :, :, 0]
    assert shown[0, 0] == 0  # below the window, black
    assert shown[1, 2] == 65535  # above it, white
    assert (np.diff(shown.ravel()) > 0).all()


@pytest.mark.parametrize(
    ("tags", "spacing"),
    [
        ({}, None),  # how far the patient was from the detector is unknown
        ({"EstimatedRadiographicMagnificationFactor": 1.25}, (0.16, 0.24)),
        ({"EstimatedRadiographicMagnificationFactor": 0}, None),
        ({"PixelSpacing": [0.15, 0.25], "EstimatedRadiographicMagnificationFactor": 1.25}, (0.15, 0.25)),
        ({"PixelSpacing": [0.2, 0.3], "EstimatedRadiographicMagnificationFactor": 1.25}, (0.16, 0.24)),
        ({"PixelSpacing": [0.2, 0.3]}, None),  # the detector's once more
        ({"PixelSpacing": [0.20000000298023, 0.3]}, None),
        ({"PixelSpacing": [0.15, 0]}, None),
        ({"PixelSpacing": [0.15, 0.25, 0.25]}, None),
        ({"PixelSpacing": 0.15}, None),
    ],
)
def test_the_spacing_of_an_xray_is_that_in_the_patient(write_xray, tags, spacing):
    def tagged(ds):
        for keyword, value in tags.items():
            setattr(ds, keyword, value)

    study = read(write_xray(np.eye(4, dtype=np.uint16), change=tagged))
    assert study.pixel_spacing == (spacing and pytest.approx(spacing))


@pytest.mark.parametrize(
    ("position", "orientation", "view"),
    [
        ("PA", None, "frontal"),
        ("", ["L", "F"], "frontal"),
        ("LL", None, "lateral"),
        ("", ["P", "F"], "lateral"),
        ("AP", ["F", "R"], "turned"),
        ("AP", ["L", "H"], "turned"),
        ("", None, None),
        ("XYZ", ["L"], None),
        ("PA", "PA", "frontal"),
        ("LATERAL", None, "lateral"),
        ("PA", ["A", "F"], None),
    ],
)
def test_the_view_of_an_xray(write_xray, position, orientation, view):
    def tagged(ds):
        ds.ViewPosition, ds.PatientOrientation = position, orientation

    path = write_xray(np.eye(4, dtype=np.uint16), change=tagged)
    assert read(path).view == view
    (case,) = discover([path])
    with closing(IsolatedReader(60.0)) as reader:
        assert reader.read(case).view == view


@pytest.mark.parametrize(("keyword", "value"), [("PatientID", "UNMISTAKABLE-2"), ("PatientBirthDate", "19010204")])
def test_slices_of_two_patients_are_refused(write_series, keyword, value):
    def mixed(index, ds):
        if index == 2:
            setattr(ds, keyword, value)

    with pytest.raises(ReadError, match=f"the slices differ in {keyword}") as error:
        read(write_series(change=mixed).folder)
    assert value not in str(error.value)


def test_a_slice_without_the_patient_is_no_other_patient_s(write_series):
    def blank(index, ds):
        if index == 2:
            ds.PatientID = ""
            del ds.PatientBirthDate

    assert read(write_series(change=blank).folder).grid[2] == 5


def test_lack_of_memory_is_no_damage(write_series, monkeypatch):
    def exhausted(self):
        raise MemoryError

    series = write_series()
    monkeypatch.setattr(Dataset, "pixel_array", property(exhausted))
    with pytest.raises(MemoryError):
        read(series.folder)


def test_an_inverted_xray(write_xray):
    pixels = np.array([[0, 10], [200, 255]], np.uint8)
    study = read(write_xray(pixels, change=lambda ds: setattr(ds, "PhotometricInterpretation", "MONOCHROME1")))
    np.testing.assert_array_equal(study.image[0, :, :, 0], 255 - pixels)


def test_an_impossible_window_is_passed_over(write_xray):
    def windowed(ds):
        ds.WindowCenter, ds.WindowWidth = 100, 0

    pixels = np.array([[0, 10], [200, 255]], np.uint8)
    np.testing.assert_array_equal(read(write_xray(pixels, change=windowed)).image[0, :, :, 0], pixels)


def test_a_voi_table_is_applied(write_xray):
    def tabled(ds):
        table = Dataset()
        table.LUTDescriptor, table.LUTData = [4, 0, 8], [0, 100, 50, 255]
        table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
        ds.VOILUTSequence = DicomSequence([table])
        ds.RescaleSlope, ds.RescaleIntercept = 1, 0

    pixels = np.array([[0, 1], [2, 3]], np.uint8)
    study = read(write_xray(pixels, change=tabled))
    np.testing.assert_array_equal(study.image[0, :, :, 0], [[0, 100], [50, 255]])


def test_colour_gives_three_channels(write_xray):
    def coloured(ds):
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0

    pixels = np.random.default_rng(0).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    study = read(write_xray(pixels, change=coloured))
    np.testing.assert_array_equal(study.image[..., 0], pixels.transpose(2, 0, 1))


def test_real_crops_lie_in_order(shared_data):
    for name, slices in (("Study1_hippocampus_crop", 32), ("Study2_hippocampus_crop", 35)):
        study = read(shared_data / "dicom" / name)
        assert study.image.shape[-1] == slices
        assert study.spacing == pytest.approx((1, 1, 1))
        heights = [float(dcmread(path).ImagePositionPatient[2]) for path in study.source.paths]
        assert heights == sorted(heights)


def test_a_real_oblique_head(shared_data):
    study = read(shared_data / "dicom" / "Study1_T1post_full")
    assert study.image.shape == (1, 512, 512, 22)
    assert study.spacing == pytest.approx((0.43, 0.43, 6.5), abs=0.01)


def test_padding_is_as_dark_as_the_darkest_voxel(write_series):
    def padded(index, ds):
        pixels = ds.pixel_array.copy()
        pixels[0] = -2000
        ds.PixelData, ds.PixelPaddingValue = pixels.tobytes(), -2000
        ds["PixelPaddingValue"].VR = "SS"

    image = read(write_series(change=padded).folder).image[0]
    np.testing.assert_array_equal(image[:, 0], phantom()[:, 1:].min())
    np.testing.assert_array_equal(image[:, 1:], phantom()[:, 1:])


@pytest.mark.parametrize(("representation", "value"), [("US", 63536), ("SS", -2000)])
@pytest.mark.parametrize("kind", [np.int16, np.uint16])
def test_padding_is_found_however_its_value_is_coded(write_xray, representation, value, kind):
    def padded(ds):
        ds.add_new(Tag("PixelPaddingValue"), representation, value)

    pixels = np.array([[63536, 10], [200, 110]], np.uint16).astype(kind)
    study = read(write_xray(pixels, change=padded))
    np.testing.assert_array_equal(study.image[0, :, :, 0], [[10, 10], [200, 110]])


def test_a_range_of_padding_across_the_sign_is_not_nearly_everything(write_xray):
    """Two signed ends beside unsigned pixels: each by itself would be a code at the other end."""

    def padded(ds):
        ds.add_new(Tag("PixelPaddingValue"), "SS", -1)
        ds.add_new(Tag("PixelPaddingRangeLimit"), "SS", 10)

    study = read(write_xray(np.array([[0, 100], [500, 65535]], np.uint16), change=padded))
    np.testing.assert_array_equal(study.image[0, :, :, 0], [[100, 100], [500, 65535]])


def test_a_padding_value_that_the_pixels_cannot_hold_is_none_of_them(write_xray):
    pixels = np.array([[0, 10], [48, 255]], np.uint8)
    study = read(write_xray(pixels, change=lambda ds: ds.add_new(Tag("PixelPaddingValue"), "US", 63536)))
    np.testing.assert_array_equal(study.image[0, :, :, 0], pixels)


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize(("representation", "value"), [("SS", -2000), ("US", 63536)])
def test_a_multi_frame_file_is_shown_like_single_images(tmp_path, write_series, photometric, representation, value):
    def changed(ds, groups):
        pixels = ds.pixel_array.copy()
        pixels[:, :2] = -2000
        ds.PixelData, ds.PhotometricInterpretation = pixels.tobytes(), photometric
        ds.PresentationLUTShape = "INVERSE" if photometric == "MONOCHROME1" else "IDENTITY"
        ds.add_new(Tag("PixelPaddingValue"), representation, value)
        del ds.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
        for frame in groups:
            height = float(frame.PlanePositionSequence[0].ImagePositionPatient[2])
            rescale = Dataset()
            rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = height, -1000, "US"
            frame.PixelValueTransformationSequence = DicomSequence([rescale])

    image = read(enhanced_file(tmp_path / "enhanced.dcm", write_series, change=changed)).image[0]
    real = phantom()[:, 2:] * (12.25 + 2.5 * np.arange(5)) - 1000
    expected = real.max() + real.min() - real if photometric == "MONOCHROME1" else real
    np.testing.assert_array_equal(image[:, 2:], expected)
    np.testing.assert_array_equal(image[:, :2], real.min())


def test_padding_of_an_inverted_xray_is_dark(write_xray):
    def padded(ds):
        ds.PhotometricInterpretation, ds.PixelPaddingValue = "MONOCHROME1", 4000
        ds["PixelPaddingValue"].VR = "US"

    study = read(write_xray(np.array([[4000, 10], [200, 110]], np.uint16), change=padded))
    np.testing.assert_array_equal(study.image[0, :, :, 0], [[10, 200], [10, 100]])


def test_packed_bits(write_xray):
    def packed(ds):
        ds.BitsAllocated = ds.BitsStored = 1
        ds.HighBit, ds.Rows, ds.Columns = 0, 2, 8
        ds.PixelData = bytes([0b10000001, 0b00000111])

    study = read(write_xray(np.zeros((2, 8), np.uint8), change=packed))
    np.testing.assert_array_equal(study.image[0, :, :, 0], [[1, 0, 0, 0, 0, 0, 0, 1], [1, 1, 1, 0, 0, 0, 0, 0]])


def test_a_palette_becomes_8_bit_colours(write_xray):
    def coloured(ds):
        ds.PhotometricInterpretation = "PALETTE COLOR"
        for name, data in (("Red", [0, 65280]), ("Green", [256, 512]), ("Blue", [65535, 0])):
            setattr(ds, f"{name}PaletteColorLookupTableDescriptor", [2, 0, 16])
            ds[f"{name}PaletteColorLookupTableDescriptor"].VR = "US"
            setattr(ds, f"{name}PaletteColorLookupTableData", np.array(data, "<u2").tobytes())

    study = read(write_xray(np.array([[0, 1]], np.uint8), change=coloured))
    np.testing.assert_array_equal(study.image[:, 0, :, 0], [[0, 255], [1, 2], [255, 0]])


@pytest.mark.parametrize(
    ("tag", "value"), [("Rows", 65535), ("NumberOfFrames", 10**9), ("SamplesPerPixel", 60000)], ids=str
)
def test_an_absurd_size_is_refused_before_memory_is_taken(write_xray, tag, value):
    path = write_xray(np.eye(4, dtype=np.uint16), change=lambda ds: setattr(ds, tag, value))
    ds = dcmread(path)
    ds.Columns = 65535
    ds.save_as(path)
    with pytest.raises(ReadError):
        read(path)


def test_a_deflated_bomb_is_refused(tmp_path, write_xray, monkeypatch):
    from dataclasses import replace

    from cdal_sdk.readers.limits import LIMITS

    monkeypatch.setattr(dicom_file, "LIMITS", replace(LIMITS, unpacked_bytes=100_000))
    path = write_xray(np.zeros((500, 500), np.uint16))
    ds = dcmread(path)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True)
    assert path.stat().st_size < 5000
    with pytest.raises(ReadError, match="unpacks to more than 100000 bytes"):
        read(path)


@pytest.mark.parametrize("broken", [False, True])
def test_reading_in_threads_leaves_the_validation_of_pydicom_as_it_was(write_series, monkeypatch, broken):
    """The thread that begins first ends first, while the other one still reads."""
    path = write_series().files[0]
    first_begun, second_begun, first_ended = threading.Event(), threading.Event(), threading.Event()
    during, before = [], (config.settings.reading_validation_mode, config.settings.writing_validation_mode)

    def slowly(*arguments, **options):
        begun, other = (second_begun, first_ended) if first_begun.is_set() else (first_begun, second_begun)
        begun.set()
        assert other.wait(10)
        during.append(config.settings.reading_validation_mode)
        if broken:
            raise OSError

    def read_it():
        with suppress(OSError):
            open_dicom(path)

    monkeypatch.setattr(dicom_file, "dcmread", slowly)
    first, second = threading.Thread(target=read_it), threading.Thread(target=read_it)
    first.start()
    assert first_begun.wait(10)
    second.start()
    first.join()
    first_ended.set()
    second.join()
    assert during == [config.IGNORE, config.IGNORE]
    assert (config.settings.reading_validation_mode, config.settings.writing_validation_mode) == before
