"""What the segmenter returns for a case, and how it is saved."""

from __future__ import annotations

import logging
import os
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cdal_sdk.atomic import unfinished
from cdal_sdk.bundle import Manifest
from cdal_sdk.errors import CdalError, OutputError, ReadError, UsageError
from cdal_sdk.readers import CaseFiles
from cdal_sdk.study import LabelSize, Segmentation, SourceKind, Study

if TYPE_CHECKING:  # highdicom is slow to import, and a picture does not need it
    from cdal_sdk.writers import Algorithm

__all__ = [
    "Format",
    "Result",
    "Timing",
    "as_cdal_error",
    "check_formats",
    "check_read_timeout",
    "large_paths",
    "output_paths",
    "planned_paths",
    "remove_files",
    "remove_leftovers",
    "timed",
]

_log = logging.getLogger(__name__)

Format = Literal["nifti", "dicom-seg", "png", "probability"]

_DEFAULT_FORMAT: dict[SourceKind, Format] = {"nifti": "nifti", "dicom": "dicom-seg", "image": "png"}
_FILES: dict[Format, tuple[str, ...]] = {
    "nifti": ("{case}.nii.gz",),
    "dicom-seg": ("{case}.dcm",),
    "png": ("{case}.png",),
    "probability": ("probability/{case}.nii.gz", "spread/{case}.nii.gz", "probability/{case}.dcm"),
}
_ABANDONED_SECONDS = 3600
_PREVIEW = "previews/{case}.png"
_LARGE_MASK = "{case}.mask.tif"


def check_formats(names: Sequence[str]) -> tuple[Format, ...]:
    """Raises UsageError for a name that is no output format."""
    for name in names:
        if name not in get_args(Format):
            raise UsageError(f"there is no format '{name}'", remedy=f"choose from: {', '.join(get_args(Format))}")
    return tuple(names)  # type: ignore[arg-type]


def check_read_timeout(seconds: float) -> None:
    """Raises UsageError for what is no time to wait, such as NaN."""
    if not 0 < seconds <= threading.TIMEOUT_MAX:
        raise UsageError(f"the read timeout is {seconds:g} seconds", remedy="give a number above 0, such as 600")


def as_cdal_error(error: Exception, case: str) -> CdalError:
    """What made a case fail, as one of our errors: one case must not end a run over ten thousand.

    The text of a foreign error may quote the input, such as a name in it, so that the debug log has only its place.
    """
    if isinstance(error, CdalError):
        return error
    if isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error):
        return ReadError("there is not enough memory for it", where=case, remedy="use a smaller --batch-size")
    _log.debug("case %s: %s at\n%s", case, type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
    remedy = "run it alone with 'cdal --verbose segment' and report what that shows"
    return CdalError(f"it failed unexpectedly ({type(error).__name__})", where=case, remedy=remedy)


@dataclass
class Timing:
    """Milliseconds that a case spent in each stage."""

    read: float = 0.0
    prepare: float = 0.0
    engine: float = 0.0
    restore: float = 0.0
    write: float = 0.0


@contextmanager
def timed(timing: Timing, stage: str) -> Iterator[None]:
    """Add the time that the block takes to a stage."""
    start = time.perf_counter()
    try:
        yield
    finally:
        setattr(timing, stage, getattr(timing, stage) + 1000 * (time.perf_counter() - start))


@dataclass(frozen=True)
class Result:
    """One case: a segmentation, or the error that prevented it.

    Attributes:
        case: the case's name in outputs.
        manifest: of the model.
        segmentation: None where the case failed.
        error: None where it did not.
        timing: time a stage.
    """

    case: str
    manifest: Manifest
    segmentation: Segmentation | None = None
    error: CdalError | None = None
    timing: Timing = field(default_factory=Timing)

    @property
    def done(self) -> Segmentation:
        """The segmentation.

        Raises:
            CdalError: the case's own, where it failed.
        """
        if self.segmentation is None:
            raise self.error or OutputError("this case has no result", where=self.case)
        return self.segmentation

    @property
    def mask(self) -> NDArray[np.uint8]:
        """Label numbers on the source grid: uint8 [i, j, k], of a planar image [row, column]."""
        mask = self.done.mask
        return mask[..., 0] if self.done.study.planar else mask

    @property
    def probability(self) -> NDArray[np.float32]:
        """Vote mean in [0, 1] of each foreground label, float32 [label, i, j, k] or [label, row, column]."""
        return self.done.probability[..., 0] if self.done.study.planar else self.done.probability

    @property
    def spread(self) -> NDArray[np.float32]:
        """Standard deviation over votes on the scale of `probability`, shaped like it."""
        return self.done.spread[..., 0] if self.done.study.planar else self.done.spread

    @property
    def volumes(self) -> dict[str, LabelSize]:
        """Size of each label by name."""
        return self.done.volumes

    def unsuited(self, formats: Sequence[Format]) -> list[Format]:
        """Those of the formats that cannot hold this case, such as DICOM for a PNG."""
        return [chosen for chosen in formats if not _applies(chosen, self.done.study)]

    def save(self, out: str | Path, formats: Sequence[Format] = ()) -> list[Path]:
        """Write the mask in the format of its source, any further formats, and a preview.

        Files of these names are replaced, so that cases which share a folder need names of their own; maps and preview
        that were saved for this case before are removed first. If anything cannot be written, nothing of it stays.

        Args:
            out: output folder, made as needed.
            formats: further formats; one that cannot hold this case, such as DICOM for a PNG, is passed over.

        Returns:
            The files written.

        Raises:
            CdalError: the case's own, if it failed.
            UsageError: if the source would be replaced.
            OutputError: if a file cannot be written or does not read back.
        """
        from cdal_sdk.writers import write_preview

        segmentation, out = self.done, Path(out)
        study = segmentation.study
        sources = {os.path.realpath(path) for path in study.source.paths}
        if not sources.isdisjoint(os.path.realpath(path) for path in output_paths(self.case, out)):
            raise UsageError("the source would be replaced by its result", where=out, remedy="choose another folder")
        remove_files(path for path in output_paths(self.case, out) if path.parent != out)
        default = _DEFAULT_FORMAT.get(study.source.kind) or ("png" if study.planar else "nifti")
        wanted = [chosen for chosen in dict.fromkeys((default, *formats)) if _applies(chosen, study)]
        written: list[Path] = []
        try:
            for chosen in wanted:
                paths = [out / name.format(case=self.case) for name in _names(chosen, study.source.kind)]
                written += paths
                self._write(chosen, paths)
            written.append(out / _PREVIEW.format(case=self.case))
            write_preview(study, segmentation.mask, written[-1], self.manifest.labels, segmentation.spread)
        except BaseException:
            with suppress(OutputError):  # the first error says more
                remove_files(written)
            raise
        return written

    def _write(self, chosen: Format, paths: list[Path]) -> None:
        """Write one format; each brings a library that takes a while to import."""
        from cdal_sdk import writers

        segmentation, labels = self.done, self.manifest.labels
        study = segmentation.study
        match chosen:
            case "nifti":
                writers.write_nifti(segmentation.mask, study, paths[0])
            case "dicom-seg":
                writers.write_dicom_seg(segmentation.mask, study, labels, self._algorithm(), paths[0])
            case "png":
                writers.write_mask_png(self.mask, paths[0], labels)
            case "probability":
                writers.write_nifti_maps(segmentation.probability, study, paths[0])
                writers.write_nifti_maps(segmentation.spread, study, paths[1])
                for path in paths[2:]:
                    writers.write_dicom_probability(segmentation.probability, study, labels, self._algorithm(), path)

    def _algorithm(self) -> Algorithm:
        """What made the mask, as a DICOM file tells it."""
        from cdal_sdk.writers import Algorithm

        return Algorithm(name=f"cDAL {self.manifest.name}", version=self.manifest.version)


def output_paths(case: str, out: Path) -> list[Path]:
    """Every file that a run may write for a case."""
    names = (*(name for names in _FILES.values() for name in names), _LARGE_MASK, _PREVIEW)
    return [out / name.format(case=case) for name in names]


def planned_paths(files: CaseFiles, formats: Sequence[Format], out: Path) -> list[Path]:
    """Those of them that a run with these formats may write for this input."""
    if files.kind is None:
        return []
    wanted = dict.fromkeys((_DEFAULT_FORMAT[files.kind], *formats))
    names = [name for chosen in wanted for name in _names(chosen, files.kind)]
    large = [_LARGE_MASK] if files.kind == "image" else []
    return [out / name.format(case=files.case) for name in (*names, *large, _PREVIEW)]


def large_paths(case: str, out: Path) -> tuple[Path, Path]:
    """Mask and preview of a picture that is segmented part by part."""
    return out / _LARGE_MASK.format(case=case), out / _PREVIEW.format(case=case)


def remove_files(paths: Iterable[Path]) -> None:
    """Delete outputs, so that no old result can pass for a new one.

    Raises:
        OutputError: if something cannot be deleted.
    """
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            what = f"an older output cannot be deleted ({error.strerror})"
            raise OutputError(what, where=path, remedy="remove it or choose another --out") from None


def remove_leftovers(out: Path) -> None:
    """Delete what processes that were killed left half written; what is younger may still be in work."""
    folders = {out, *(path.parent for path in output_paths("x", out))}
    for path in (path for folder in folders for path in unfinished(folder)):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                path.unlink()


def _names(chosen: Format, kind: SourceKind) -> list[str]:
    """A format's files for a kind of source."""
    return [name for name in _FILES[chosen] if kind == "dicom" or not name.endswith(".dcm")]


def _applies(chosen: Format, study: Study) -> bool:
    """Whether a format can hold a result for this source."""
    return {"dicom-seg": study.source.kind == "dicom", "png": study.planar}.get(chosen, True)
