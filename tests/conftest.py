"""Synthetic inputs that every test may ask for, and the way to the real ones."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ComputedRadiographyImageStorage, generate_uid
from synthetic_dicom import AXIAL, ONLY_MR, Series, mr_header, phantom

if SIDE_BY_SIDE := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # each process has its share of the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(SIDE_BY_SIDE))))


@pytest.fixture(scope="session", autouse=True)
def engine_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Engines that tests build are kept for the session, away from the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CDAL_CACHE", str(folder))
        yield folder


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data, where this machine has one."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("CDAL_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data: set CDAL_DATA, or put them in {beside}")
    return folder


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """A function that takes away the drive a folder is on: who looks there waits, which the main thread never may."""
    folders: list[str] = []
    back = threading.Event()

    def waiting(look: Callable[..., object]) -> Callable[..., object]:
        def wait(path: object = ".", *arguments: object, **options: object) -> object:
            if isinstance(path, str | Path) and any(str(path).startswith(folder) for folder in folders):
                if threading.current_thread() is threading.main_thread():
                    pytest.fail("the run would hang")
                back.wait()
            return look(path, *arguments, **options)

        return wait

    for name in ("scandir", "stat", "lstat"):
        monkeypatch.setattr(os, name, waiting(getattr(os, name)))
    yield lambda folder: folders.append(str(folder))
    back.set()


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
        for keyword in ONLY_MR:
            del ds[keyword]
        ds.ImagerPixelSpacing = [0.2, 0.3]
        change(ds)
        path = tmp_path / name
        ds.save_as(path, enforce_file_format=True)
        return path

    return write
