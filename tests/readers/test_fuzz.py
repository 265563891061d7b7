"""Damaged files of every kind: an error of ours or an image, soon, and without taking much memory.

Sixty examples a kind by default; for the long run set CDAL_FUZZ=1000.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from cdal_sdk.errors import CdalError
from cdal_sdk.readers import IsolatedReader, discover

EXAMPLES = int(os.environ.get("CDAL_FUZZ", "60"))
LIMIT_SECONDS = 30
MEMORY_KB = 4_000_000
PACKAGED = Path(pydicom.__file__).parent / "data" / "test_files"
DICOM = (
    "MR_small.dcm", "MR_small_implicit.dcm", "MR_small_expb.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm", "JPEG2000.dcm", "SC_rgb_jpeg_dcmtk.dcm", "image_dfl.dcm", "SC_rgb_small_odd.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
)  # fmt: skip


def nifti(suffix: str) -> bytes:
    voxels = np.random.default_rng(0).integers(0, 999, (7, 6, 5)).astype(np.int16)
    raw = nibabel.Nifti1Image(voxels, np.diag([1, 2, 3, 1.0])).to_bytes()
    if suffix == ".nii":
        return raw
    import gzip

    return gzip.compress(raw)


def picture(suffix: str) -> bytes:
    values = np.random.default_rng(0).integers(0, 255, (12, 14, 3)).astype(np.uint8)
    stream = BytesIO()
    Image.fromarray(values).save(stream, format={".png": "PNG", ".jpg": "JPEG", ".tif": "TIFF"}[suffix])
    return stream.getvalue()


SOURCES = {
    "dicom": [(PACKAGED / name).read_bytes() for name in DICOM],
    "nifti": [nifti(".nii"), nifti(".nii.gz")],
    "image": [picture(suffix) for suffix in (".png", ".jpg", ".tif")],
}
SUFFIX = {"dicom": ".dcm", "nifti": ".nii.gz", "image": ".png"}


@st.composite
def damaged(draw: st.DrawFn, kind: str) -> bytes:
    """A file with some bytes changed, and perhaps cut, doubled or stretched."""
    raw = bytearray(draw(st.sampled_from(SOURCES[kind])))
    where = st.one_of(st.integers(0, min(len(raw), 1200) - 1), st.integers(0, len(raw) - 1))
    for _ in range(draw(st.integers(0, 3))):
        position = draw(where)
        raw[position : position + 4] = draw(
            st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff", b"\x7f", b"\1"])
        )
    for _ in range(draw(st.integers(0, 3))):
        raw[draw(where) % len(raw)] = draw(st.integers(0, 255))
    if draw(st.integers(0, 2)) == 0:
        start = draw(where) % len(raw)
        stop = min(len(raw), start + draw(st.integers(1, 400)))
        raw[start:stop] = raw[start:stop] * draw(st.integers(0, 3))
    if draw(st.integers(0, 3)) == 0:
        del raw[draw(where) % (len(raw) + 1) :]
    return bytes(raw)


@pytest.fixture(scope="module")
def reader() -> Iterator[IsolatedReader]:
    """Reads under a limit of memory."""
    if shutil.which("bash") is None:
        pytest.skip("there is no bash to limit memory with")
    limited = f"ulimit -v {MEMORY_KB}; exec {sys.executable} -m cdal_sdk.readers.worker"
    reader = IsolatedReader(LIMIT_SECONDS, ("bash", "-c", limited))
    yield reader
    reader.close()


@pytest.mark.parametrize("kind", SOURCES)
def test_damage_is_an_error_of_ours_or_an_image(kind, reader, tmp_path):
    path = tmp_path / f"x{SUFFIX[kind]}"
    outcomes = {"read": 0, "refused": 0}

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(damaged(kind))
    def feed(raw: bytes) -> None:
        path.write_bytes(raw)
        start = time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                cases = discover([path])
            for files in cases:
                study = reader.read(files)
                assert np.isfinite(study.image).all()
                outcomes["read"] += 1
        except CdalError as error:
            assert "took longer" not in str(error)
            outcomes["refused"] += 1
        assert time.monotonic() - start < LIMIT_SECONDS

    feed()
    assert min(outcomes.values()) > EXAMPLES // 30, outcomes  # else the damage tests nothing
