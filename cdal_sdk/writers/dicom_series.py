"""A volume as a classic DICOM MR series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from cdal_sdk.atomic import atomic

__all__ = ["write_mr_series"]

_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_DATE, _TIME = "20260101", "120000"


def write_mr_series(
    voxels: NDArray[np.int16], affine: NDArray[np.float64], folder: Path, names: Sequence[str], patient: str
) -> list[Path]:
    """Write a volume as single-frame MR images of an invented patient.

    All tags that the MR image requires are there. UIDs follow from the patient and the voxels, so that the same
    volume gives the same files.

    Args:
        voxels: int16 [column, row, slice].
        affine: [4, 4], (column, row, slice) to RAS millimetres, its axes at right angles.
        folder: made as needed.
        names: one file name per slice.
        patient: the name and ID of the patient.

    Returns:
        The files in the order of the slices.

    Raises:
        OutputError: a file cannot be written.
    """
    seed = [patient, str(voxels.shape), str(voxels.sum())]
    series = _series_tags(voxels, affine, patient, seed)
    lps = _LPS_FROM_RAS @ affine
    paths = []
    for index, name in enumerate(names):
        image = Dataset()
        image.update(series)
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.SOPInstanceUID = generate_uid(entropy_srcs=[*seed, str(index)])
        image.InstanceNumber = index + 1
        image.ImagePositionPatient = [f"{value:.8g}" for value in lps[:3] @ [0, 0, index, 1]]
        image.PixelData = np.ascontiguousarray(voxels[:, :, index].T).tobytes()
        paths.append(folder / name)
        with atomic(paths[-1]) as temporary:
            image.save_as(temporary, enforce_file_format=True)
    return paths


def _series_tags(voxels: NDArray[np.int16], affine: NDArray[np.float64], patient: str, seed: Sequence[str]) -> Dataset:
    """What all images of the series share."""
    lps = _LPS_FROM_RAS @ affine
    between_columns, between_rows, between_slices = np.linalg.norm(lps[:3, :3], axis=0)
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = MRImageStorage
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = patient, patient, "", "O"
    ds.StudyInstanceUID = generate_uid(entropy_srcs=[*seed, "study"])
    ds.SeriesInstanceUID = generate_uid(entropy_srcs=[*seed, "series"])
    ds.FrameOfReferenceUID = generate_uid(entropy_srcs=[*seed, "frame of reference"])
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = _DATE
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = _TIME
    ds.StudyID, ds.SeriesNumber, ds.AccessionNumber, ds.ReferringPhysicianName = "1", 1, "", ""
    ds.StudyDescription, ds.SeriesDescription = "Synthetic example", "T1, synthetic"
    ds.Modality, ds.Manufacturer, ds.PositionReferenceIndicator = "MR", "cDAL SDK", ""
    ds.BodyPartExamined, ds.PatientPosition = "BRAIN", "HFS"
    ds.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "GR", "MP", "", "3D"
    ds.EchoTime, ds.RepetitionTime, ds.EchoTrainLength = 3, 8, 1
    ds.ImageOrientationPatient = [f"{value:.8g}" for value in (lps[:3, :2] / [between_columns, between_rows]).T.ravel()]
    ds.PixelSpacing = [f"{between_rows:.8g}", f"{between_columns:.8g}"]
    ds.SliceThickness = ds.SpacingBetweenSlices = f"{between_slices:.8g}"
    ds.Columns, ds.Rows = voxels.shape[:2]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 1
    low, high = np.percentile(voxels, [0.5, 99.5])
    ds.WindowCenter, ds.WindowWidth = f"{(low + high) / 2:.6g}", f"{max(high - low, 1):.6g}"
    return ds
