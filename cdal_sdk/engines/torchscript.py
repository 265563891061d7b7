"""The TorchScript engine: the folded sampler traced and frozen, so that it needs no Python of ours.

The file also loads in C++ with libtorch; see docs/export.md.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdal_sdk.diffusion import SamplerNoise
from cdal_sdk.engines.base import Precision, Target, VoteMaps, exact_float32, fold_for, named_outputs
from cdal_sdk.errors import EngineError
from cdal_sdk.network import Generator

__all__ = ["BUILDER", "TorchScriptEngine", "trace", "write_script"]


def trace(generator: Generator, target: Target) -> torch.jit.ScriptModule:
    """Trace and freeze the folded sampler; batch, height and width stay dynamic."""
    # Where the canvas has room, an example that is neither square nor the canvas: no size can hide as a constant.
    side, (_, canvas_height, canvas_width) = generator.config.divisor, target.sampling.label_shape
    height, width = min(2 * side, canvas_height), min(3 * side, canvas_width)
    example = [torch.zeros(2, generator.config.image_channels, height, width), *_tensors(target.noise)]
    # A trace keeps whether convolutions may be TF32 on CUDA, whatever is said when it runs.
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad(), exact_float32("cuda"):
        warnings.simplefilter("ignore")  # of the size check, settled while tracing, and of TorchScript's age
        sampler = fold_for(generator, target).to(target.device)
        inputs = tuple(values.to(target.device) for values in example)
        traced: torch.jit.ScriptModule = torch.jit.trace(sampler, inputs, check_trace=False)  # type: ignore[no-untyped-call]
        frozen: torch.jit.ScriptModule = torch.jit.freeze(traced)
    return frozen


def write_script(module: torch.jit.ScriptModule, path: Path) -> None:
    """Write a module by way of memory: given a path, PyTorch's writer ends the process where the disk is full."""
    content = io.BytesIO()
    torch.jit.save(module, content)
    path.write_bytes(content.getbuffer())


class TorchScriptEngine:
    """Runs a traced sampler.

    Args:
        module: from `trace`, or loaded.
        device: where it was traced for.
        noise: what a module with free noise is given; None for any other.
    """

    name = "torchscript"
    precision: Precision = "fp32"

    def __init__(self, module: torch.jit.ScriptModule, device: str, noise: SamplerNoise | None = None) -> None:
        self.device, self.module, self._noise = device, module, noise

    def run(self, images: NDArray[np.float32], noise: SamplerNoise | None = None) -> VoteMaps:
        """See `Engine.run`; with other noise, where some is given and the module has it free."""
        outputs = self._run(images, noise or self._noise)
        return VoteMaps(outputs["mean"], outputs["spread"])

    def probe(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """See `ProbingEngine.probe`."""
        return self._run(images, self._noise)

    @torch.inference_mode()
    def _run(self, images: NDArray[np.float32], noise: SamplerNoise | None) -> dict[str, NDArray[np.float32]]:
        inputs = [values.to(self.device) for values in (torch.from_numpy(images), *_tensors(noise))]
        with exact_float32(self.device):
            return named_outputs(tuple(self.module(*inputs)))


def _tensors(noise: SamplerNoise | None) -> list[Tensor]:
    """Noise as the inputs that follow the image."""
    given = () if noise is None else (noise.x_T, noise.z, noise.posterior)
    return [values for values in given if values is not None]


class _TorchScriptBuilder:
    suffix = ".torchscript.pt"
    offers: tuple[Precision, ...] = ("fp32",)
    needs_device = True  # constants of the trace live on the device
    takes_islands = False
    takes_free_noise = takes_probes = True

    def precisions(self, device: str) -> tuple[Precision, ...]:
        return ("fp32",) if device == "cpu" or torch.cuda.is_available() else ()

    def environment(self, device: str) -> Mapping[str, str]:
        environment = {"torch": torch.__version__.split("+")[0]}
        return environment if device == "cpu" else environment | {"gpu": torch.cuda.get_device_name()}

    def build(self, generator: Generator, target: Target, path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            write_script(trace(generator, target), path)

    def load(self, path: Path, target: Target) -> TorchScriptEngine:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                module = torch.jit.load(str(path), map_location=target.device)  # type: ignore[no-untyped-call]
        except (RuntimeError, ValueError) as error:
            raise EngineError("the TorchScript file cannot be read", where=path, remedy="export it again") from error
        return TorchScriptEngine(module, target.device, target.noise)


BUILDER = _TorchScriptBuilder()
