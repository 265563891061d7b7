"""Synthetic inputs that every test may ask for, and the way to the real ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

PATIENT_NAME = "Unmistakable^Name"
PATIENT_ID = "UNMISTAKABLE-ID"
BIRTH_DATE = "19010203"
ACCESSION = "UNMISTAKABLE-AC"

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_ONLY_MR = (
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "ScanningSequence",
    "SequenceVariant",
    "ScanOptions",
    "MRAcquisitionType",
    "EchoTime",
    "RepetitionTime",
    "EchoTrainLength",
)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data, where this machine has one."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("CDAL_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data: set CDAL_DATA, or put them in {beside}")
    return folder


@dataclass(frozen=True)
class Series:
    """A DICOM series on disk and what is in it."""

    folder: Path
    uid: str
    files: list[Path]  # in the order of the slices
    voxels: NDArray[np.int16]  # [column, row, slice]
    affine: NDArray[np.float64]  # (column, row, slice) to RAS


def phantom(shape: tuple[int, int, int] = (9, 7, 5)) -> NDArray[np.int16]:
    """No two voxels alike, so that any flip, shift or swap of axes shows."""
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape)


def oblique(*, turn: float, tilt: float) -> tuple[float, ...]:
    """Direction cosines of an axial plane turned about z, then tilted about x, by degrees."""
    a, b = np.radians([turn, tilt])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    turned = about_x @ about_z
    return (*turned[:, 0].round(6), *turned[:, 1].round(6))


def mr_header(series_uid: str, study_uid: str, pixels: NDArray[np.generic]) -> Dataset:
    """A complete single-frame MR data set of [row, column] pixels, at no position yet."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = MRImageStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = PATIENT_NAME, PATIENT_ID, BIRTH_DATE, "O"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study_uid, series_uid, study_uid + ".1"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20240102", "101500", "1", ACCESSION
    ds.ReferringPhysicianName, ds.Manufacturer, ds.PositionReferenceIndicator = "", "", ""
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "MR", 1, 1
    ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "GR", "NONE", "", "3D"
    ds.EchoTime, ds.RepetitionTime, ds.EchoTrainLength = 3, 8, 1
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 8 * pixels.dtype.itemsize
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.PixelData = pixels.tobytes()
    return ds


WriteSeries = Callable[..., Series]


@pytest.fixture
def write_series(tmp_path: Path) -> WriteSeries:
    """A function that writes a volume as a DICOM series, files named in shuffled order."""

    def write(
        name: str = "series",
        *,
        voxels: NDArray[np.int16] | None = None,
        orientation: Sequence[float] = AXIAL,
        spacing: tuple[float, float, float] = (0.8, 0.9, 2.5),  # along column, row, slice index
        origin: Sequence[float] = (-20.0, 35.5, 12.25),  # LPS
        reverse: bool = False,  # slices numbered against their normal
        shift: Sequence[float] = (0.0, 0.0, 0.0),  # further LPS offset from slice to slice
        change: Callable[[int, Dataset], None] = lambda index, ds: None,
        skip: Sequence[int] = (),
    ) -> Series:
        voxels = phantom() if voxels is None else voxels
        folder = tmp_path / name
        folder.mkdir(parents=True)
        row, column = np.array(orientation).reshape(2, 3)
        normal = np.cross(row, column)
        series_uid, study_uid = generate_uid()[:50], generate_uid()[:50]
        count = voxels.shape[2]
        numbers = np.random.default_rng(0).permutation(count)
        files = []
        for k in range(count):
            ds = mr_header(series_uid, study_uid, np.ascontiguousarray(voxels[:, :, k].T))
            position = np.array(origin) + k * (normal * spacing[2] + np.array(shift))
            ds.ImagePositionPatient = [round(float(value), 6) for value in position]
            ds.ImageOrientationPatient = [float(value) for value in orientation]
            ds.PixelSpacing = [spacing[1], spacing[0]]
            ds.SliceThickness = spacing[2]
            ds.InstanceNumber = count - k if reverse else k + 1
            change(k, ds)
            path = folder / f"{numbers[k]:03d}"
            if k not in skip:
                ds.save_as(path, enforce_file_format=True)
                files.append(path)
        lps = np.eye(4)
        lps[:3, 0], lps[:3, 1], lps[:3, 2] = row * spacing[0], column * spacing[1], normal * spacing[2]
        lps[:3, 3] = origin
        return Series(folder, series_uid, files, voxels, np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps)

    return write


@pytest.fixture
def write_xray(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes one projection X-ray, without a place in the patient."""

    def write(
        pixels: NDArray[np.generic], name: str = "xray.dcm", change: Callable[[Dataset], None] = lambda ds: None
    ) -> Path:
        ds = mr_header(generate_uid()[:50], generate_uid()[:50], pixels)
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
        ds.Modality, ds.BodyPartExamined, ds.ViewPosition = "CR", "CHEST", "PA"
        for keyword in _ONLY_MR:
            del ds[keyword]
        ds.ImagerPixelSpacing = [0.2, 0.3]
        change(ds)
        path = tmp_path / name
        ds.save_as(path, enforce_file_format=True)
        return path

    return write
