"""What every engine is: a callable from a batch of images to vote mean and spread."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cdal_sdk.diffusion import Sampling
from cdal_sdk.engines.fused import FusedSampler
from cdal_sdk.errors import EngineError
from cdal_sdk.network import Generator

__all__ = ["Device", "Engine", "VoteMaps", "exact_float32", "fuse", "pick_device"]

Device = Literal["auto", "cpu", "cuda"]


class VoteMaps(NamedTuple):
    """Mean and spread over the votes on the label scale, float32 [n, label, h, w] each."""

    mean: NDArray[np.float32]
    spread: NDArray[np.float32]


class Engine(Protocol):
    """Runs the whole inference. Two engines with the same model and sampling agree up to rounding."""

    name: str
    device: str

    def run(self, images: NDArray[np.float32]) -> VoteMaps:
        """Images [n, channel, h, w] to vote maps; h and w must be multiples of the network's divisor."""
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
