"""The TorchScript engine: the fused sampler traced and frozen, so that it needs no Python of ours.

Freezing folds whatever depends on weights and noise alone: time embeddings, latent mapping, all scales and shifts.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cdal_sdk.diffusion import Sampling
from cdal_sdk.engines.base import VoteMaps, exact_float32, fuse
from cdal_sdk.errors import EngineError
from cdal_sdk.network import Generator

__all__ = ["SUFFIX", "TorchScriptEngine", "save", "trace"]

SUFFIX = ".torchscript.pt"


def trace(generator: Generator, sampling: Sampling, device: str = "cpu") -> torch.jit.ScriptModule:
    """Trace and freeze the fused sampler; batch, height and width stay dynamic."""
    # Where the canvas has room, an example that is neither square nor the canvas: no size can hide as a constant.
    side, (_, canvas_height, canvas_width) = generator.config.divisor, sampling.label_shape
    height, width = min(2 * side, canvas_height), min(3 * side, canvas_width)
    example = torch.zeros(2, generator.config.image_channels, height, width, device=device)
    sampler = fuse(generator, sampling).to(device)
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # of the size check, settled while tracing, and of TorchScript's age
        traced: torch.jit.ScriptModule = torch.jit.trace(sampler, example, check_trace=False)  # type: ignore[no-untyped-call]
        frozen: torch.jit.ScriptModule = torch.jit.freeze(traced)
    return frozen


def save(module: torch.jit.ScriptModule, path: Path) -> None:
    """Write a traced sampler for `TorchScriptEngine.load`, or for libtorch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(module, str(path))


class TorchScriptEngine:
    """Runs a traced sampler, from a file or traced here.

    Args:
        module: from `trace` or `load`.
        device: where it was traced for.
    """

    name = "torchscript"

    def __init__(self, module: torch.jit.ScriptModule, device: str) -> None:
        self.device = device
        self._module = module

    @classmethod
    def load(cls, path: Path, device: str) -> TorchScriptEngine:
        """Load an exported file.

        Raises:
            EngineError: if it is no readable TorchScript.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                module = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
            return cls(module, device)
        except (RuntimeError, ValueError) as error:
            raise EngineError("the TorchScript file cannot be read", where=path, remedy="export it again") from error

    @torch.inference_mode()
    def run(self, images: NDArray[np.float32]) -> VoteMaps:
        """See `Engine.run`."""
        with exact_float32():
            mean, spread = self._module(torch.from_numpy(images).to(self.device))
        return VoteMaps(mean.cpu().numpy(), spread.cpu().numpy())
