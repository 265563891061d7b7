"""Synthetic DICOM for tests: voxels that give away any mix-up, orientations, complete headers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

PATIENT_NAME = "Unmistakable^Name"
PATIENT_ID = "UNMISTAKABLE-ID"
BIRTH_DATE = "19010203"
ACCESSION = "UNMISTAKABLE-AC"

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
ONLY_MR = (
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
