"""What every engine is, and what every engine module provides."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cdal_sdk.diffusion import Sampling
from cdal_sdk.engines.fused import FusedSampler
from cdal_sdk.errors import EngineError
from cdal_sdk.network import Generator

__all__ = [
    "BatchProfile",
    "Builder",
    "BuiltEngine",
    "Device",
    "Engine",
    "Precision",
    "Target",
    "VoteMaps",
    "exact_float32",
    "fuse",
    "pick_device",
]

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "fp16", "bf16"]


class VoteMaps(NamedTuple):
    """Mean and spread over the votes on the label scale, float32 [n, label, h, w] each."""

    mean: NDArray[np.float32]
    spread: NDArray[np.float32]


class Engine(Protocol):
    """Runs the whole inference. Two engines with the same model and sampling agree up to rounding.

    Attributes:
        name: as users type it.
        device: "cpu" or "cuda".
    """

    name: str
    device: str

    def run(self, images: NDArray[np.float32]) -> VoteMaps:
        """Images [n, channel, h, w] to vote maps; h and w must be multiples of the network's divisor."""
        ...


class BuiltEngine(Engine, Protocol):
    """An engine of this package, which tells the precision in which it convolves and multiplies."""

    precision: Precision


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
    """

    sampling: Sampling
    device: str
    precision: Precision
    weights_sha256: str
    fixed_size: bool = False
    batch: BatchProfile = DEFAULT_BATCH
    islands: frozenset[str] = frozenset()

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of the largest image."""
        return self.sampling.label_shape[1:]


class Builder(Protocol):
    """What an engine's module provides: it builds a file, and opens one."""

    suffix: str  # of the file
    needs_device: bool  # to build, not only to run
    takes_islands: bool  # single layers can stay in float32

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


def fuse(generator: Generator, sampling: Sampling) -> FusedSampler:
    """The float32 reference: generator, unrolled sampler and noise as one module."""
    return FusedSampler(generator, sampling.schedule, sampling.noise()).eval()


def exact_float32() -> AbstractContextManager[None]:
    """Convolutions in full float32 on CUDA too, where PyTorch would take TF32; no matter to a CPU."""
    context: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return context


def pick_device(device: Device) -> str:
    """The PyTorch device behind a choice.

    Raises:
        EngineError: if CUDA is asked for where there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise EngineError("there is no CUDA device here", remedy="use --device cpu or auto")
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
