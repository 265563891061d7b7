"""Pictures of any size: a band of rows is read, segmented, blended, restored and written after the other.

What is in memory at once grows with a picture's width, and not with its height. The results are those of the usual way,
since every step of it is local: resampling, intensities, windows, their blending and the decision.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdal_sdk.bundle import Manifest
from cdal_sdk.confidence import review_reasons
from cdal_sdk.masks import count, decide, probabilities, sizes_of
from cdal_sdk.readers import CaseFiles, IsolatedReader
from cdal_sdk.readers.large_picture import Shape
from cdal_sdk.segmenter.predictor import Segmenter
from cdal_sdk.segmenter.result import Timing, timed
from cdal_sdk.slicing import (
    Tiling,
    check_domain,
    map_intensity,
    match_channels,
    padded_size,
    planar_size,
    resample_rows,
    rows_behind,
)
from cdal_sdk.study import LabelSize, Segmentation, Source, Study
from cdal_sdk.writers import MaskRows

__all__ = ["LargeResult", "segment_large"]

_BAND_PIXELS = 2**20  # of a picture, that are in memory as numbers at once
_SHOWN = 500  # rows or columns of a picture for people: as many as its preview shows

Floats = NDArray[np.float32]


@dataclass
class LargeResult:
    """What is known of a large picture's segmentation, besides the mask itself.

    Attributes:
        shape: of the picture.
        volumes: size by label name.
        mean_spread: over the labelled pixels.
        small: the segmentation, shrunk for people.
        review: reasons to look at it.
        timing: time a stage.
    """

    shape: Shape
    volumes: dict[str, LabelSize]
    mean_spread: float
    small: Segmentation
    review: list[str]
    timing: Timing


def segment_large(segmenter: Segmenter, files: CaseFiles, mask: Path) -> LargeResult:
    """Segment a picture of any size.

    Args:
        segmenter: its model's plan is `by_parts`.
        files: the picture.
        mask: file for the mask, written as `MaskRows`.

    Raises:
        DomainError: if the picture lies outside the model's domain, and force is off.
        ReadError: if it cannot be read.
        MissingExtraError: if libvips is not installed.
    """
    reader = IsolatedReader(segmenter.read_timeout)
    try:
        work = _Work(segmenter, files, reader)
        with mask.open("wb") as stream:
            stored = MaskRows(stream, (work.shape.height, work.shape.width))
            for rows in work.masks():
                with timed(work.timing, "write"):
                    stored.add(rows)
            stored.finish()
    finally:
        reader.close()
    return work.result()


class _Work:
    """One picture on its way."""

    def __init__(self, segmenter: Segmenter, files: CaseFiles, reader: IsolatedReader) -> None:
        self._segmenter = segmenter
        self._manifest: Manifest = segmenter.manifest
        self._plan = segmenter.manifest.plan
        self._files, self._reader = files, reader
        self._path = files.paths[0]
        self.timing = Timing()
        with timed(self.timing, "read"):
            self.shape = reader.open_large(self._path)
        self._size = (self.shape.height, self.shape.width)
        self._working = planar_size(self._size, self._plan)
        self._tiling = Tiling.over(padded_size(self._working, self._plan), self._plan.canvas, self._plan.overlap)
        labels = len(self._manifest.labels)
        self._tally = _Tally(np.zeros((labels, 3), np.int64))
        self._small = [_Shrunk(self._size, channels) for channels in (self.shape.channels, labels, labels)]

    def masks(self) -> Iterator[NDArray[np.uint8]]:
        """The mask, rows from above to below."""
        waiting, below = _Rows(), 0
        for maps in self._blended():
            waiting.add(maps)
            done = waiting.stop == self._working[0]
            while below < self.shape.height:
                rows = range(below, min(below + self._step(), self.shape.height))
                behind = rows_behind(rows, self._working[0], self._size[0])
                if behind.stop > waiting.stop and not done:
                    break
                with timed(self.timing, "restore"):
                    part = resample_rows(waiting.take(behind), behind, rows, self._working, self._size)
                    mask = self._decide(part, rows)
                yield mask
                below = rows.stop
            waiting.forget(rows_behind(range(below, below + 1), self._working[0], self._size[0]).start)

    def result(self) -> LargeResult:
        """What is known when all masks are taken."""
        manifest, tally = self._manifest, self._tally
        image, claimed, spread = (small.finish() for small in self._small)
        values = np.array([label.value for label in manifest.labels], np.uint8)
        mask = np.where(claimed.max(axis=0) > 0.5, values[claimed.argmax(axis=0)], 0).astype(np.uint8)
        source = Source("image", self._files.paths)
        study = Study(self._files.case, image[..., np.newaxis], None, source)
        sizes = sizes_of(tally.counts, manifest.labels, study)
        small = Segmentation(study, mask[..., np.newaxis], claimed[..., np.newaxis], spread[..., np.newaxis], sizes)
        reasons = review_reasons(small, manifest.labels, manifest.confidence, tally.mean_spread)
        return LargeResult(self.shape, sizes, tally.mean_spread, small, reasons, self.timing)

    def _step(self) -> int:
        return max(1, _BAND_PIXELS // self.shape.width)

    def _blended(self) -> Iterator[Floats]:
        """Vote means and spreads, one above the other, [2 label, rows, width] on the working grid."""
        for start, band in self._tiling.blend_rows(self._votes()):
            yield band[:, : max(0, self._working[0] - start), : self._working[1]]

    def _votes(self) -> Iterator[Floats]:
        """For each row of windows, what the engine says, [window, 2 label, *tile]."""
        height, width = self._tiling.tile
        waiting = _Rows()
        inputs = self._inputs()
        for top, lefts in self._tiling.rows.items():
            while waiting.stop < top + height:
                waiting.add(next(inputs))
            waiting.forget(top)
            rows = waiting.take(range(top, top + height))
            windows = np.stack([rows[..., left : left + width] for left in lefts])
            with timed(self.timing, "engine"):
                maps = self._segmenter.run(windows)
            yield np.concatenate(maps, axis=1)

    def _inputs(self) -> Iterator[Floats]:
        """Network inputs, [channel, rows, width] on the padded working grid."""
        height, width = self._working
        padded = self._tiling.size
        lowest = self._plan.intensity.target[0]
        stored = _Rows()
        step = max(1, self._step() * height // self.shape.height)
        for start in range(0, height, step):
            rows = range(start, min(start + step, height))
            behind = rows_behind(rows, self._size[0], height)
            if behind.stop > stored.stop:
                stored.add(self._read(range(stored.stop, behind.stop)))
            stored.forget(behind.start)
            with timed(self.timing, "prepare"):
                part = resample_rows(stored.take(behind), behind, rows, self._size, self._working)
                part = map_intensity(part, self._plan.intensity)
                yield np.pad(part, ((0, 0), (0, 0), (0, padded[1] - width)), constant_values=lowest)
        yield np.full((self._plan.channels, padded[0] - height, padded[1]), lowest, np.float32)

    def _read(self, rows: range) -> Floats:
        """Rows of the picture, [channel, rows, width], as the model takes them."""
        with timed(self.timing, "read"):
            stored = self._reader.rows(self._path, self.shape, rows)
        with timed(self.timing, "prepare"):
            image = np.ascontiguousarray(stored.transpose(2, 0, 1), np.float32)
            study = Study(self._files.case, image[..., np.newaxis], None, Source("image", self._files.paths))
            fitting = match_channels(study, self._plan)
            if not self._segmenter.force:
                check_domain(fitting, self._plan)
            self._small[0].add(rows, image)
        return fitting.image[..., 0]

    def _decide(self, maps: Floats, rows: range) -> NDArray[np.uint8]:
        """The mask of some rows [2 label, rows, width]; everything else that is to be known of them is noted."""
        manifest = self._manifest
        mean, spread = (half[..., np.newaxis] for half in np.split(maps, 2))
        mask = decide(mean, manifest.labels, manifest.decision, manifest.polarity)
        probability, deviation = probabilities(mean, spread, manifest.decision, manifest.polarity)
        scale = manifest.confidence.interval_scale
        counts = count(mean, spread, mask, manifest.labels, manifest.decision, manifest.polarity, scale)
        self._tally.add(counts, deviation.max(axis=0)[(probability > 0.5).any(axis=0)])
        self._small[1].add(rows, np.stack([mask[..., 0] == label.value for label in manifest.labels]))
        self._small[2].add(rows, deviation[..., 0])
        return mask[..., 0]


class _Rows:
    """Rows that came in, of which those above are no longer needed."""

    def __init__(self) -> None:
        self._start = self.stop = 0
        self._parts: list[Floats] = []

    def add(self, part: Floats) -> None:
        self._parts.append(part)
        self.stop += part.shape[1]

    def take(self, rows: range) -> Floats:
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts, axis=1)]
        return self._parts[0][:, rows.start - self._start : rows.stop - self._start]

    def forget(self, above: int) -> None:
        while self._parts and above > self._start:
            drop = min(above - self._start, self._parts[0].shape[1])
            rest = self._parts[0][:, drop:].copy()  # a view would keep all of it
            self._parts[:1] = [rest] if rest.shape[1] else []
            self._start += drop


@dataclass
class _Tally:
    """Pixels of each label (see `count`), and the spread over all labelled ones."""

    counts: NDArray[np.int64]
    spread: float = 0.0
    claimed: int = 0

    def add(self, counts: NDArray[np.int64], spread: Floats) -> None:
        """The counts of a band, and the spread of its labelled pixels."""
        self.counts += counts
        self.spread += float(spread.sum(dtype=np.float64))
        self.claimed += spread.size

    @property
    def mean_spread(self) -> float:
        return self.spread / self.claimed if self.claimed else 0.0


class _Shrunk:
    """A picture shrunk to what people look at, by the mean over blocks, while its rows pass."""

    def __init__(self, size: tuple[int, int], channels: int) -> None:
        self._block = -(-max(size) // _SHOWN)
        self._columns = np.arange(0, size[1], self._block)
        self._widths = np.diff([*self._columns, size[1]]).astype(np.float32)
        self._heights = np.zeros(-(-size[0] // self._block), np.float32)  # rows that passed, for each block
        self._sum: Floats = np.zeros((channels, len(self._heights), len(self._columns)), np.float32)

    def add(self, rows: range, values: NDArray[np.generic]) -> None:
        """Rows [channel, row, column]."""
        sums = np.add.reduceat(values, self._columns, axis=2, dtype=np.float32)
        for number, row in enumerate(rows):
            self._sum[:, row // self._block] += sums[:, number]
            self._heights[row // self._block] += 1

    def finish(self) -> Floats:
        """The means, when all rows have passed."""
        self._sum /= np.maximum(np.outer(self._heights, self._widths), 1)  # in place: it is as large as they are
        return self._sum
