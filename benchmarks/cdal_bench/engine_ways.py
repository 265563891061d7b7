"""The ways of running one configuration that `cdal_bench.engine_speed` compares, and what one of them costs.

Configuration: the paper's chest X-ray network (`paper:cxr`, 256 x 256, T = 2, K = 5), one image, random weights, as
time does not depend on their values. All ways compute the same result from the same noise; in float32 they are:

- published: eager, the condition encoder at every step and vote, every FIR resampling in general steps (see
  `published_cdal`); the votes are one batch;
- published-by-vote: the same, one vote after the other, whose maps stay in the cache of a CPU;
- plain: the votes as a batch, with each FIR resampling as one depthwise convolution, which is this package's network;
- fused: eager; the encoder once an image. The float32 reference;
- engines, by name and precision; those in INT8 are calibrated on the image itself, as time does not depend on it.
"""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cdal_bench.configurations import PAPER
from cdal_bench.engine_report import SpeedRow
from cdal_bench.memory import largest_mb
from cdal_bench.published_cdal import PublishedCdal, make_generic
from cdal_sdk.diffusion import Sampling, sample, vote_statistics
from cdal_sdk.engines import ENGINES, Precision, Target, VoteMaps, builder_of, engine_kind, fuse, pick_device
from cdal_sdk.engines.eager import TorchEngine
from cdal_sdk.errors import CdalError
from cdal_sdk.network import Generator

__all__ = ["EAGER", "arithmetic", "batched_way", "fused_mean", "measure_way", "ways"]

EAGER = ("published", "published-by-vote", "plain", "fused")
_MANIFEST = PAPER["cxr"]
_QUANTISERS = {"openvino-int8": "nncf", "tensorrt-rtx-int8": "onnxruntime"}  # needed to build, not to run
_MOST_RUNS, _SECONDS = 15, 20.0  # a fast way runs more often than it must, for so long
_Run = Callable[[NDArray[np.float32]], VoteMaps]


def batched_way(generator: Generator, sampling: Sampling) -> _Run:
    """The sampler over the generator's own forward, the encoder in it, the votes as a batch."""
    noise = sampling.noise()

    def run(images: NDArray[np.float32]) -> VoteMaps:
        image = torch.from_numpy(images).expand(sampling.votes, -1, -1, -1)

        def denoise(x: Tensor, step: int) -> Tensor:
            result: Tensor = generator(x, torch.full((sampling.votes,), step), image, noise.z[step])
            return result

        with torch.inference_mode():
            mean, spread = vote_statistics(sample(denoise, noise, sampling.schedule)[:, None])
        return VoteMaps(mean.numpy(), spread.numpy())

    return run


def ways() -> list[str]:
    """The eager ways, then every engine and precision that can run here, slowest first."""
    found, device = list(EAGER), pick_device("auto")
    for kind in reversed([kind for kind in ENGINES if device in kind.devices and kind.name != "torch"]):
        try:
            precisions: tuple[Precision, ...] = builder_of(kind).precisions(device)
        except CdalError:
            continue
        if kind.name in _QUANTISERS and importlib.util.find_spec(_QUANTISERS[kind.name]) is None:
            continue
        found += [f"{kind.name} {precision}" for precision in reversed(precisions)]
    return found


def arithmetic() -> float:
    """Floating-point operations of the fused way for one image, convolutions and products only."""
    generator, sampling = _model()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        fuse(generator, sampling)(torch.from_numpy(_image()))
    return float(counter.get_total_flops())


def fused_mean() -> NDArray[np.float32]:
    """The reference's result, with which each way's is compared."""
    generator, sampling = _model()
    return TorchEngine(generator, sampling, "cpu").run(_image()).mean


def measure_way(way: str, repeats: int, expected: NDArray[np.float32]) -> SpeedRow:
    """Measure a way in this process, after one run that also compiles and allocates.

    Args:
        way: of `ways`.
        repeats: runs at least.
        expected: from `fused_mean`.
    """
    (generator, sampling), image = _model(), _image()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = _eager(way, generator, sampling) if way in EAGER else _engine(way, generator, sampling, Path(folder))
        difference = float(np.abs(run(image).mean - expected).max())
        build = 0.0 if way in EAGER else time.perf_counter() - start
        seconds: list[float] = []
        while len(seconds) < repeats or (sum(seconds) < _SECONDS and len(seconds) < _MOST_RUNS):
            start = time.perf_counter()
            run(image)
            seconds.append(time.perf_counter() - start)
    return SpeedRow(way, statistics.median(seconds), tuple(seconds), build, largest_mb() / 1000, difference)


def _eager(way: str, generator: Generator, sampling: Sampling) -> _Run:
    if way == "fused":
        return TorchEngine(generator, sampling, "cpu").run
    if way == "published-by-vote":
        return PublishedCdal(generator, sampling, "cpu").run
    if way == "published":
        make_generic(generator)
    return batched_way(generator, sampling)


def _engine(way: str, generator: Generator, sampling: Sampling, folder: Path) -> _Run:
    name, precision = way.split()
    builder = builder_of(engine_kind(name))
    target = Target(
        sampling,
        pick_device("auto"),
        precision,  # type: ignore[arg-type]
        "benchmark",
        fixed_size=True,
        calibration=(_image(),),
    )
    path = folder / f"engine{builder.suffix}"
    builder.build(generator, target, path)
    return builder.load(path, target).run


def _model() -> tuple[Generator, Sampling]:
    torch.manual_seed(0)
    generator = Generator(_MANIFEST.network).eval().requires_grad_(False)
    for parameter in generator.parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, parameter[0].numel() ** -0.5)
    return generator, _MANIFEST.sampling(seed=0)


def _image() -> NDArray[np.float32]:
    network, canvas = _MANIFEST.network, _MANIFEST.plan.canvas
    return np.random.default_rng(0).standard_normal((1, network.image_channels, *canvas)).astype(np.float32)
