"""The synthetic example: one image in two formats, and a plausible hippocampus."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pytest
from pydicom import dcmread
from scipy.ndimage import label as connected

from cdal_sdk.example import Example, write_example
from cdal_sdk.readers import discover, read_study
from cdal_sdk.study import Study


@pytest.fixture(scope="module")
def example(tmp_path_factory) -> Example:
    return write_example(tmp_path_factory.mktemp("example"))


def read(folder: Path) -> Study:
    (case,) = discover([folder])
    return read_study(case)


def in_ras(volume: np.ndarray) -> np.ndarray:
    """The example's grid, columns to the left and rows to the back, turned to right and front."""
    return volume[::-1, ::-1]


def test_dicom_and_nifti_are_the_same_image_in_the_same_place(example):
    dicom, nifti = read(example.dicom), read(example.nifti)
    np.testing.assert_array_equal(dicom.image, nifti.image)
    np.testing.assert_allclose(dicom.affine, nifti.affine, atol=1e-5)
    np.testing.assert_allclose(nibabel.load(example.label).affine, nifti.affine, atol=1e-5)
    assert dicom.spacing == pytest.approx((1, 1, 1))
    assert dicom.modality == "MR"


def test_file_names_do_not_follow_the_slices(example):
    heights = [float(dcmread(path).ImagePositionPatient[2]) for path in sorted(example.dicom.iterdir())]
    assert len(heights) == 36
    assert heights != sorted(heights)


def test_the_label_is_no_input_beside_the_image(example):
    assert [case.case for case in discover([example.nifti])] == ["example"]
    assert not example.label.is_relative_to(example.nifti)


def test_the_hippocampus_is_plausible(example):
    mask = in_ras(np.asarray(nibabel.load(example.label).dataobj))
    for value in (1, 2):
        assert 1400 < (mask == value).sum() < 2100
        assert connected(mask == value)[1] == 1
    (_, front, low), (_, back, high) = (np.argwhere(mask == value).mean(axis=0) for value in (1, 2))
    assert front > back + 10  # the head in front of the tail
    assert high > low + 4  # and below it
    assert np.argwhere(mask == 1)[:, 1].min() == np.argwhere(mask == 2)[:, 1].max() + 1  # a coronal plane between


def test_contrast_resembles_real_images(example):
    mask = in_ras(np.asarray(nibabel.load(example.label).dataobj))
    image = in_ras(read(example.nifti).image[0])
    standard = (image - image.mean()) / image.std()
    assert -0.9 < standard[mask > 0].mean() < -0.3  # as in 195 real volumes: -0.56 on average
    assert np.percentile(standard, 5) < -1.5  # fluid
    assert np.percentile(standard, 95) > 1.0  # white matter


def test_it_is_the_same_every_time(example, tmp_path):
    def digests(folder: Path) -> dict[str, str]:
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.dcm")}

    again = write_example(tmp_path)
    assert digests(again.dicom) == digests(example.dicom)
    np.testing.assert_array_equal(nibabel.load(again.label).dataobj, nibabel.load(example.label).dataobj)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian: dicom3tools) is absent")
def test_dciodvfy_finds_no_error(example):
    path = next(example.dicom.iterdir())
    done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)  # noqa: S603, S607
    assert [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")] == []
