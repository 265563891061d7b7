"""NIfTI in."""

from __future__ import annotations

import gzip
from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
import pytest

from cdal_sdk.errors import ReadError
from cdal_sdk.readers import discover, read_study
from cdal_sdk.readers.mask import read_mask
from cdal_sdk.study import Study
from cdal_sdk.writers import write_nifti

AFFINE = np.array([[-0.8, 0.1, 0, 30], [0, 0.9, -0.4, -20], [0.1, 0.2, 2.5, 7], [0, 0, 0, 1.0]])


def read(path: Path) -> Study:
    (case,) = discover([path])
    return read_study(case)


def refusal(path: Path) -> str:
    with pytest.raises(ReadError) as caught:
        read(path)
    assert path.name in str(caught.value)
    return str(caught.value)


def noise(shape: tuple[int, ...] = (5, 6, 7)) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_voxels_and_affine(tmp_path, name, kind):
    voxels = noise()
    kind(voxels, AFFINE).to_filename(tmp_path / name)
    study = read(tmp_path / name)
    np.testing.assert_array_equal(study.image[0], voxels)
    assert study.affine is not None
    np.testing.assert_allclose(study.affine, AFFINE, atol=1e-5)
    assert study.affine.dtype == np.float64
    assert (study.case, study.source.kind) == ("scan", "nifti")


def test_big_endian(tmp_path):
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    nibabel.Nifti1Image(voxels, AFFINE, header).to_filename(tmp_path / "big.nii")
    np.testing.assert_array_equal(read(tmp_path / "big.nii").image[0], voxels)


def test_scaled_integers(tmp_path):
    stored = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = nibabel.Nifti1Image(stored, AFFINE)
    image.header.set_slope_inter(0.5, -3)
    image.to_filename(tmp_path / "scaled.nii")
    np.testing.assert_allclose(read(tmp_path / "scaled.nii").image[0], stored * 0.5 - 3, atol=1e-6)


@pytest.mark.parametrize(("unit", "millimetres"), [("meter", 1000), ("micron", 0.001), ("mm", 1), ("unknown", 1)])
def test_the_unit_of_length_counts_and_the_mask_keeps_it(tmp_path, unit, millimetres):
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    image = nibabel.Nifti1Image(np.ones((3, 4, 5), np.int16), np.diag([*np.diag(affine)[:3] / millimetres, 1]))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "scan.nii")
    study = read(tmp_path / "scan.nii")
    np.testing.assert_allclose(study.affine, affine, rtol=1e-6)
    write_nifti(np.ones((3, 4, 5), np.uint8), study, tmp_path / "mask.nii")
    assert nibabel.load(tmp_path / "mask.nii").header.get_xyzt_units()[0] == unit
    np.testing.assert_allclose(nibabel.load(tmp_path / "mask.nii").affine, image.affine, rtol=1e-6)
    np.testing.assert_allclose(read_mask(tmp_path / "mask.nii", [1], planar=False).affine, affine, rtol=1e-6)


def test_qform_counts_where_there_is_no_sform(tmp_path):
    image = nibabel.Nifti1Image(noise(), None)
    image.set_sform(np.diag([9, 9, 9, 1]), code=0)
    image.set_qform(np.diag([-2, 3, 4, 1]), code=1)
    image.to_filename(tmp_path / "q.nii")
    study = read(tmp_path / "q.nii")
    assert study.affine is not None
    np.testing.assert_allclose(study.affine, np.diag([-2, 3, 4, 1]))


@pytest.mark.parametrize("codes", [(0, 1), (0, 0)], ids=["qform", "neither form"])
@pytest.mark.parametrize("axis", [1, 3])
@pytest.mark.parametrize("spacing", [0, np.nan, np.inf])
def test_a_spacing_that_is_not_told_is_not_invented(tmp_path, codes, axis, spacing):
    path = tmp_path / "scan.nii"
    nibabel.Nifti1Image(noise(), AFFINE).to_filename(path)
    raw = path.read_bytes()
    header = nibabel.Nifti1Header.from_fileobj(BytesIO(raw))
    header["pixdim"][axis] = spacing
    path.write_bytes(bytes(header.binaryblock) + raw[348:])
    assert read(path).spacing == pytest.approx(np.linalg.norm(AFFINE[:3, :3], axis=0))  # the sform tells it
    header["sform_code"], header["qform_code"] = codes
    path.write_bytes(bytes(header.binaryblock) + raw[348:])
    assert "does not tell its spacing" in refusal(path)


def test_a_spacing_that_sform_and_pixdim_contradict_is_told(tmp_path):
    image = nibabel.Nifti1Image(noise(), np.diag([2.0, 2.0, 3.0, 1.0]))
    image.set_qform(None, code=0)
    image.header["pixdim"][3] = 3.02
    image.to_filename(tmp_path / "scan.nii")
    assert read(tmp_path / "scan.nii").doubts == ()
    image.header["pixdim"][3] = 1
    image.to_filename(tmp_path / "scan.nii")
    told = ("its sform and pixdim tell another spacing, so that sizes may be wrong",)
    assert read(tmp_path / "scan.nii").doubts == told


def test_the_sign_of_a_spacing_once_said_where_left_is(tmp_path):
    path = tmp_path / "scan.nii"
    nibabel.Nifti1Image(noise(), np.diag([2, 2, 3, 1])).to_filename(path)
    raw = path.read_bytes()
    header = nibabel.Nifti1Header.from_fileobj(BytesIO(raw))
    header["sform_code"], header["pixdim"][1] = 0, -2
    path.write_bytes(bytes(header.binaryblock) + raw[348:])
    assert read(path).spacing == (2, 2, 3)


def test_a_picture_needs_no_spacing_between_slices(tmp_path):
    path = tmp_path / "flat.nii"
    nibabel.Nifti1Image(noise((5, 6)), AFFINE).to_filename(path)
    raw = path.read_bytes()
    header = nibabel.Nifti1Header.from_fileobj(BytesIO(raw))
    header["sform_code"], header["pixdim"][3] = 0, 0
    path.write_bytes(bytes(header.binaryblock) + raw[348:])
    assert read(path).image.shape == (1, 5, 6, 1)


def test_the_name_need_not_say_gzip(tmp_path):
    nibabel.Nifti1Image(noise(), AFFINE).to_filename(tmp_path / "scan.nii")
    packed = tmp_path / "packed_scan"
    packed.write_bytes(gzip.compress((tmp_path / "scan.nii").read_bytes()))
    np.testing.assert_array_equal(read(packed).image[0], noise())


def test_two_dimensions_are_one_slice_and_a_single_volume_in_four_is_three(tmp_path):
    nibabel.Nifti1Image(noise((5, 6)), AFFINE).to_filename(tmp_path / "flat.nii")
    nibabel.Nifti1Image(noise((5, 6, 7, 1)), AFFINE).to_filename(tmp_path / "single.nii")
    assert read(tmp_path / "flat.nii").image.shape == (1, 5, 6, 1)
    assert read(tmp_path / "single.nii").image.shape == (1, 5, 6, 7)


def test_several_volumes_are_refused_with_the_shape(tmp_path):
    nibabel.Nifti1Image(noise((5, 6, 7, 3)), AFFINE).to_filename(tmp_path / "fmri.nii.gz")
    assert "(5, 6, 7, 3)" in refusal(tmp_path / "fmri.nii.gz")


@pytest.mark.parametrize("name", ["cut.nii", "cut.nii.gz"])
@pytest.mark.parametrize("kept", [0.5, 0.99])
def test_truncated(tmp_path, name, kept):
    path = tmp_path / name
    nibabel.Nifti1Image(noise((20, 20, 20)), AFFINE).to_filename(path)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * kept)])
    assert "truncated or damaged" in refusal(path)


def test_a_flipped_bit_in_a_compressed_file(tmp_path):
    path = tmp_path / "flipped.nii.gz"
    nibabel.Nifti1Image(noise((20, 20, 20)), AFFINE).to_filename(path)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0x10
    path.write_bytes(raw)
    assert "truncated or damaged" in refusal(path)


def test_voxels_that_are_no_numbers(tmp_path):
    voxels = noise()
    voxels[1, 2, 3] = np.nan
    nibabel.Nifti1Image(voxels, AFFINE).to_filename(tmp_path / "nan.nii")
    assert "finite" in refusal(tmp_path / "nan.nii")


@pytest.mark.parametrize("entry", [0.0, np.nan])
def test_an_impossible_affine(tmp_path, entry):
    image = nibabel.Nifti1Image(noise(), None)
    affine = np.diag([1, entry, 1, 1.0])
    image.header.set_sform(affine, code=1)
    image.to_filename(tmp_path / "flat.nii")
    assert "affine" in refusal(tmp_path / "flat.nii")


def test_colours_are_refused(tmp_path):
    colours = np.zeros((3, 4, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.Nifti1Image(colours, AFFINE).to_filename(tmp_path / "rgb.nii")
    assert "colours" in refusal(tmp_path / "rgb.nii")


def test_a_real_volume(shared_data):
    path = shared_data / "Task04_Hippocampus" / "imagesTr" / "hippocampus_003.nii.gz"
    study = read(path)
    np.testing.assert_array_equal(study.image[0], nibabel.load(path).get_fdata(dtype=np.float32))
    assert study.case == "hippocampus_003"


def test_one_of_several_volumes_can_be_chosen_and_its_mask_has_three_axes(tmp_path):
    from cdal_sdk.writers import write_nifti

    voxels = noise((5, 6, 7, 3))
    nibabel.Nifti1Image(voxels, AFFINE).to_filename(tmp_path / "fmri.nii.gz")
    (case,) = discover([tmp_path / "fmri.nii.gz"], volume=1)
    study = read_study(case)
    np.testing.assert_array_equal(study.image[0], voxels[..., 1])
    write_nifti(np.ones(study.grid, np.uint8), study, tmp_path / "mask.nii.gz")
    assert nibabel.load(tmp_path / "mask.nii.gz").shape == (5, 6, 7)
    (case,) = discover([tmp_path / "fmri.nii.gz"], volume=3)
    with pytest.raises(ReadError, match="there is no volume 3, it has 3"):
        read_study(case)


@pytest.mark.parametrize(
    ("field", "value"),
    [("vox_offset", 1e9), ("vox_offset", float("nan")), ("dim", [3, 32767, 32767, 32767, 1, 1, 1, 1])],
)
def test_a_header_that_claims_absurd_sizes_takes_no_memory(tmp_path, field, value):
    path = tmp_path / "huge.nii.gz"
    raw = bytearray(nibabel.Nifti1Image(noise(), AFFINE).to_bytes())
    header = nibabel.Nifti1Header.from_fileobj(BytesIO(raw))
    header[field] = value
    path.write_bytes(gzip.compress(bytes(header.binaryblock) + bytes(raw[348:])))
    assert refusal(path)


def test_a_file_that_does_not_say_how_it_lies_in_the_patient_is_to_be_reviewed(tmp_path):
    image = nibabel.Nifti1Image(noise(), np.diag([1, 2, 3, 1]))
    image.to_filename(tmp_path / "told.nii")
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    image.to_filename(tmp_path / "untold.nii")
    assert read(tmp_path / "told.nii").doubts == ()
    (doubt,) = read(tmp_path / "untold.nii").doubts
    assert "how it lies in the patient" in doubt


@pytest.mark.parametrize(("degrees", "doubtful"), [(0, False), (3, False), (15, True)])
def test_axes_that_are_not_at_right_angles_are_to_be_reviewed(tmp_path, degrees, doubtful):
    affine = np.diag([-1.0, 2.0, 3.0, 1.0])
    affine[1, 2] = 3 * np.tan(np.radians(degrees))
    image = nibabel.Nifti1Image(noise(), affine)
    image.set_qform(None, code=0)  # which cannot hold a shear
    image.to_filename(tmp_path / "tilted.nii")
    assert read(tmp_path / "tilted.nii").doubts == (
        ("its axes miss the right angle by 15 degrees, as with a gantry tilt",) if doubtful else ()
    )


@pytest.mark.parametrize(
    ("qform", "said"),
    [
        (np.diag([-2.0, 2, 3, 1]), None),
        (np.array([[-2.0, 0, 0, 1.5], [0, 2, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]]), None),  # less than a voxel
        (np.diag([2.0, 2, 3, 1]), "its sform and qform mirror each other"),
        (np.array([[-2.0, 0, 0, 9], [0, 2, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]]), "place it differently"),
        (np.diag([2.0, -2, 3, 1]), "place it differently"),
    ],
)
@pytest.mark.parametrize("shape", [(5, 6, 7), (5, 6)])
def test_two_affines_that_disagree_are_to_be_reviewed(tmp_path, shape, qform, said):
    image = nibabel.Nifti1Image(noise(shape), None)
    image.set_sform(np.diag([-2.0, 2, 3, 1]), code=1)
    for code in (1, 0):  # where the code is 0, there is no qform
        image.set_qform(qform, code=code)
        image.to_filename(tmp_path / "two.nii")
        doubts = read(tmp_path / "two.nii").doubts
        assert [said in doubt for doubt in doubts] == ([True] if said and code else [])


def test_a_template_s_place_differs_from_the_scanner_s_but_not_in_its_sides(tmp_path):
    image = nibabel.Nifti1Image(noise(), None)
    image.set_sform(np.diag([-2.0, 2, 3, 1]), code=4)
    for qform, doubts in ((np.diag([-2.0, 2, 3, 1]) + np.eye(4, k=3) * 30, 0), (np.diag([2.0, -2, 3, 1]), 1)):
        image.set_qform(qform, code=1)
        image.to_filename(tmp_path / "two.nii")
        assert len(read(tmp_path / "two.nii").doubts) == doubts


@pytest.mark.parametrize(("field", "value"), [("quatern_b", 5), ("qoffset_x", np.nan)])
def test_a_damaged_qform_beside_a_sform_is_to_be_reviewed(tmp_path, field, value):
    path = tmp_path / "scan.nii"
    nibabel.Nifti1Image(noise(), np.diag([1, 2, 3, 1])).to_filename(path)
    raw = path.read_bytes()
    header = nibabel.Nifti1Header.from_fileobj(BytesIO(raw))
    header["qform_code"], header[field] = 1, value
    path.write_bytes(bytes(header.binaryblock) + raw[348:])
    (doubt,) = read(path).doubts
    assert doubt == "its qform is damaged, so that its sform may be, too"
