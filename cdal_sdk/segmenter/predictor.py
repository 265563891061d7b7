"""`Segmenter`: loads a model once and segments case after case, through all the stages."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from threading import Event

import numpy as np
from numpy.typing import NDArray

from cdal_sdk.bundle import load_model
from cdal_sdk.engines import (
    Device,
    Engine,
    EngineCache,
    EngineRequest,
    Precision,
    check_engine_name,
    default_cache_folder,
    in_parts,
    make_engine,
    pick_device,
)
from cdal_sdk.engines.eager import TorchEngine
from cdal_sdk.errors import CdalError, EngineError, ReadError, UsageError
from cdal_sdk.gate import Gate
from cdal_sdk.gate_images import judged_by, synthetic_images
from cdal_sdk.masks import decide, measure, probabilities
from cdal_sdk.readers import CaseFiles, IsolatedReader, discover, read_study
from cdal_sdk.segmenter.result import Result, Timing, as_cdal_error, check_read_timeout, timed
from cdal_sdk.slicing import Prepared, check_domain, match_channels, prepare
from cdal_sdk.study import Segmentation, Source, Study

__all__ = ["Inferred", "Segmenter"]

# Pixels of a batch: a CPU is fastest while its activations, times the votes, stay in the cache; a GPU wants to be full.
_BATCH_PIXELS = {"cpu": 4 * 64 * 64, "cuda": 32 * 256 * 256}
_Ready = tuple[Study, Prepared, Timing]
_log = logging.getLogger(__name__)
_LOOKAHEAD = 2  # cases read while the engine works; more would only hold memory


@dataclass(frozen=True)
class Inferred:
    """A case after the engine, before its results are brought to the grid of the source.

    Attributes:
        case: its name.
        study: as it was read; None where the case failed.
        prepared: the way back.
        mean: vote mean, float32 [n, label, h, w].
        spread: vote spread, shaped like it.
        error: why the case failed.
        timing: time a stage, so far.
    """

    case: str
    study: Study | None = None
    prepared: Prepared | None = None
    mean: NDArray[np.float32] | None = None
    spread: NDArray[np.float32] | None = None
    error: CdalError | None = None
    timing: Timing = field(default_factory=Timing)


class Segmenter:
    """A model, ready to segment. Several threads may call it; the engine takes their batches in turn where it must.

    Args:
        model: a bundled model's name, a model folder, or a checkpoint.
        engine: "auto" takes the fastest that is stored with the model, or can be built here, and agrees with the
            reference; "torch" is that reference, eager and in float32.
        device: "auto" takes CUDA where it is available.
        votes: instances that are averaged, K; None for the model's own.
        seed: of all noise; None for the model's own. The same seed gives the same mask.
        batch_size: slices or tiles of one case that the engine takes at once; None for what suits the device. It
            changes memory and speed, and results by no more than rounding. Cases never share a batch, so that the
            results of one are the same to the bit whatever comes beside it.
        force: accept what lies outside the model's domain.
        read_timeout: seconds that a stream of cases waits for one to be read, or for one folder to be searched.
        precision: of the engine's convolutions; None for the fastest that agrees with the reference.
        progress: called with what takes long, when an engine is built and held against the reference at its first
            use; None writes it to the log.

    Raises:
        ModelError: if the model does not exist or is damaged.
        UsageError: if a setting is impossible.
        EngineError: if the engine cannot be made here.
    """

    def __init__(
        self,
        model: str | Path = "hippocampus",
        *,
        engine: str = "auto",
        device: Device = "auto",
        votes: int | None = None,
        seed: int | None = None,
        batch_size: int | None = None,
        force: bool = False,
        read_timeout: float = 600.0,
        precision: Precision | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        for name, value, least in (("votes", votes, 1), ("seed", seed, 0), ("batch size", batch_size, 1)):
            if value is not None and value < least:
                raise UsageError(f"{name} is {value}", remedy=f"give at least {least}")
        check_read_timeout(read_timeout)
        engine_name = check_engine_name(engine)
        loaded = load_model(model)
        self.manifest = manifest = loaded.manifest
        self.weights_sha256 = loaded.weights_sha256
        sampling = manifest.sampling(votes, seed)
        self.votes, self.seed = sampling.votes, sampling.seed
        if self.votes == 1 and manifest.votes > 1:
            _log.warning("one vote has no spread: intervals and the review for a high spread say nothing")
        self.force = force
        self.read_timeout = read_timeout
        place = pick_device(device)

        @cache
        def gate() -> Gate:  # made only when an engine is new here
            reference = TorchEngine(loaded.generator, sampling, place)
            made = Gate(manifest, reference, loaded.gate_images() or synthetic_images(manifest))
            if len(made.unjudged) == len(manifest.labels):
                _log.warning(
                    "a new engine is judged by probabilities alone, since the images at hand show nothing of what the "
                    "model segments; better: cdal export --data IMAGES --keep-images"
                )
            return made

        request = EngineRequest(
            generator=loaded.generator,
            sampling=sampling,
            device=place,
            weights_sha256=loaded.weights_sha256,
            fixed_size=manifest.plan.fixed_size,
            precision=precision,
            stored=loaded.files,
            gate=lambda candidate: gate()(candidate),
            judged=judged_by(manifest),
            cache=EngineCache(default_cache_folder()),
            say=progress or _log.info,
        )
        built = make_engine(engine_name, request)
        self.engine: Engine = built
        self.precision = built.precision
        height, width = manifest.plan.canvas
        self.batch_size = batch_size or max(1, _BATCH_PIXELS[self.engine.device] // (height * width))

    def __call__(
        self,
        source: str | Path | Study | NDArray[np.generic],
        *,
        spacing: tuple[float, ...] | None = None,
        case: str = "array",
    ) -> Result:
        """Segment one case.

        Args:
            source: a file, a folder with one DICOM series, a study, or an array: [row, column] or [row, column, 3]
                for a model of planar images, else a volume [i, j, k] along Right, Anterior, Superior.
            spacing: mm between the voxels of an array, an axis each; None for the model's own.
            case: name of an array, after which its outputs are called.

        Returns:
            The result.

        Raises:
            ReadError: if the source cannot be read.
            DomainError: if it lies outside the model's domain, and force is off.
            UsageError: if it does not exist or is more than one case, or the spacing is none or not for an array.
        """
        if isinstance(source, np.ndarray):
            source = self._array_study(source, spacing, case)
        elif spacing is not None or case != "array":
            kind = "study" if isinstance(source, Study) else "file"
            raise UsageError(f"a {kind} tells its own name and spacing", remedy="leave them out, or give an array")
        given = source if isinstance(source, Study) else _only_case(_path(source))
        result = self.restore(self._infer(given.case, lambda: self._prepare(given, read_study)))
        if result.error is not None:
            raise result.error
        return result

    def stream(self, sources: Iterable[str | Path] | str | Path) -> Iterator[Result]:
        """Segment many cases, in a fixed order; the next ones are read while the engine works.

        Args:
            sources: files and folders, searched recursively.

        Yields:
            A result a case; a failed case is a result with an error.

        Raises:
            UsageError: if a source does not exist, or there is nothing to segment.
        """
        given = [sources] if isinstance(sources, str | Path) else list(sources)
        with closing(IsolatedReader(self.read_timeout)) as reader:
            cases = discover([_path(source) for source in given], reader=reader)
        yield from self.stream_cases(cases)

    def stream_cases(self, cases: Iterable[CaseFiles]) -> Iterator[Result]:
        """`stream` over cases that were found already, taken from the iterable as they are needed."""
        for inferred in self.infer_cases(cases):
            yield self.restore(inferred)

    def infer_cases(
        self,
        cases: Iterable[CaseFiles],
        whole_pixels: int | None = None,
        begin: Callable[[CaseFiles, Callable[[], bool]], bool] = lambda *_: True,
    ) -> Generator[Inferred]:
        """Run the engine on case after case, while the next ones are read in a process of their own.

        What follows, `restore` and saving, may run in another thread.

        Args:
            cases: taken as they are needed.
            whole_pixels: a picture of more pixels fails with a `LargePictureError`, to be segmented part by part.
            begin: called in the reader's thread before a case is read, with a function that tells whether the stream
                was left meanwhile; where it returns False, the case is passed over.

        Yields:
            An entry a case, in their order; that of one which is passed over has neither maps nor error.
        """
        waiting = iter(cases)
        left = Event()
        isolated = IsolatedReader(self.read_timeout, whole_pixels=whole_pixels)
        with ThreadPoolExecutor(1, "cdal-read") as threads, closing(isolated) as reader:
            pending: deque[tuple[CaseFiles, Future[_Ready | None]]] = deque()

            def ready(case: CaseFiles) -> _Ready | None:
                return self._prepare(case, reader.read) if begin(case, left.is_set) else None

            def submit(count: int) -> None:
                pending.extend((case, threads.submit(ready, case)) for case in islice(waiting, count))

            try:
                submit(_LOOKAHEAD)
                while pending:
                    case, future = pending.popleft()
                    submit(1)
                    yield self._infer(case.case, future.result)
            finally:
                left.set()
                for _, future in pending:
                    future.cancel()

    def restore(self, inferred: Inferred) -> Result:
        """Bring an inferred case to the grid of its source; any error becomes a failed result."""
        case, timing, error = inferred.case, inferred.timing, inferred.error
        study, prepared, mean, spread = inferred.study, inferred.prepared, inferred.mean, inferred.spread
        if study is None or prepared is None or mean is None or spread is None:
            return Result(case, self.manifest, error=error)
        try:
            with timed(timing, "restore"):
                segmentation = self._segmentation(study, prepared.restore(mean), prepared.restore(spread))
        except Exception as failure:  # noqa: BLE001 - it is reported as the failure of this case
            return Result(case, self.manifest, error=as_cdal_error(failure, case))
        return Result(case, self.manifest, segmentation, timing=timing)

    def votes_of(self, study: Study) -> tuple[NDArray[np.float32], NDArray[np.float32], Segmentation]:
        """Segment a study that fits the model, and keep what its mask was decided from.

        Returns:
            Vote mean and spread on the label scale [-1, 1] and on the grid of the study, float32 [channel, i, j, k],
            and the segmentation.
        """
        prepared = prepare(study, self.manifest.plan)
        mean, spread = map(prepared.restore, self.run(prepared.images))
        return mean, spread, self._segmentation(study, mean, spread)

    def _prepare(self, source: CaseFiles | Study, read: Callable[[CaseFiles], Study]) -> _Ready:
        """Read, check and cut a case into network inputs."""
        timing = Timing()
        with timed(timing, "read"):
            study = source if isinstance(source, Study) else read(source)
        with timed(timing, "prepare"):
            fitting = match_channels(study, self.manifest.plan)
            if not self.force:
                check_domain(fitting, self.manifest.plan)
            prepared = prepare(fitting, self.manifest.plan)
        return study, prepared, timing

    def _infer(self, case: str, ready: Callable[[], _Ready | None]) -> Inferred:
        """Run the engine on a prepared case; any error becomes a failed one."""
        try:
            given = ready()
            if given is None:
                return Inferred(case)
            study, prepared, timing = given
            with timed(timing, "engine"):
                mean, spread = self.run(prepared.images)
        except Exception as error:  # noqa: BLE001 - it is reported as the failure of this case
            return Inferred(case, error=as_cdal_error(error, case))
        return Inferred(case, study, prepared, mean, spread, timing=timing)

    def run(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Vote mean and spread of network inputs, batch by batch: [n, channel, h, w] -> [n, label, h, w] each.

        Raises:
            EngineError: if the engine fails.
        """
        mean, spread = in_parts(self.engine.run, images, self.batch_size)
        if not (np.isfinite(mean).all() and np.isfinite(spread).all()):
            raise EngineError(
                f"the engine '{self.engine.name}' returned values that are no numbers", remedy="use --engine torch"
            )
        return mean, spread

    def _segmentation(self, study: Study, mean: NDArray[np.float32], spread: NDArray[np.float32]) -> Segmentation:
        manifest = self.manifest
        mask = decide(mean, manifest.labels, manifest.decision, manifest.polarity)
        probability, probability_spread = probabilities(mean, spread, manifest.decision, manifest.polarity)
        scale = manifest.confidence.interval_scale
        sizes = measure(mean, spread, mask, manifest.labels, study, manifest.decision, manifest.polarity, scale)
        return Segmentation(study, mask, probability, probability_spread, sizes)

    def _array_study(self, array: NDArray[np.generic], spacing: tuple[float, ...] | None, case: str) -> Study:
        plan = self.manifest.plan
        if array.dtype.kind not in "biuf" or not array.size or np.ma.is_masked(array):
            raise UsageError("the array does not hold a real number everywhere", remedy="give one that does")
        if case in ("", "..") or Path(case).name != case:
            raise UsageError(f"'{case}' is no name for files", remedy="give one without folders")
        image = np.asarray(array, np.float32)
        if not np.isfinite(image).all():
            raise ReadError("the array holds values that are no numbers", remedy="replace them")
        if plan.kind == "planar" and image.ndim in (2, 3):
            channels = image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)
            if spacing is None:
                return Study(case, channels[..., None], None, Source("array"))
            down, across = _checked_spacing(spacing, 2)
            return Study(case, channels[..., None], None, Source("array"), (down, across))
        if plan.kind == "volume" and image.ndim == 3:
            steps = (plan.spacing_mm or (1.0, 1.0, 1.0)) if spacing is None else _checked_spacing(spacing, 3)
            return Study(case, image[None], np.diag([*steps, 1.0]), Source("array"))
        raise UsageError(
            f"an array of shape {image.shape} is no {'volume' if plan.kind == 'volume' else 'picture'}",
            remedy="give [i, j, k] for a volume, [row, column] or [row, column, 3] for a planar image",
        )


def _checked_spacing(spacing: tuple[float, ...], axes: int) -> tuple[float, ...]:
    """Raises UsageError for what is not one length an axis."""
    try:
        steps = tuple(map(float, spacing))
    except (TypeError, ValueError):
        steps = ()
    if len(steps) != axes or not all(0 < step < math.inf for step in steps):
        raise UsageError(f"spacing is {spacing}", remedy=f"give {axes} numbers above 0, in mm, an axis each")
    return steps


def _path(source: str | Path) -> Path:
    """Raises UsageError for an empty text, as of a variable that is not set, which would be the current folder."""
    if source == "":
        raise UsageError("the source is an empty text", remedy="name a file or folder, '.' for this one")
    return Path(source)


def _only_case(path: Path) -> CaseFiles:
    cases = discover([path])
    if len(cases) > 1:
        raise UsageError(f"this holds {len(cases)} cases", where=path, remedy="use Segmenter.stream for many")
    return cases[0]
