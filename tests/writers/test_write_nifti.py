"""NIfTI out: on the source's grid, with the source's codes."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from synthetic_dicom import oblique

from cdal_sdk.errors import OutputError
from cdal_sdk.readers import discover, read_study
from cdal_sdk.study import Source, Study
from cdal_sdk.writers import nifti, write_nifti, write_nifti_maps

AFFINE = np.array([[-0.8, 0.1, 0, 30], [0, 0.9, -0.4, -20], [0.1, 0.2, 2.5, 7], [0, 0, 0, 1.0]])


def read(path: Path) -> Study:
    (case,) = discover([path])
    return read_study(case)


def some_mask(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 3, shape).astype(np.uint8)


def write_source(path: Path, shape: tuple[int, ...] = (5, 6, 7), kind: type = nibabel.Nifti1Image) -> Path:
    image = kind(np.random.default_rng(0).normal(size=shape) * 100, AFFINE)
    image.set_data_dtype(np.int16)
    image.set_sform(AFFINE, code=4)
    image.set_qform(np.diag([2.0, 3.0, 4.0, 1.0]), code=2)  # another place than the sform, as some tools leave it
    image.header.set_xyzt_units("mm", "msec")
    image.header["descrip"] = b"Unmistakable^Name"
    image.header["cal_max"] = 1234
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"Unmistakable^Name"))
    image.to_filename(path)
    return path


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("shape", [(5, 6, 7), (5, 6), (5, 6, 7, 1)], ids=str)
@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_geometry_codes_and_units_are_those_of_the_source(tmp_path, name, shape, kind):
    source = nibabel.load(write_source(tmp_path / name, shape, kind))
    study = read(tmp_path / name)
    mask = some_mask(study.grid)
    write_nifti(mask, study, tmp_path / "out" / "mask.nii.gz")
    written = nibabel.load(tmp_path / "out" / "mask.nii.gz")
    assert isinstance(written, kind)
    assert written.shape == source.shape
    for form in ("sform", "qform"):
        ours, our_code = getattr(written, f"get_{form}")(coded=True)
        theirs, their_code = getattr(source, f"get_{form}")(coded=True)
        np.testing.assert_array_equal(ours, theirs)
        assert our_code == their_code
    assert written.header.get_xyzt_units() == ("mm", "msec")
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(written.dataobj).reshape(mask.shape), mask)


def test_no_text_and_no_display_window_of_the_source(tmp_path):
    study = read(write_source(tmp_path / "scan.nii"))
    write_nifti(some_mask(study.grid), study, tmp_path / "mask.nii")
    assert b"Unmistakable" not in (tmp_path / "mask.nii").read_bytes()
    assert nibabel.load(tmp_path / "mask.nii").header["cal_max"] == 0


def test_a_dicom_source_gives_its_affine_in_ras(tmp_path, write_series):
    series = write_series(orientation=oblique(turn=20, tilt=-35))
    study = read(series.folder)
    write_nifti(some_mask(study.grid), study, tmp_path / "mask.nii.gz")
    written = nibabel.load(tmp_path / "mask.nii.gz")
    np.testing.assert_allclose(written.affine, series.affine, atol=1e-4)
    assert (int(written.header["sform_code"]), int(written.header["qform_code"])) == (1, 1)
    assert written.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(written.get_qform(), series.affine, atol=1e-3)


def test_a_planar_picture_keeps_its_first_row_on_top(tmp_path):
    study = Study("x", np.zeros((1, 3, 4, 1), np.float32), None, Source("array"), pixel_spacing=(0.5, 0.7))
    mask = some_mask((3, 4, 1))
    write_nifti(mask, study, tmp_path / "mask.nii")
    written = nibabel.load(tmp_path / "mask.nii")
    np.testing.assert_array_equal(np.asarray(written.dataobj)[..., 0], mask[..., 0].T)
    assert written.header.get_zooms()[:2] == pytest.approx((0.7, 0.5))
    assert nibabel.aff2axcodes(written.affine) == ("L", "P", "S")


def test_maps_have_the_label_last(tmp_path):
    study = read(write_source(tmp_path / "scan.nii"))
    maps = np.random.default_rng(1).random((2, *study.grid), dtype=np.float32)
    write_nifti_maps(maps, study, tmp_path / "mean.nii.gz")
    written = nibabel.load(tmp_path / "mean.nii.gz")
    assert written.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asarray(written.dataobj), np.moveaxis(maps, 0, -1))


def test_another_shape_is_refused(tmp_path):
    study = read(write_source(tmp_path / "scan.nii"))
    with pytest.raises(OutputError, match="shape"):
        write_nifti(np.zeros((2, 2, 2), np.uint8), study, tmp_path / "mask.nii")


def test_what_does_not_read_back_is_not_kept(tmp_path, monkeypatch):
    study = read(write_source(tmp_path / "scan.nii"))
    honest = nibabel.save

    def careless(image, path):
        honest(type(image)(np.asarray(image.dataobj)[::-1], image.affine, image.header), path)

    monkeypatch.setattr(nifti.nibabel, "save", careless)
    with pytest.raises(OutputError, match="does not read back"):
        write_nifti(some_mask(study.grid), study, tmp_path / "mask.nii")
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii"]


def test_a_real_volume(tmp_path, shared_data):
    path = shared_data / "Task04_Hippocampus" / "imagesTr" / "hippocampus_003.nii.gz"
    study, source = read(path), nibabel.load(path)
    write_nifti(some_mask(study.grid), study, tmp_path / "mask.nii.gz")
    written = nibabel.load(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(written.affine, source.affine)
    assert written.header["sform_code"] == source.header["sform_code"]
