"""Does what a run wrote still hold: against its own record, against the model, and against the sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cdal_sdk.bundle import Manifest
from cdal_sdk.digest import sha256
from cdal_sdk.errors import CdalError, ReadError
from cdal_sdk.readers import CaseFiles, read_study
from cdal_sdk.readers.mask import WrittenMask, read_mask
from cdal_sdk.segmenter.clock import digests_in_time
from cdal_sdk.segmenter.records import Problem, read_records
from cdal_sdk.segmenter.report import CaseReport, geometry_of, told
from cdal_sdk.segmenter.result import large_paths, output_paths
from cdal_sdk.study import Study

__all__ = ["Problem", "Verification", "verify"]

_MASKS = (".nii.gz", ".dcm", ".png", ".tif")
_ROUNDING_ML = 0.51e-4  # of the volumes in a report
_TOLERANCE_MM = 0.1  # between the places of a corner, for the decimal strings of DICOM


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes:
        cases: how many finished cases were checked.
        files: how many of their files.
        sources: how many cases were compared with their sources.
        problems: what does not hold; empty where all does.
    """

    cases: int = 0
    files: int = 0
    sources: int = 0
    problems: list[Problem] = field(default_factory=list)

    def to_data(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def verify(
    out: Path,
    sources: Sequence[CaseFiles] = (),
    manifest: Manifest | None = None,
    read: Callable[[CaseFiles], Study] = read_study,
    timeout: float = 600.0,
) -> Verification:
    """Read again what runs wrote to a folder, and compare.

    The report says the same as the ledger. Of each finished case: every file is there and has the bytes that were
    recorded; each mask can be read, lies on the grid and in the place of its source, holds only numbers of its labels,
    and as many voxels as the sizes in the report say; a DICOM segmentation refers to its source. No mask lies in the
    folder that no finished case accounts for. With sources, each is a finished case or one that the report calls
    failed, and their bytes and geometry are compared, too; with a manifest, the labels.

    Args:
        out: an output folder.
        sources: from `discover`, to compare with, wherever they lie now; cases in the folder without a source are told.
        manifest: of the model that is said to have made the masks.
        read: reads the sources, such as `IsolatedReader.read`; by default they are read in this process.
        timeout: seconds that the bytes of one source may take to be read.

    Returns:
        The problems found.

    Raises:
        UsageError: the folder holds no finished case.
    """
    entries, failed, problems = read_records(out)
    given = _Sources(sources, timeout)
    for entry in entries:
        problems += _found(entry, _check_outputs(entry, out))
        if manifest is not None:
            problems += _found(entry, _check_labels(entry, manifest))
        if sources:
            problems += _found(entry, _check_source(entry, given.of(entry), out, read))
    problems += [
        Problem(case, "neither a finished case nor the last report tells of it")
        for case in given.without(entries, failed)
    ]
    problems += [Problem(name, "no finished case accounts for this file") for name in _unaccounted(entries, out)]
    files = sum(len(entry.outputs) for entry in entries)
    return Verification(len(entries), files, sum(given.of(entry) is not None for entry in entries), problems)


@dataclass(frozen=True)
class _Source:
    """A source with the SHA-256 of its files, or why it cannot be read."""

    files: CaseFiles
    digests: list[str]
    problem: str | None = None

    @classmethod
    def of(cls, files: CaseFiles, timeout: float) -> _Source:
        if files.error is not None:
            return cls(files, [], told(files, files.error))
        try:
            return cls(files, digests_in_time(files, timeout))
        except ReadError as error:
            return cls(files, [], told(files, error))
        except OSError as error:
            return cls(files, [], error.strerror or type(error).__name__)


class _Sources:
    """Sources by what they hold, since a folder may be moved and a file renamed, and else by name."""

    def __init__(self, given: Sequence[CaseFiles], timeout: float) -> None:
        found = [_Source.of(files, timeout) for files in given]
        self._by_name = {source.files.case: source for source in found}
        self._by_content = {tuple(source.digests): source for source in found if source.digests}

    def of(self, entry: CaseReport) -> _Source | None:
        named = self._by_name.get(entry.case)
        if named is not None and named.digests == entry.source_sha256:  # several cases may share their files
            return named
        return self._by_content.get(tuple(entry.source_sha256), named)

    def without(self, entries: Sequence[CaseReport], failed: Collection[str]) -> list[str]:
        """The cases among the sources of which nothing is told: no entry, by name or by what they hold, nor failure."""
        known, moved = set(failed), Counter[tuple[str, ...]]()
        for entry in entries:
            source = self.of(entry)
            if source is not None and source.files.case == entry.case:
                known.add(entry.case)
            elif source is not None:
                moved[tuple(source.digests)] += 1
        missing = []
        for case, source in self._by_name.items():
            if case in known:
                continue
            content = tuple(source.digests)
            if moved[content]:  # each entry accounts for one case, though several may share their files
                moved[content] -= 1
            else:
                missing.append(case)
        return missing


def _found(entry: CaseReport, checks: Iterable[str]) -> Iterator[Problem]:
    """What checks of a case find; that they cannot be made ends neither the others nor those of other cases."""
    try:
        for what in checks:
            yield Problem(entry.case, what)
    except Exception as error:  # noqa: BLE001 - records and files may hold anything
        yield Problem(entry.case, f"its record or its files cannot be checked ({type(error).__name__})")


def _check_outputs(entry: CaseReport, out: Path) -> Iterator[str]:
    if set(entry.output_sha256) != set(entry.outputs):
        yield "its record has no hashes of its files"
    if Path(entry.case).name != entry.case:
        yield "its name leads out of the folder"
        return
    expected = set(output_paths(entry.case, out))
    for name in entry.outputs:
        path = out / name
        if path not in expected:  # a record that was tampered with may lead out of the folder
            yield f"{name} is no output of this case"
        else:
            yield from _check_output(entry, name, path)


def _check_output(entry: CaseReport, name: str, path: Path) -> Iterator[str]:
    try:
        if not path.is_file():
            yield f"{name} is missing"
            return
        unchanged = sha256(path) == entry.output_sha256.get(name)
    except OSError as error:
        yield f"{name} cannot be read ({error.strerror})"
        return
    if not unchanged:
        yield f"{name} has changed since it was written"
    elif "/" not in name and name.endswith(_MASKS):
        yield from _check_mask(entry, path)


def _check_mask(entry: CaseReport, path: Path) -> Iterator[str]:
    values = [int(size["value"]) for size in entry.labels.values()]
    planar = "affine" not in entry.geometry
    try:
        written = read_mask(path, values, planar=planar)
    except Exception as error:  # noqa: BLE001 - a damaged file raises anything
        yield f"{path.name} cannot be read ({type(error).__name__})"
        return
    found = set(np.unique(written.mask).tolist()) - {0}
    if not found <= set(values):
        yield f"{path.name} holds the numbers {sorted(found - set(values))}, which no label has"
    yield from _check_place(entry, written, path.name)
    for name, size in entry.labels.items():
        count = int((written.mask == size["value"]).sum())
        if not _is_size(count, size, entry.geometry):
            yield f"{path.name} holds {count} voxels of {name}, which is not the size in the report"


def _check_place(entry: CaseReport, written: WrittenMask, name: str) -> Iterator[str]:
    grid = entry.geometry.get("grid")
    if list(written.mask.shape) != grid:
        yield f"{name} has the shape {list(written.mask.shape)}, its source has {grid}"
    elif written.affine is not None and _apart(written.affine, entry.geometry) > _TOLERANCE_MM:
        yield f"{name} lies {_apart(written.affine, entry.geometry):.2f} mm from its source"


def _apart(affine: np.ndarray[Any, np.dtype[np.float64]], geometry: dict[str, Any]) -> float:
    """The largest distance in mm between the places of a corner."""
    i, j, k = (size - 1 for size in geometry["grid"])
    corners = np.array([(a, b, c, 1) for a in (0, i) for b in (0, j) for c in (0, k)])
    offsets = (corners @ (affine - np.array(geometry["affine"])).T)[:, :3]
    return float(np.linalg.norm(offsets, axis=1).max())


def _is_size(count: int, size: dict[str, Any], geometry: dict[str, Any]) -> bool:
    """Whether so many voxels have the reported size."""
    if "affine" not in geometry:
        return count == int(size["area_px"])
    voxel_ml = abs(float(np.linalg.det(np.array(geometry["affine"])[:3, :3]))) / 1000
    return abs(count * voxel_ml - float(size["volume_ml"])) <= _ROUNDING_ML


def _check_labels(entry: CaseReport, manifest: Manifest) -> Iterator[str]:
    labels = {label.name: label.value for label in manifest.labels}
    if {name: size.get("value") for name, size in entry.labels.items()} != labels:
        yield f"its labels are not those of the model '{manifest.name}'"


def _check_source(
    entry: CaseReport, source: _Source | None, out: Path, read: Callable[[CaseFiles], Study]
) -> Iterator[str]:
    if source is None:
        yield "its source is not among the given inputs"
        return
    if source.problem is not None:
        yield f"its source cannot be read: {source.problem}"
        return
    if source.digests != entry.source_sha256:
        yield "its source has changed since it was segmented"
        return
    if large_paths(entry.case, out)[0].name in entry.outputs:
        return  # too large to be read for its size, which its bytes decide
    try:
        geometry = geometry_of(read(source.files))
    except CdalError as error:
        yield f"its source cannot be read: {told(source.files, error)}"
        return
    if geometry != entry.geometry:
        yield "its record has another geometry than its source"
    segmentation = out / f"{entry.case}.dcm"
    if source.files.kind == "dicom" and segmentation.name in entry.outputs and segmentation.is_file():
        yield from _check_references(entry, segmentation, source.files)


def _check_references(entry: CaseReport, path: Path, files: CaseFiles) -> Iterator[str]:
    from cdal_sdk.readers.dicom_mask import instance_uid

    values = [int(size["value"]) for size in entry.labels.values()]
    try:
        references = read_mask(path, values, planar="affine" not in entry.geometry).references
    except Exception:  # noqa: BLE001 - a damaged file raises anything, and was told already
        return
    if references != {instance_uid(source) for source in files.paths}:
        yield f"{path.name} refers to other images than its source"


def _unaccounted(entries: Sequence[CaseReport], out: Path) -> list[str]:
    """Masks and maps in the folder that belong to no finished case."""
    known = {out / name for entry in entries for name in entry.outputs}
    folders = sorted({path.parent for path in output_paths("x", out)})
    found = [path for folder in folders for path in sorted(folder.glob("*")) if path.name.endswith(_MASKS)]
    return [path.relative_to(out).as_posix() for path in found if path not in known and not path.name.startswith(".")]
