"""`report.json`: what happened to each case of a run, for machines. It holds nothing that names a patient."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from cdal_sdk.atomic import atomic
from cdal_sdk.confidence import review_reasons
from cdal_sdk.digest import sha256
from cdal_sdk.errors import CdalError
from cdal_sdk.readers import CaseFiles
from cdal_sdk.segmenter.result import Result, Timing
from cdal_sdk.study import Label, LabelSize, Study

if TYPE_CHECKING:
    from cdal_sdk.segmenter.large import LargeResult

__all__ = [
    "REPORT_FILE",
    "CaseReport",
    "Measured",
    "Origin",
    "Report",
    "digests_of",
    "failed_case",
    "geometry_of",
    "intact",
    "segmented_case",
    "skipped_case",
    "told",
]

REPORT_FILE = "report.json"


@dataclass(frozen=True)
class CaseReport:
    """One entry.

    Attributes:
        case: its name in outputs.
        status: how it ended.
        error: why it failed.
        source: the file's name, or how many files a series has.
        outputs: files written, relative to the output folder.
        labels: size by label name.
        mean_spread: mean vote spread over labelled voxels, on the probability scale.
        timing_ms: time a stage; empty where this run did not segment the case, since zeros would pass for measured.
        fingerprint: SHA-256 of input, model and settings; an unchanged one is skipped.
        review: reasons to look at the result; empty where nothing is unusual.
        geometry: grid and affine of the source (voxel to RAS mm), or the pixel spacing of a picture.
        source_sha256: of the source's files, sorted.
        output_sha256: by output.
        settings: of the run that made it, see `Report.settings`.
    """

    case: str
    status: Literal["ok", "skipped", "failed"]
    error: str | None
    source: str
    outputs: list[str] = field(default_factory=list)
    labels: dict[str, dict[str, Any]] = field(default_factory=dict)
    mean_spread: float | None = None
    timing_ms: dict[str, float] = field(default_factory=dict)
    fingerprint: str | None = None
    review: list[str] = field(default_factory=list)
    geometry: dict[str, Any] = field(default_factory=dict)
    source_sha256: list[str] = field(default_factory=list)
    output_sha256: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """The whole run.

    Attributes:
        model: its name.
        model_version: of its manifest.
        weights_sha256: of the weights' names and float32 values, alike for a checkpoint and what is exported from it.
        engine: that ran it.
        precision: in which the engine convolves and multiplies.
        device: "cpu" or "cuda".
        seed: of all noise.
        votes: instances that were averaged.
        force: whether inputs outside the model's domain were accepted.
        software: version of this package.
        interval_coverage: share of cases, alike those that calibrated the model, whose true sizes all lie in their
            intervals; None where that is not known.
        seconds: the run took ("wall"), and its cases spent in each stage; stages overlap.
        inputs: how many cases the run was given; more than `cases` while it is at work, or if it was interrupted.
        cases: in the order of the input.
    """

    model: str
    model_version: str
    weights_sha256: str
    engine: str
    precision: str
    device: str
    seed: int
    votes: int
    force: bool
    software: str
    interval_coverage: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    inputs: int = 0
    cases: list[CaseReport] = field(default_factory=list)

    def count_seconds(self, wall: float) -> None:
        """Sum up the stages, after so many seconds."""
        self.seconds["wall"] = round(wall, 2)
        for stage in (stage.name for stage in fields(Timing)):
            self.seconds[stage] = round(sum(case.timing_ms.get(stage, 0.0) for case in self.cases) / 1000, 2)

    @property
    def output_share(self) -> float:
        """Seconds spent on restoring and writing, as a share of those that the run took."""
        spent = self.seconds.get("restore", 0.0) + self.seconds.get("write", 0.0)
        return spent / self.seconds["wall"] if self.seconds.get("wall") else 0.0

    @property
    def settings(self) -> dict[str, Any]:
        """What it says of all its cases; the entry of each says the same."""
        names = (field.name for field in fields(self))
        return {name: getattr(self, name) for name in names if name not in ("seconds", "inputs", "cases")}

    def to_json(self) -> str:
        """Readable JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    def write(self, out: Path) -> None:
        """Write `report.json` in one step."""
        with atomic(out / REPORT_FILE) as path:
            path.write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def read(cls, out: Path) -> Report:
        """The `report.json` of a folder.

        Raises:
            OSError: it is not there or cannot be read.
            msgspec.MsgspecError: it is damaged.
        """
        return msgspec.json.decode((out / REPORT_FILE).read_bytes(), type=cls)


@dataclass(frozen=True)
class Origin:
    """What a case was made from.

    Attributes:
        fingerprint: of input, model and settings.
        digests: SHA-256 of the source's files, sorted.
        settings: see `Report.settings`.
    """

    fingerprint: str
    digests: list[str]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """What a case's entry tells of its segmentation, however that came about.

    Attributes:
        labels: the model's.
        volumes: size by label name.
        mean_spread: over the labelled voxels.
        timing: time a stage.
        review: reasons to look at it.
        geometry: where the source's voxels lie, see `geometry_of`.
    """

    labels: Sequence[Label]
    volumes: Mapping[str, LabelSize]
    mean_spread: float
    timing: Timing
    review: list[str]
    geometry: dict[str, Any]

    @classmethod
    def of(cls, result: Result) -> Measured:
        """Of a case that was segmented whole."""
        manifest, done = result.manifest, result.done
        reasons = review_reasons(done, manifest.labels, manifest.confidence)
        place = geometry_of(done.study)
        return cls(manifest.labels, result.volumes, done.mean_spread, result.timing, reasons, place)

    @classmethod
    def of_large(cls, result: LargeResult, labels: Sequence[Label]) -> Measured:
        """Of a picture that was segmented part by part."""
        place = {"grid": [result.shape.height, result.shape.width], "pixel_spacing_mm": None}
        return cls(labels, result.volumes, result.mean_spread, result.timing, result.review, place)


def segmented_case(files: CaseFiles, found: Measured, outputs: Sequence[Path], out: Path, origin: Origin) -> CaseReport:
    """The entry of a case that was segmented and written.

    Args:
        files: its files.
        found: what came out.
        outputs: the files written.
        out: the folder that they are in.
        origin: what it was made from.
    """
    values = {label.name: label.value for label in found.labels}
    names = [path.relative_to(out).as_posix() for path in outputs]
    return CaseReport(
        case=files.case,
        status="ok",
        error=None,
        source=_source(files),
        outputs=names,
        labels={name: {"value": values[name], **_size(size)} for name, size in found.volumes.items()},
        mean_spread=round(found.mean_spread, 6),
        timing_ms={stage: round(value, 1) for stage, value in asdict(found.timing).items()},
        fingerprint=origin.fingerprint,
        review=found.review,
        geometry=found.geometry,
        source_sha256=origin.digests,
        output_sha256={name: sha256(path) for name, path in zip(names, outputs, strict=True)},
        settings=origin.settings,
    )


def geometry_of(study: Study) -> dict[str, Any]:
    """Where a study's voxels lie, for JSON."""
    if study.affine is not None:
        return {"grid": list(study.grid), "affine": study.affine.tolist()}
    spacing = None if study.pixel_spacing is None else list(study.pixel_spacing)
    return {"grid": list(study.grid[:2]), "pixel_spacing_mm": spacing}


def digests_of(files: CaseFiles) -> list[str]:
    """SHA-256 of each of a case's files, sorted; none of what is known to be unreadable, such as a pipe that blocks.

    Raises:
        OSError: a file cannot be read.
    """
    return [] if files.error is not None else sorted(sha256(path) for path in files.paths)


def intact(entry: CaseReport, out: Path) -> bool:
    """Whether each output of a case is there, and has the bytes that were recorded."""
    return all(as_written(entry, name, out) for name in entry.outputs)


def as_written(entry: CaseReport, name: str, out: Path) -> bool:
    """Whether one of them is."""
    try:
        return (out / name).is_file() and sha256(out / name) == entry.output_sha256[name]
    except (OSError, KeyError):
        return False


def skipped_case(earlier: CaseReport) -> CaseReport:
    """The entry of a case that an earlier run did under the same conditions."""
    return replace(earlier, status="skipped", timing_ms={})


def failed_case(files: CaseFiles, error: CdalError) -> CaseReport:
    """The entry of a case that could not be done."""
    return CaseReport(files.case, "failed", told(files, error), _source(files))


def told(files: CaseFiles, error: CdalError) -> str:
    """An error of a case, for people; it names no DICOM file, since those are often named after patients."""
    return error.brief(files.case if files.kind == "dicom" else None)


def _source(files: CaseFiles) -> str:
    """The file's name, if it was recognised; no folders and no files of a series, which may be named after patients."""
    if files.kind == "dicom":
        return f"DICOM series of {len(files.paths)} file(s)"
    return files.case if files.kind is None else files.paths[0].name.encode("utf-8", "replace").decode("utf-8")


def _size(size: LabelSize) -> dict[str, Any]:
    """What applies of a size, rounded to what is meaningful."""
    known: Mapping[str, Any] = {name: value for name, value in asdict(size).items() if value is not None}
    return {
        name: [round(v, 4) for v in value] if isinstance(value, tuple | list) else round(value, 4)
        for name, value in known.items()
    }
