"""Unmistakable values in every text tag, file comment and folder name: nothing that a run leaves behind has them.

Nor do messages have them, where a header breaks every rule and a library would quote it.
"""

from __future__ import annotations

import gzip
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from pydicom import dcmread
from pydicom.datadict import DicomDictionary
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from cdal_sdk.cli.app import _configure
from tests.conftest import WriteSeries

PLANTED = "Zyxwv"
BIRTH_DATE = "19010203"
_TEXT = {"PN", "LO", "SH", "ST", "LT", "UT", "UC", "AE"}
# What belongs to the patient and the study, and therefore stands in a DICOM segmentation as in its source.
_INHERITED = {
    "PatientName", "PatientID", "PatientBirthDate", "StudyDate", "StudyID", "AccessionNumber", "ReferringPhysicianName",
    "IssuerOfPatientID", "DeidentificationMethod", "StudyDescription", "PositionReferenceIndicator",
    "StudyInstanceUID", "FrameOfReferenceUID",
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


# Values that are invalid for their kind of element, so that a library which checks them warns and quotes.
_INVALID = {
    "SpecificCharacterSet": ("CS", b"ZYXWV SMITH"),
    "ImageType": ("CS", b"zyxwv lower\\PRIMARY"),
    "PatientSex": ("CS", b"zyxwv sex"),
    "BurnedInAnnotation": ("CS", b"zyxwv maybe"),
    "PatientName": ("PN", b"Zyxwv\x07^name\x1b$Bq"),
    "PatientBirthDate": ("DA", b"1901-zyxwv"),
    "StudyDate": ("DA", b"zyxwvdate"),
    "StudyTime": ("TM", b"zyxwvtime"),
    "PatientAge": ("AS", b"about zyxwv"),
    "PatientWeight": ("DS", b"zyxwv,kg"),
    "SliceThickness": ("DS", b"Zyxwv 1"),
    "SeriesNumber": ("IS", b"Zyxwv1.5"),
    "ImagesInAcquisition": ("IS", b"Zyxwv"),
    "FrameOfReferenceUID": ("UI", b"1.2.ZYXWV.3"),
    "StudyInstanceUID": ("UI", b"1.2.ZYXWV.4"),
}


def plant_invalid(index: int, ds: Dataset) -> None:
    for keyword, (vr, raw) in _INVALID.items():
        tag, even = Tag(keyword), raw + b" " * (len(raw) % 2)
        ds[tag] = RawDataElement(tag, vr, len(even), even, 0, False, True)  # type: ignore[arg-type]


@pytest.fixture
def inputs(tmp_path: Path, write_series: WriteSeries) -> Path:
    """Two good series, four that fail in different ways, a volume, a picture and a dead link, named after a patient."""
    folder = f"{PLANTED}^in"
    write_series(f"{folder}/good", change=plant)
    write_series(f"{folder}/gap", change=plant, skip=[2])
    cut = write_series(f"{folder}/cut", change=plant)
    cut.files[1].write_bytes(cut.files[1].read_bytes()[:-40])

    def odd(index: int, ds: Dataset) -> None:
        plant(index, ds)
        ds.Modality = PLANTED.upper()

    write_series(f"{folder}/odd", change=odd)
    write_series(f"{folder}/invalid", change=plant_invalid)
    alone = write_series(f"{folder}/alone", change=plant_invalid, skip=[0, 1, 2, 3]).files[0]
    alone.write_bytes(alone.read_bytes()[:-9])
    alone.rename(alone.with_name(f"{PLANTED}_{BIRTH_DATE}.dcm"))
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
    assert done.stdout.count(b'"status": "ok"') == 3, done.stdout
    assert done.stdout.count(b'"status": "failed"') == 7, done.stdout
    assert b"damaged-" in done.stdout, "the case of the text file, which is named after the patient"
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


def test_no_library_can_make_itself_heard(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with warnings.catch_warnings():
        _configure(verbose=False)
        import nibabel  # noqa: F401 - which adds a handler of its own
        import pydicom.config

        pydicom.config.debug(debug_on=False, default_handler=False)  # as its import does: it sets the level again
        warnings.simplefilter("always")
        for name in ("pydicom", "pydicom.pixels", "nibabel.global", "highdicom", "PIL.TiffImagePlugin", "py.warnings"):
            logging.getLogger(name).error("zyxwv")
        warnings.warn("zyxwv", stacklevel=1)
        logging.getLogger("cdal_sdk.readers").error("ours")
    said = capsys.readouterr()
    assert "zyxwv" not in said.out + said.err
    assert "ours" in said.err
