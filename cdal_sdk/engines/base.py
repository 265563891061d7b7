"""What every engine is, and what every engine module provides."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cdal_sdk.diffusion import SamplerNoise, Sampling
from cdal_sdk.engines.fused import FoldedSampler, FusedSampler
from cdal_sdk.errors import CdalError, EngineError, OutputError
from cdal_sdk.network import Generator

__all__ = [
    "HALF_TYPES",
    "BatchProfile",
    "Builder",
    "BuiltEngine",
    "Device",
    "Engine",
    "Precision",
    "ProbingEngine",
    "Target",
    "Turns",
    "VoteMaps",
    "build_engine",
    "cpu_threads",
    "describe_gpu",
    "exact_float32",
    "fold_for",
    "fuse",
    "in_parts",
    "named_outputs",
    "noise_inputs",
    "pick_device",
]

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
HALF_TYPES: Mapping[Precision, torch.dtype] = MappingProxyType({"fp16": torch.float16, "bf16": torch.bfloat16})


class VoteMaps(NamedTuple):
    """Mean and spread over the votes on the label scale, float32 [n, label, h, w] each."""

    mean: NDArray[np.float32]
    spread: NDArray[np.float32]


def in_parts(run: Callable[[NDArray[np.float32]], VoteMaps], images: NDArray[np.float32], most: int) -> VoteMaps:
    """The maps of images, run at most so many at once."""
    parts = [run(images[start : start + most]) for start in range(0, len(images), most)]
    return VoteMaps(*(np.concatenate(maps) for maps in zip(*parts, strict=True)))


class Engine(Protocol):
    """Runs the whole inference. Two engines with the same model and sampling agree up to rounding.

    An engine may be called from several threads: those with buffers of their own let one in at a time (`Turns`), while
    PyTorch and ONNX Runtime keep nothing between calls.

    Attributes:
        name: as users type it.
        device: "cpu" or "cuda".
    """

    name: str
    device: str

    def run(self, images: NDArray[np.float32]) -> VoteMaps:
        """Images [n, channel, h, w] to vote maps; h and w must be multiples of the network's divisor."""
        ...


class Turns:
    """A lock around what an engine keeps between giving an input and taking the result.

    Else a thread would read what another one's image gave. A deep copy of the engine has a lock of its own.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[Turns], tuple[()]]:
        return Turns, ()


class BuiltEngine(Engine, Protocol):
    """An engine of this package, which tells the precision in which it convolves and multiplies."""

    precision: Precision


class ProbingEngine(BuiltEngine, Protocol):
    """An engine that was built with probes: it tells what every step of the sampler predicted."""

    def probe(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Outputs by name: `mean`, `spread`, and `step<i>`, the vote mean of that step's clean label."""
        ...


class BatchProfile(NamedTuple):
    """Images that an engine takes at once: at least, tuned for, at most."""

    least: int = 1
    best: int = 4
    most: int = 32


DEFAULT_BATCH = BatchProfile()


@dataclass(frozen=True)
class Target:
    """What an engine is built for, besides the weights' values.

    Attributes:
        sampling: schedule, noise, votes and canvas.
        device: "cpu" or "cuda".
        precision: of convolutions and matrix products.
        weights_sha256: identity of the weights.
        fixed_size: whether every image has the canvas's size; else any multiples of the network's divisor below it.
        batch: images at once, where the engine must know.
        islands: layers, named as in the graph, that stay in float32 in a half-precision engine.
        free_noise: whether the noise is an input; without it the sampling's is constant. An engine with free noise
            that is opened here runs with the sampling's, until it is given other noise.
        probes: whether every step of the sampler has an output, see `ProbingEngine`.
        calibration: images [n, channel, h, w] for an engine that is quantised; no part of its identity.
    """

    sampling: Sampling
    device: str
    precision: Precision
    weights_sha256: str
    fixed_size: bool = False
    batch: BatchProfile = DEFAULT_BATCH
    islands: frozenset[str] = frozenset()
    free_noise: bool = False
    probes: bool = False
    calibration: tuple[NDArray[np.float32], ...] = field(default=(), compare=False)

    @property
    def noise(self) -> SamplerNoise | None:
        """What an engine with free noise is given where nothing else is."""
        return self.sampling.noise() if self.free_noise else None

    def calibration_images(self) -> list[NDArray[np.float32]]:
        """One by one, [channel, h, w].

        Raises:
            EngineError: if there are none.
        """
        if not self.calibration:
            raise EngineError(
                "an INT8 engine needs images to calibrate with", remedy="make it by cdal export --int8, with --data"
            )
        return [image for batch in self.calibration for image in batch]

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of the largest image."""
        return self.sampling.label_shape[1:]


class Builder(Protocol):
    """What an engine's module provides: it builds a file, and opens one."""

    suffix: str  # of the file
    needs_device: bool  # to build, not only to run
    takes_islands: bool  # single layers can stay in float32
    takes_free_noise: bool  # the noise can be an input
    offers: tuple[Precision, ...]  # what it can be built in; `precisions` says what of it runs here
    takes_probes: bool  # it builds a `ProbingEngine`, in little time

    def precisions(self, device: str) -> tuple[Precision, ...]:
        """What it computes in here, fastest first; empty where it cannot run on the device.

        Raises:
            MissingExtraError: if its libraries are not installed.
        """
        ...

    def environment(self, device: str) -> Mapping[str, str]:
        """Versions and hardware that a built file depends on."""
        ...

    def build(self, generator: Generator, target: Target, path: Path) -> None:
        """Write the engine of a generator (in eval mode) to a file.

        Raises:
            EngineError: if it cannot be built.
        """
        ...

    def load(self, path: Path, target: Target) -> BuiltEngine:
        """Open a built file.

        Raises:
            EngineError: if it cannot be opened here.
        """
        ...


def build_engine(builder: Builder, generator: Generator, target: Target, path: Path) -> None:
    """Let a builder write its engine.

    Raises:
        EngineError: if it cannot be built.
        OutputError: if the disk is full.
    """
    try:
        builder.build(generator, target, path)
    except CdalError:
        raise
    except OSError as error:
        raise OutputError("the engine cannot be written", where=path, remedy="check the free space") from error
    except Exception as error:  # libraries raise what they like, as when the memory is too small
        what = f"it cannot be built here ({type(error).__name__}: {error})"
        raise EngineError(what, where=path.name, remedy="use another engine") from error


def fuse(generator: Generator, sampling: Sampling, *, probes: bool = False) -> FusedSampler:
    """The float32 reference: generator, unrolled sampler and noise as one module."""
    return FusedSampler(generator, sampling.schedule, sampling.noise(), probes=probes).eval()


def fold_for(generator: Generator, target: Target) -> FoldedSampler:
    """What the engine of a target is made from."""
    sampling = target.sampling
    return FoldedSampler(
        generator, sampling.schedule, sampling.noise(), free_noise=target.free_noise, probes=target.probes
    ).eval()


def noise_inputs(noise: SamplerNoise | None, height: int, width: int) -> dict[str, NDArray[np.float32]]:
    """Noise as the inputs, by name, of an engine with free noise: cut to an image's size. None gives none."""
    if noise is None:
        return {}
    given = {"x_T": noise.x_T[..., :height, :width], "z": noise.z}
    if noise.posterior is not None:
        given["posterior"] = noise.posterior[..., :height, :width]
    return {name: np.ascontiguousarray(values.numpy()) for name, values in given.items()}


def named_outputs(outputs: tuple[torch.Tensor, ...]) -> dict[str, NDArray[np.float32]]:
    """What a sampler with probes returns, by the names of `ProbingEngine`."""
    steps = reversed(range(len(outputs) - 2))
    names = ("mean", "spread", *(f"step{step}" for step in steps))
    return {name: values.cpu().numpy() for name, values in zip(names, outputs, strict=True)}


@contextmanager
def exact_float32(device: str) -> Iterator[None]:
    """Convolutions and matrix products in full float32 on CUDA too, whatever the program has set; no matter to a CPU.

    PyTorch takes TF32 for convolutions by default, for products where it is told so.
    """
    if device == "cpu":
        yield
        return
    matmul, conv, cpu = torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    with _PRECISIONS:
        before = matmul.fp32_precision, conv.fp32_precision, cpu.fp32_precision  # the older way sets that of CPUs, too
        try:
            older = torch.get_float32_matmul_precision()
        except RuntimeError:  # the program has set it by the newer way, which leaves the older one at "highest"
            older = "highest"
        torch.set_float32_matmul_precision("highest")
        matmul.fp32_precision = conv.fp32_precision = "ieee"
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(older)
            matmul.fp32_precision, conv.fp32_precision, cpu.fp32_precision = before


_PRECISIONS = Turns()  # they are the process's: a thread that leaves would give TF32 back to one that still runs


def cpu_threads() -> int:
    """How many threads an engine on the CPU has: PyTorch's number, which OMP_NUM_THREADS sets, else one for each core.

    The other libraries know no such variable and take every core, of jobs beside this one too.
    """
    return torch.get_num_threads()


def describe_gpu(device: str) -> str:
    """Which GPU there is, with its driver and PyTorch's CUDA; "" on a CPU or where there is none."""
    if device != "cuda" or not torch.cuda.is_available():
        return ""
    return f"{torch.cuda.get_device_name()}, driver {_driver()}, CUDA {torch.version.cuda}"


def _driver() -> str:
    """The version of NVIDIA's driver; "unknown" where its library does not tell."""
    try:
        library = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    except OSError:
        return "unknown"
    text = ctypes.create_string_buffer(96)
    told = library.nvmlInit_v2() == 0 and library.nvmlSystemGetDriverVersion(text, len(text)) == 0
    return text.value.decode() if told else "unknown"


def pick_device(device: Device) -> str:
    """The PyTorch device behind a choice.

    Raises:
        EngineError: if CUDA is asked for where there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise EngineError("there is no CUDA device here", remedy="use --device cpu or auto")
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
