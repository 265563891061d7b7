"""Unmistakable values in every text tag, file comment and folder name: nothing that a run leaves behind has them."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from pydicom import dcmread
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset

from tests.conftest import WriteSeries

PLANTED = "Zyxwv"
BIRTH_DATE = "19010203"
_TEXT = {"PN", "LO", "SH", "ST", "LT", "UT", "UC", "AE"}
# What belongs to the patient and the study, and therefore stands in a DICOM segmentation as in its source.
_INHERITED = {
    "PatientName", "PatientID", "PatientBirthDate", "StudyDate", "StudyID", "AccessionNumber", "ReferringPhysicianName",
    "IssuerOfPatientID", "DeidentificationMethod", "StudyDescription", "PositionReferenceIndicator",
}  # fmt: skip


def plant(index: int, ds: Dataset) -> None:
    for tag, (vr, multiplicity, _, retired, keyword) in DicomDictionary.items():
        group = tag >> 16
        if vr in _TEXT and 0x0008 <= group <= 0x4FFF and not retired and multiplicity[0] == "1":
            setattr(ds, keyword, f"{PLANTED}{tag:08x}"[:16])
        elif vr == "DA" and 0x0008 <= group <= 0x4FFF and not retired:
            setattr(ds, keyword, BIRTH_DATE)
    ds.SpecificCharacterSet = "ISO_IR 192"
    block = ds.private_block(0x0011, f"{PLANTED} private", create=True)
    block.add_new(1, "LO", PLANTED)


@pytest.fixture
def inputs(tmp_path: Path, write_series: WriteSeries) -> Path:
    """A good series, three that fail in different ways, a volume and a picture, in folders named after a patient."""
    folder = f"{PLANTED}^in"
    write_series(f"{folder}/good", change=plant)
    write_series(f"{folder}/gap", change=plant, skip=[2])
    cut = write_series(f"{folder}/cut", change=plant)
    cut.files[1].write_bytes(cut.files[1].read_bytes()[:-40])

    def odd(index: int, ds: Dataset) -> None:
        plant(index, ds)
        ds.Modality = PLANTED.upper()

    write_series(f"{folder}/odd", change=odd)
    image = nibabel.Nifti1Image(np.random.default_rng(0).random((11, 13, 7)).astype(np.float32), np.eye(4))
    image.header["descrip"] = image.header["aux_file"] = PLANTED.encode()
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", PLANTED.encode()))
    image.to_filename(tmp_path / folder / "volume.nii.gz")
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Author", PLANTED)
    Image.new("L", (9, 9)).save(tmp_path / folder / "picture.png", pnginfo=notes)
    (tmp_path / folder / "text.dcm").write_text(PLANTED * 99)
    (tmp_path / folder / "link.nii.gz").symlink_to(tmp_path / folder / f"{PLANTED}.nii.gz")
    return tmp_path / folder


def test_nothing_that_a_run_leaves_names_the_patient(volume_model: Path, inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "cdal_sdk.cli", "--verbose", "segment", inputs, "--out", out]
    command += ["--model", volume_model, "--engine", "torch", "--format", "nifti", "--format", "probability", "--json"]
    done = subprocess.run(  # noqa: S603 - our own command
        [*map(str, command)], capture_output=True, cwd=Path.cwd(), env=dict(os.environ), check=False
    )
    assert done.returncode == 1, done.stderr  # some cases fail, as they shall
    assert done.stdout.count(b'"status": "ok"') == 2, done.stdout
    assert done.stdout.count(b'"status": "failed"') == 5, done.stdout
    assert traces(done.stdout, "stdout") + traces(done.stderr, "stderr") == []
    assert [trace for path in out.rglob("*") for trace in traces_in(path, out)] == []


def traces(content: bytes, where: str) -> list[str]:
    return [where for secret in (PLANTED, BIRTH_DATE) if secret.lower().encode() in content.lower()]


def traces_in(path: Path, out: Path) -> list[str]:
    name = path.relative_to(out).as_posix()
    found = traces(name.encode(), f"the name {name}")
    if path.is_dir():
        return found
    if path.suffix == ".dcm":
        ds = dcmread(path)
        for element in ds.iterall():
            if element.keyword not in _INHERITED and element.VR not in ("OB", "SQ"):
                found += traces(str(element.value).encode(), f"{name} {element.keyword}")
        return found
    content = path.read_bytes()
    if path.suffix == ".gz":
        content += gzip.decompress(content)
    if path.suffix == ".png":
        with Image.open(path) as picture:
            content += repr(picture.info).encode()
    return found + traces(content, name)


def test_the_search_itself_finds_what_is_planted(inputs: Path) -> None:
    for name in ("volume.nii.gz", "picture.png"):
        assert traces_in(inputs / name, inputs), name
    assert next((inputs / "good").iterdir()).read_bytes().count(PLANTED.encode()) > 100
