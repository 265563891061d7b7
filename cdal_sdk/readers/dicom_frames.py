"""The frames of an enhanced multi-frame file: their places, and what tells volumes apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames

from cdal_sdk.errors import ReadError
from cdal_sdk.readers.dicom_doubts import numbering_doubts_of, plane_doubts_of
from cdal_sdk.readers.dicom_file import open_dicom
from cdal_sdk.readers.dicom_geometry import stack_slices
from cdal_sdk.readers.dicom_split import Placed, divide

__all__ = ["check_whole", "frame_doubts_of", "functional_group", "irregularity", "volumes_of", "with_frames"]

_SHARED, _PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"

# What tells volumes apart, and where a functional group has it.
_MARKS = (
    ("FrameOfReferenceUID", "FrameContentSequence", "StackID"),
    ("EchoTime", "MREchoSequence", "EffectiveEchoTime"),
    ("ImageType", "MRImageFrameTypeSequence", "FrameType"),
    ("ImageType", "CTImageFrameTypeSequence", "FrameType"),
    ("TemporalPositionIdentifier", "FrameContentSequence", "TemporalPositionIndex"),
    ("DiffusionBValue", "MRDiffusionSequence", "DiffusionBValue"),
    ("AcquisitionNumber", "FrameContentSequence", "FrameAcquisitionNumber"),
)


def functional_group(frame: Dataset, shared: Dataset, keyword: str) -> Dataset:
    """A functional group of a frame, which it may have in common with all others.

    Raises:
        LookupError: it has none.
    """
    item: Dataset = (frame[keyword] if keyword in frame else shared[keyword]).value[0]
    return item


def volumes_of(path: Path) -> tuple[tuple[int, ...], ...]:
    """The frames of each volume, from 0, where a file holds several; what is wrong with it is told when it is read."""
    try:
        header = open_dicom(path, tags=[_SHARED, _PER_FRAME])
        volumes = _divided(header, path)
    except Exception:  # noqa: BLE001 - broken groups fail anywhere
        return ()
    return tuple(tuple(_number(piece) for piece in volume) for volume in volumes) if len(volumes) > 1 else ()


def with_frames(dataset: Dataset, frames: Sequence[int]) -> Dataset:
    """The data set reduced to some of its frames, counted from 0; changed in place."""
    if "PixelData" in dataset:
        if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
            stored = list(generate_frames(dataset.PixelData, number_of_frames=int(dataset.NumberOfFrames)))
            dataset.PixelData = encapsulate([stored[number] for number in frames])
        else:
            length = dataset.Rows * dataset.Columns * dataset.SamplesPerPixel * dataset.BitsAllocated // 8
            pixels = dataset.PixelData
            dataset.PixelData = b"".join(pixels[number * length : (number + 1) * length] for number in frames)
    dataset[_PER_FRAME].value = [dataset[_PER_FRAME].value[number] for number in frames]
    dataset.NumberOfFrames = len(frames)
    return dataset


def check_whole(header: Dataset, path: Path) -> None:
    """Raises ReadError where the file is a part of an image: what lacks a part would pass for a complete volume."""
    parts = header.get("InConcatenationTotalNumber")
    if not header.get("ConcatenationUID") or parts == 1:
        return
    part, of = int(header.get("InConcatenationNumber") or 0) or "?", int(parts or 0) or "?"
    raise ReadError(f"this is part {part} of {of} of one image", where=path, remedy="join its parts first")


def frame_doubts_of(header: Dataset, frames: Sequence[int]) -> tuple[str, ...]:
    """Reasons to doubt that some frames of a file are all of a volume; they count from 0, and none stands for all."""
    shared, groups = header[_SHARED].value[0], header[_PER_FRAME].value
    numbers = [_in_stack(groups[number], shared) for number in frames or range(len(groups))]
    planes = {_plane(frame, shared) for frame in groups} if frames else ()
    return numbering_doubts_of(numbers) + plane_doubts_of(sorted(planes))


def irregularity(header: Dataset, path: Path) -> ReadError:
    """Why the frames of a file do not form one volume, in the words that single images get.

    Args:
        header: of the file.
        path: that errors name.
    """
    try:
        shared, frames = header[_SHARED].value[0], header[_PER_FRAME].value
        positions = np.array([_placed(frame, shared, 0, path).position for frame in frames], np.float64)
        spacing = functional_group(frames[0], shared, "PixelMeasuresSequence").PixelSpacing
        stack_slices(positions, _orientation(frames[0], shared), spacing, 1.0, path)
    except ReadError as error:
        return error
    except Exception:  # noqa: BLE001, S110 - broken groups fail anywhere, and what can be said of them follows
        pass
    what = "the frames of this multi-frame image do not form one evenly spaced volume"
    return ReadError(what, where=path, remedy="export one acquisition, with a single image at each position")


def _divided(header: Dataset, path: Path) -> list[list[Placed]]:
    """The frames as single images would be divided: by orientation and spacing, then as `divide` does."""
    shared = header[_SHARED].value[0]
    stacks: dict[tuple[float, ...], list[Placed]] = defaultdict(list)
    for number, frame in enumerate(header[_PER_FRAME].value):
        stacks[_plane(frame, shared)].append(_placed(frame, shared, number, path))
    return [volume for stack in stacks.values() for volume in divide(stack)]


def _number(piece: Placed) -> int:
    return int(piece.marks["InstanceNumber"])


def _placed(frame: Dataset, shared: Dataset, number: int, path: Path) -> Placed:
    position = functional_group(frame, shared, "PlanePositionSequence").ImagePositionPatient
    marks = {"InstanceNumber": str(number), "SOPInstanceUID": str(number)}  # so that no two frames count as copies
    for mark, keyword, attribute in _MARKS:
        if (keyword in frame or keyword in shared) and attribute in (group := functional_group(frame, shared, keyword)):
            marks[mark] = str(group[attribute].value)
    return Placed(path, tuple(float(value) for value in position), marks)


def _in_stack(frame: Dataset, shared: Dataset) -> int | None:
    """The number of a frame in its stack, where it has one."""
    try:
        return int(functional_group(frame, shared, "FrameContentSequence").InStackPositionNumber)
    except (LookupError, AttributeError, TypeError, ValueError):
        return None


def _plane(frame: Dataset, shared: Dataset) -> tuple[float, ...]:
    """Orientation and pixel spacing."""
    spacing = functional_group(frame, shared, "PixelMeasuresSequence").PixelSpacing
    return (*_orientation(frame, shared), *(round(float(value), 3) for value in spacing))


def _orientation(frame: Dataset, shared: Dataset) -> tuple[float, ...]:
    cosines = functional_group(frame, shared, "PlaneOrientationSequence").ImageOrientationPatient
    return tuple(round(float(value), 3) for value in cosines)
