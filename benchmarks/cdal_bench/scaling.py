"""How time and memory grow with image size, batch, votes, steps and number of cases."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from cdal_bench.configurations import Subject, load_subject
from cdal_bench.contenders import OWN, PLAIN, is_ours
from cdal_bench.inputs import find_inputs
from cdal_bench.memory import peak_mb, resident_mb
from cdal_bench.own_engines import make_own_engine
from cdal_bench.results import Result
from cdal_bench.series import Series, fit
from cdal_sdk.bundle import load_model
from cdal_sdk.diffusion import Schedule, paper_betas
from cdal_sdk.engines import Device, Engine
from cdal_sdk.errors import UsageError
from cdal_sdk.segmenter import Segmenter

if TYPE_CHECKING:
    from cdal_bench.request import Request

__all__ = ["first_engine", "study_scaling"]

_RUNS = 3
_CASES = 24
_SIDES = (0.5, 1.0, 1.5, 2.0)  # times the canvas
_BATCHES = (1, 2, 4, 8)
_VOTES = (1, 2, 4, 8)
_STEPS = (1, 2, 4, 8)

Point = tuple[float, float, float | None]
"""Size, milliseconds, megabytes."""


def first_engine(asked: Sequence[str], result: Result) -> str:
    """The first engine asked for that could be made; "auto" is the fastest kind, the reference last.

    Raises:
        UsageError: if there is none.
    """
    rows = [row.name for row in result.rows if is_ours(row.name)]
    own = [name.removeprefix(OWN) for name in rows if name != PLAIN] + ["torch"] * (PLAIN in rows)
    for name in asked:
        if name in own or (name == "auto" and own):
            return own[0] if name == "auto" else name
    raise UsageError("there is no engine of ours to study the scaling with", remedy="name one with --engine")


def study_scaling(request: Request, engine: str, say: Callable[[str], None] = lambda _: None) -> tuple[Series, ...]:
    """Measure the growth of a model's costs.

    Args:
        request: model, device and data.
        engine: ours, by name.
        say: told what is being done.
    """
    with tempfile.TemporaryDirectory() as folder:
        subject = load_subject(request.model, Path(folder), request.seed)
        studies: dict[str, Iterator[Point]] = {
            "side": _sides(subject, engine, request.device),
            "batch": _batches(subject, engine, request.device),
            "votes": _votes(subject, engine, request.device),
            "steps": _steps(subject, engine, request.device),
        }
        series: list[Series] = []
        for axis, points in studies.items():
            say(f"scaling: {axis}")
            series += _series(axis, list(points))
        say("scaling: cases")
        path = find_inputs(subject.manifest, request.data, 1, Path(folder)).paths[0]
        series += _series("cases", list(_cases(subject, engine, request.device, path)))
    return tuple(series)


def _series(axis: str, points: Sequence[Point]) -> list[Series]:
    x = [point[0] for point in points]
    series = [fit(axis, "milliseconds", x, [point[1] for point in points])]
    memory = [point[2] for point in points if point[2] is not None]
    return [*series, fit(axis, "megabytes", x, memory)] if len(memory) == len(points) else series


def _engine(
    subject: Subject,
    engine: str,
    device: str,
    *,
    votes: int | None = None,
    steps: int | None = None,
    canvas: tuple[int, int] | None = None,
) -> Engine:
    model = load_model(subject.reference)
    sampling = model.manifest.sampling(votes)
    if steps is not None:
        sampling = replace(sampling, schedule=Schedule.of(paper_betas(steps)))
    if canvas is not None:
        sampling = replace(sampling, label_shape=(sampling.label_shape[0], *canvas))
    return make_own_engine(engine, replace(model, files={}), sampling, device)


def _image(subject: Subject, batch: int = 1, size: tuple[int, int] | None = None) -> NDArray[np.float32]:
    height, width = size or subject.manifest.plan.canvas
    shape = (batch, subject.manifest.network.image_channels, height, width)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _cost(engine: Engine, images: NDArray[np.float32]) -> tuple[float, float | None]:
    """Least milliseconds of a few runs, and the peak memory of another."""
    engine.run(images)
    seconds = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        engine.run(images)
        seconds.append(time.perf_counter() - start)
    gc.collect()
    return 1000 * min(seconds), peak_mb(lambda: engine.run(images), engine.device)


def _sides(subject: Subject, engine: str, device: str) -> Iterator[Point]:
    plan = subject.manifest.plan
    for share in _SIDES:
        side = max(1, round(share * max(plan.canvas) / plan.divisor)) * plan.divisor
        made = _engine(subject, engine, device, canvas=(side, side))
        yield float(side), *_cost(made, _image(subject, size=(side, side)))


def _batches(subject: Subject, engine: str, device: str) -> Iterator[Point]:
    made = _engine(subject, engine, device)
    for batch in _BATCHES:
        yield float(batch), *_cost(made, _image(subject, batch))


def _votes(subject: Subject, engine: str, device: str) -> Iterator[Point]:
    for votes in _VOTES:
        yield float(votes), *_cost(_engine(subject, engine, device, votes=votes), _image(subject))


def _steps(subject: Subject, engine: str, device: str) -> Iterator[Point]:
    for steps in _STEPS:
        yield float(steps), *_cost(_engine(subject, engine, device, steps=steps), _image(subject))


def _cases(subject: Subject, engine: str, device: str, path: Path) -> Iterator[Point]:
    """Time so far and memory held after each of many cases through one segmenter, with one vote."""
    segmenter = Segmenter(subject.reference, engine=engine, device=cast("Device", device), votes=1, force=True)
    with tempfile.TemporaryDirectory() as out:
        segmenter(path).save(out)
        start = time.perf_counter()
        for number in range(1, _CASES + 1):
            segmenter(path).save(out)
            yield float(number), 1000 * (time.perf_counter() - start), resident_mb()
