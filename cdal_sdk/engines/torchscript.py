"""The TorchScript engine: the folded sampler traced and frozen, so that it needs no Python of ours.

The file also loads in C++ with libtorch; see docs/export.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cdal_sdk.diffusion import Sampling
from cdal_sdk.engines.base import Precision, Target, VoteMaps, exact_float32
from cdal_sdk.engines.folded import FoldedSampler
from cdal_sdk.errors import EngineError
from cdal_sdk.network import Generator

__all__ = ["BUILDER", "TorchScriptEngine", "trace"]


def trace(generator: Generator, sampling: Sampling, device: str = "cpu") -> torch.jit.ScriptModule:
    """Trace and freeze the folded sampler; batch, height and width stay dynamic."""
    # Where the canvas has room, an example that is neither square nor the canvas: no size can hide as a constant.
    side, (_, canvas_height, canvas_width) = generator.config.divisor, sampling.label_shape
    height, width = min(2 * side, canvas_height), min(3 * side, canvas_width)
    example = torch.zeros(2, generator.config.image_channels, height, width, device=device)
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # of the size check, settled while tracing, and of TorchScript's age
        sampler = FoldedSampler(generator, sampling.schedule, sampling.noise()).to(device).eval()
        traced: torch.jit.ScriptModule = torch.jit.trace(sampler, example, check_trace=False)  # type: ignore[no-untyped-call]
        frozen: torch.jit.ScriptModule = torch.jit.freeze(traced)
    return frozen


class TorchScriptEngine:
    """Runs a traced sampler.

    Args:
        module: from `trace`, or loaded.
        device: where it was traced for.
    """

    name = "torchscript"
    precision: Precision = "fp32"

    def __init__(self, module: torch.jit.ScriptModule, device: str) -> None:
        self.device = device
        self.module = module

    @torch.inference_mode()
    def run(self, images: NDArray[np.float32]) -> VoteMaps:
        """See `Engine.run`."""
        with exact_float32():
            mean, spread = self.module(torch.from_numpy(images).to(self.device))
        return VoteMaps(mean.cpu().numpy(), spread.cpu().numpy())


class _TorchScriptBuilder:
    suffix = ".torchscript.pt"
    needs_device = True  # constants of the trace live on the device
    takes_islands = False

    def precisions(self, device: str) -> tuple[Precision, ...]:
        return ("fp32",) if device == "cpu" or torch.cuda.is_available() else ()

    def environment(self, device: str) -> Mapping[str, str]:
        environment = {"torch": torch.__version__.split("+")[0]}
        return environment if device == "cpu" else environment | {"gpu": torch.cuda.get_device_name()}

    def build(self, generator: Generator, target: Target, path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.jit.save(trace(generator, target.sampling, target.device), str(path))

    def load(self, path: Path, target: Target) -> TorchScriptEngine:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                module = torch.jit.load(str(path), map_location=target.device)  # type: ignore[no-untyped-call]
        except (RuntimeError, ValueError) as error:
            raise EngineError("the TorchScript file cannot be read", where=path, remedy="export it again") from error
        return TorchScriptEngine(module, target.device)


BUILDER = _TorchScriptBuilder()
