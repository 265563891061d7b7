"""Which recordings the CUDA-graph engine makes; recording itself needs a GPU."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cdal_sdk.engines import cuda_graph
from cdal_sdk.engines.base import VoteMaps
from cdal_sdk.engines.cuda_graph import CudaGraphEngine


@pytest.fixture
def made(monkeypatch) -> list[tuple[int, ...]]:
    """Shapes in the order of their recordings, each of which doubles and halves its images."""
    shapes: list[tuple[int, ...]] = []

    class Recording:
        def __init__(self, module, shape, dtype):
            shapes.append(shape)
            self.most = shape[0]

        def __call__(self, images):
            assert len(images) <= self.most
            return VoteMaps(2 * images, images / 2)

    monkeypatch.setattr(cuda_graph, "_Recording", Recording)
    return shapes


def batch(count: int, side: int = 4) -> np.ndarray:
    return np.arange(count * side * side, dtype=np.float32).reshape(count, 1, side, side)


def test_volumes_with_other_numbers_of_slices_share_a_recording(made):
    engine = CudaGraphEngine(None, "fp16")
    for count in (35, 40, 63, 32):
        mean, spread = engine.run(batch(count))
        assert np.array_equal(mean, 2 * batch(count))
        assert np.array_equal(spread, batch(count) / 2)
    assert made == [(32, 1, 4, 4)]
    engine.run(batch(1))
    engine.run(batch(3))
    assert made[1:] == [(1, 1, 4, 4), (2, 1, 4, 4)]


def test_the_recording_longest_unused_goes_first(made):
    engine = CudaGraphEngine(None, "bf16")
    for side in (4, 8, 12, 16, 4, 20, 4, 8):
        engine.run(batch(1, side))
    assert [shape[-1] for shape in made] == [4, 8, 12, 16, 20, 8]


def test_threads_take_turns_with_a_recording(monkeypatch):
    """It has one place for its image and one for its result."""

    class Recording:
        def __init__(self, module, shape, dtype):
            self.image = np.zeros(shape, np.float32)

        def __call__(self, images):
            self.image[:] = images
            time.sleep(1e-4)
            return VoteMaps(self.image.copy(), self.image.copy())

    monkeypatch.setattr(cuda_graph, "_Recording", Recording)
    engine = CudaGraphEngine(None, "fp16")
    with ThreadPoolExecutor(2) as threads:
        twins = [np.full((1, 1, 4, 4), value, np.float32) for value in (1, 2)] * 50
        for given, found in zip(twins, threads.map(engine.run, twins), strict=True):
            assert np.array_equal(found.mean, given)
