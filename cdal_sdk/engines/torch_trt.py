"""The TensorRT engine for data-centre and other NVIDIA GPUs, through torch-tensorrt's Dynamo path.

The file is TorchScript with the TensorRT engine embedded: it loads without recompiling, in Python or in C++ with
libtorch and the torch-tensorrt runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch_tensorrt
from numpy.typing import NDArray

from cdal_sdk.engines.base import Precision, Target, Turns, VoteMaps, in_parts
from cdal_sdk.engines.exported import export_sampler, smallest_image
from cdal_sdk.engines.torchscript import write_script
from cdal_sdk.errors import EngineError
from cdal_sdk.network import Generator

__all__ = ["BUILDER", "TorchTensorRtEngine"]


class TorchTensorRtEngine:
    """Runs TorchScript with embedded TensorRT engines.

    Args:
        module: as loaded.
        target: what it was built for.
    """

    name = "tensorrt"

    def __init__(self, module: torch.jit.ScriptModule, target: Target) -> None:
        self.device, self.precision = target.device, target.precision
        self._module, self._most, self._turns = module, target.batch.most, Turns()

    @torch.inference_mode()
    def run(self, images: NDArray[np.float32]) -> VoteMaps:
        """See `Engine.run`."""
        with self._turns:
            return in_parts(self._run, images, self._most)

    def _run(self, images: NDArray[np.float32]) -> VoteMaps:
        mean, spread = self._module(torch.from_numpy(images).to(self.device))
        return VoteMaps(mean.cpu().numpy(), spread.cpu().numpy())


class _TorchTensorRtBuilder:
    suffix = ".tensorrt.ts"
    offers: tuple[Precision, ...] = ("fp16", "bf16", "fp32")
    needs_device = True
    takes_islands = takes_free_noise = takes_probes = False

    def precisions(self, device: str) -> tuple[Precision, ...]:
        return ("fp16", "bf16", "fp32") if device == "cuda" and torch.cuda.is_available() else ()

    def environment(self, device: str) -> Mapping[str, str]:  # noqa: ARG002 - PyTorch's current GPU
        import tensorrt  # after torch_tensorrt, which decides what library bears that name

        major, minor = torch.cuda.get_device_capability()
        return {
            "torch": torch.__version__,
            "torch-tensorrt": torch_tensorrt.__version__,
            torch_tensorrt.tensorrt_package_name: tensorrt.__version__,  # opens no other version's engines
            "gpu": torch.cuda.get_device_name(),
            "compute_capability": f"{major}.{minor}",
        }

    def build(self, generator: Generator, target: Target, path: Path) -> None:
        channels, batch = generator.config.image_channels, target.batch
        try:
            program = export_sampler(generator, target)
            # TensorRT wants all sizes between a smallest and a largest one; the network's divisor is ours to keep.
            shapes = torch_tensorrt.Input(
                min_shape=(batch.least, channels, *smallest_image(generator, target)),
                opt_shape=(batch.best, channels, *target.canvas),
                max_shape=(batch.most, channels, *target.canvas),
                dtype=torch.float32,
            )
            with torch.no_grad():
                compiled = torch_tensorrt.dynamo.compile(
                    program,
                    inputs=[shapes],
                    use_explicit_typing=True,
                    disable_tf32=True,
                    truncate_double=True,
                    require_full_compilation=True,  # else what TensorRT lacks would run in PyTorch, and nobody be told
                )
                example = torch.zeros(batch.best, channels, *target.canvas, device=target.device)
                traced: torch.jit.ScriptModule = torch.jit.trace(compiled, [example], check_trace=False)  # type: ignore[no-untyped-call]
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(f"torch-tensorrt cannot build this ({error})", remedy="use another engine") from error
        write_script(traced, path)

    def load(self, path: Path, target: Target) -> TorchTensorRtEngine:
        try:
            module = torch.jit.load(str(path), map_location=target.device)  # type: ignore[no-untyped-call]
        except (RuntimeError, ValueError) as error:
            raise EngineError("the TensorRT file does not open here", where=path, remedy="export it again") from error
        return TorchTensorRtEngine(module, target)


BUILDER = _TorchTensorRtBuilder()
