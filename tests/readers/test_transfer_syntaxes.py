"""Every transfer syntax that can be decoded, on a file that somebody else encoded."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import dcmread, uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from synthetic_dicom import mr_header

from cdal_sdk.errors import ReadError
from cdal_sdk.readers.dicom import read_dicom

PACKAGED = Path(pydicom.__file__).parent / "data" / "test_files"
# Nine columns and seven rows, 0 to 3100 in steps of 50, encoded by OpenJPH 0.26.
HTJ2K = base64.b64decode(
    "/0//UQApQAAAAAAJAAAABwAAAAAAAAAAAAAACQAAAAcAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQkJCQkJCQkJCQ"
    "iIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAADsAAf+TwAAmhfYFB3QAAMAAEoAeAgd0AKAACcDQD/0AwjQAoAAKoAY32OAAGMB3VgAA"
    "/9k="
)

FILES = [  # file, the file with the same pixels uncompressed (None: there is none), transfer syntax, largest difference
    ("MR_small_implicit.dcm", "MR_small.dcm", uid.ImplicitVRLittleEndian, 0),
    ("MR_small_bigendian.dcm", "MR_small.dcm", uid.ExplicitVRBigEndian, 0),
    ("image_dfl.dcm", None, uid.DeflatedExplicitVRLittleEndian, 0),
    ("MR_small_RLE.dcm", "MR_small.dcm", uid.RLELossless, 0),
    ("SC_rgb_jpeg_dcmtk.dcm", None, uid.JPEGBaseline8Bit, 0),
    ("JPEG-LL.dcm", None, uid.JPEGLosslessSV1, 0),
    ("SC_rgb_gdcm_KY.dcm", "SC_rgb.dcm", uid.JPEG2000, 0),
    ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm", uid.JPEGLSLossless, 0),
    ("JPEGLSNearLossless_08.dcm", None, uid.JPEGLSNearLossless, 0),
    ("MR_small_jp2klossless.dcm", "MR_small.dcm", uid.JPEG2000Lossless, 0),
    ("693_J2KI.dcm", "693_UNCI.dcm", uid.JPEG2000, 0),
]


def find(name: str) -> Path:
    if (PACKAGED / name).exists():
        return PACKAGED / name
    data = pytest.importorskip("data_store", reason="the package pydicom-data is not installed")
    return Path(data.__file__).parent / "data" / name


def image(path: Path) -> np.ndarray:
    return read_dicom("case", [path]).image


@pytest.mark.parametrize(("name", "reference", "syntax", "difference"), FILES, ids=[row[0] for row in FILES])
def test_encoded_elsewhere(name, reference, syntax, difference):
    path = find(name)
    assert dcmread(path, force=True, stop_before_pixels=True).file_meta.TransferSyntaxUID == syntax
    pixels = image(path)
    assert np.ptp(pixels) > 50
    if reference is not None:
        np.testing.assert_allclose(pixels, image(find(reference)), atol=difference)


def test_a_lossy_colour_picture_has_the_colours_of_its_source():
    """A chart of bars, the first of them pure red."""
    for name in ("SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_dcmtk_+eb+cr.dcm", "SC_rgb_jpeg_lossy_gdcm.dcm", "SC_rgb_rle.dcm"):
        red, green, blue = image(find(name))[:, 5, 50, 0]
        assert red > 240, name
        assert max(green, blue) < 15, name


def high_throughput(syntax: uid.UID, stream: bytes = HTJ2K) -> Dataset:
    ds = mr_header("1.2.3", "1.2.4", np.zeros((7, 9), np.uint16))
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate([stream])
    ds["PixelData"].VR = "OB"
    ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing = [0, 0, 0], [1, 0, 0, 0, 1, 0], [1, 1]
    return ds


@pytest.mark.parametrize("syntax", [uid.HTJ2KLossless, uid.HTJ2K])
def test_high_throughput_jpeg_2000(tmp_path, syntax):
    high_throughput(syntax).save_as(tmp_path / "x.dcm", enforce_file_format=True)
    expected = np.arange(63, dtype=np.float32).reshape(7, 9) * 50
    np.testing.assert_array_equal(image(tmp_path / "x.dcm")[0, :, :, 0].T, expected)


def test_twelve_bit_jpeg_says_which_plug_in_there_is():
    with pytest.raises(ReadError, match="pylibjpeg-libjpeg"):
        image(find("JPGExtended.dcm"))


@pytest.mark.parametrize(
    "stream",
    [HTJ2K[:8] + b"\0\0\xff\xff\0\0\xff\xff" + HTJ2K[16:], b"\xff\xd8\xff\xc3\0\x0b\x10\xff\xff\xff\xff\1\1\x11\0"],
    ids=["JPEG 2000", "JPEG"],
)
def test_a_stream_larger_than_its_header_says_is_not_decoded(tmp_path, stream):
    syntax = uid.JPEG2000 if stream[1] == 0x4F else uid.JPEGLossless
    high_throughput(syntax, stream).save_as(tmp_path / "x.dcm", enforce_file_format=True)
    with pytest.raises(ReadError, match="65535 x 65535, the header says 7 x 9"):
        image(tmp_path / "x.dcm")
