"""Speed of the engines: `python -m cdal_bench.engine_speed` writes one JSON with every figure of one run.

The measure is the chest X-ray configuration of the paper's release (256 x 256, T = 2, K = 5, random weights: time does
not depend on their values) on one image, from the way the release runs it to each engine that can run here; then a
volume through the whole segmenter. Each row has a process of its own, so that its peak memory is its own.

The ways, all in float32 unless they say otherwise:
- published: eager; the condition encoder at every step and vote; FIR by zero insertion, padding and convolution;
- plain: the same with FIR as one convolution;
- fused: eager; the encoder once an image;
- engines by name and precision.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from cdal_sdk.diffusion import SamplerNoise, Sampling, Schedule, published_betas, sample, vote_statistics
from cdal_sdk.engines import Precision, Target, VoteMaps, builder_of, candidates, engine_kind, fuse, pick_device
from cdal_sdk.engines.eager import TorchEngine
from cdal_sdk.errors import CdalError
from cdal_sdk.network import Generator, GeneratorConfig
from cdal_sdk.network.resample import FirDownsample, FirUpsample

__all__ = ["Row", "main", "measure_way"]

_SIDE, _VOTES = 256, 5
_CHEST_XRAY = GeneratorConfig(
    image_channels=1,
    label_channels=1,
    image_size=_SIDE,
    width=32,
    multipliers=(1, 1, 2, 2, 4, 4),
    blocks_per_level=1,
    attention_resolutions=(16,),
    encoder_blocks=6,
    latent_size=100,
    latent_width=256,
    latent_layers=3,
)
_MATRIX = 2048  # side of the matrices whose product gives the machine's rate


@dataclass(frozen=True)
class Row:
    """One way of running the configuration.

    Attributes:
        way: its name.
        seconds: median for one image.
        build_seconds: to build and open the engine; 0 for eager ways.
        peak_memory_gb: of the process.
        difference: largest of the vote mean from the fused way in float32, on the label scale.
    """

    way: str
    seconds: float
    build_seconds: float
    peak_memory_gb: float
    difference: float


class _GenericResample(nn.Module):
    """FIR resampling in three general steps: insert zeros, pad, convolve, drop samples."""

    def __init__(self, *, up: bool) -> None:
        super().__init__()
        self.up = up
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("kernel", torch.outer(taps, taps)[None, None] / (16 if up else 64))

    def forward(self, x: Tensor) -> Tensor:
        """Resample every channel as an image of its own."""
        n, channels, height, width = x.shape
        x = x.reshape(n * channels, 1, height, width)
        if self.up:
            x = F.pad(x[:, :, :, None, :, None], (0, 1, 0, 0, 0, 1)).reshape(n * channels, 1, 2 * height, 2 * width)
        x = F.conv2d(F.pad(x, (2, 1, 2, 1) if self.up else (1, 1, 1, 1)), self.kernel)  # type: ignore[arg-type]
        x = x if self.up else x[:, :, ::2, ::2]
        return x.reshape(n, channels, *x.shape[2:])


def _model() -> tuple[Generator, Sampling]:
    torch.manual_seed(0)
    generator = Generator(_CHEST_XRAY).eval().requires_grad_(False)
    for parameter in generator.parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, parameter[0].numel() ** -0.5)
    schedule = Schedule.of(published_betas(2))
    return generator, Sampling(schedule, (1, _SIDE, _SIDE), _CHEST_XRAY.latent_size, _VOTES, seed=0)


def _image() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((1, 1, _SIDE, _SIDE)).astype(np.float32)


def _plain(generator: Generator, sampling: Sampling, *, generic_fir: bool) -> Callable[[NDArray[np.float32]], VoteMaps]:
    """The sampler over the generator's own forward, votes as a batch."""
    if generic_fir:
        for module in generator.modules():
            for name, child in list(module.named_children()):
                if isinstance(child, FirDownsample | FirUpsample):
                    setattr(module, name, _GenericResample(up=isinstance(child, FirUpsample)))
    noise = sampling.noise()

    def run(images: NDArray[np.float32]) -> VoteMaps:
        image = torch.from_numpy(images).expand(_VOTES, -1, -1, -1)

        def denoise(x: Tensor, step: int) -> Tensor:
            result: Tensor = generator(x, torch.full((_VOTES,), step), image, noise.z[step])
            return result

        with torch.inference_mode():
            samples = sample(denoise, SamplerNoise(noise.x_T, noise.z, noise.posterior), sampling.schedule)
            mean, spread = vote_statistics(samples[:, None])
        return VoteMaps(mean.numpy(), spread.numpy())

    return run


def measure_way(way: str, repeats: int) -> Row:
    """Measure "published", "plain", "fused" or "<engine> <precision>"."""
    generator, sampling = _model()
    image = _image()
    reference = TorchEngine(generator, sampling, "cpu").run(image).mean
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        if way in ("published", "plain"):
            run = _plain(generator, sampling, generic_fir=way == "published")
        elif way == "fused":
            run = TorchEngine(generator, sampling, "cpu").run
        else:
            run = _engine(way, generator, sampling, Path(folder))
        difference = float(np.abs(run(image).mean - reference).max())  # the first run also compiles and allocates
        build = 0.0 if way in ("published", "plain", "fused") else time.perf_counter() - start
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            run(image)
            seconds.append(time.perf_counter() - start)
    return Row(way, statistics.median(seconds), build, _peak_memory(), difference)


def _engine(way: str, generator: Generator, sampling: Sampling, folder: Path) -> Callable[..., VoteMaps]:
    name, precision = way.split()
    builder = builder_of(engine_kind(name))
    target = Target(sampling, pick_device("auto"), precision, "benchmark", fixed_size=True)  # type: ignore[arg-type]
    path = folder / f"engine{builder.suffix}"
    builder.build(generator, target, path)
    return builder.load(path, target).run


def _peak_memory() -> float:
    """Gigabytes; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _arithmetic() -> float:
    """Floating-point operations of the fused way for one image, convolutions and products only."""
    generator, sampling = _model()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        fuse(generator, sampling)(torch.from_numpy(_image()))
    return float(counter.get_total_flops())


def _matrix_rate(dtype: torch.dtype, repeats: int = 10) -> float:
    """Operations a second of a large matrix product, the best of some."""
    device = pick_device("auto")
    a, b = (torch.randn(_MATRIX, _MATRIX, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        (a @ b)[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return 2 * _MATRIX**3 / best


def _ways() -> list[str]:
    """The eager ways, then every engine and precision that can run here, slowest first."""
    ways = ["published", "plain", "fused"]
    device = pick_device("auto")
    for kind in reversed(candidates(device)):
        try:
            precisions: tuple[Precision, ...] = builder_of(kind).precisions(device)
        except CdalError:
            continue
        ways += [f"{kind.name} {precision}" for precision in reversed(precisions)]
    return ways


def _alone(function: Callable[..., Row | float], *arguments: object) -> Row | float:
    """Run in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _volume_seconds(engine: str) -> float:
    """One synthetic hippocampus volume, from NIfTI to mask, with everything loaded and compiled before."""
    from cdal_sdk import Segmenter
    from cdal_sdk.example import write_example

    with tempfile.TemporaryDirectory() as folder:
        path = next(p for p in write_example(Path(folder)).nifti.iterdir())
        segmenter = Segmenter("hippocampus", engine=engine)
        segmenter(path)
        start = time.perf_counter()
        segmenter(path).save(Path(folder) / "masks")
        return time.perf_counter() - start


def main() -> None:
    """Measure and write JSON to the standard output."""
    parser = argparse.ArgumentParser(prog="python -m cdal_bench.engine_speed", description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ways", nargs="*", help='such as published "openvino bf16"; by default all')
    parser.add_argument("--volume", default="auto", help="engine for the volume; empty for none")
    options = parser.parse_args()
    operations, rate = _alone(_arithmetic), _alone(_matrix_rate, torch.bfloat16)
    rows = [_alone(measure_way, way, options.repeats) for way in options.ways or _ways()]
    seconds = {row.way: row.seconds for row in rows if isinstance(row, Row)}
    fastest = min(seconds.values())
    result: dict[str, object] = {
        "threads": torch.get_num_threads(),
        "gigaflop": float(operations) / 1e9,  # type: ignore[arg-type]
        "bf16_matrix_gigaflops": float(rate) / 1e9,  # type: ignore[arg-type]
        "rows": [asdict(row) for row in rows if isinstance(row, Row)],
        "share_of_bf16_rate": float(operations) / fastest / float(rate),  # type: ignore[arg-type]
    }
    for way in ("published", "plain"):
        if way in seconds:
            result[f"times_faster_than_{way}"] = seconds[way] / fastest
    if options.volume:
        result["hippocampus_volume_seconds"] = _alone(_volume_seconds, options.volume)
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
