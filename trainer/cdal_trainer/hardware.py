"""Where a run runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy

from cdal_sdk.engines import pick_device

__all__ = ["Hardware"]


@dataclass(frozen=True)
class Hardware:
    """Where a run runs.

    Accelerator, precision and workers change rounding at most; each device takes batches of its own.

    Attributes:
        accelerator: as Lightning Fabric names it.
        devices: number of devices.
        precision: "auto" is bf16 where the device has it in hardware, else float32.
        workers: processes that prepare batches.
    """

    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    workers: int = 1

    def fabric(self) -> Fabric:
        """A launched Fabric.

        Raises:
            EngineError: if CUDA is asked for where there is none.
        """
        cuda = pick_device(self.accelerator) == "cuda"
        precision = self.precision
        if precision == "auto":
            fast = torch.cuda.is_bf16_supported() if cuda else _cpu_multiplies_bf16()
            precision = "bf16-mixed" if fast else "32-true"
        # Buffers are constants here, the FIR kernels; sent anew before each forward, they would be "modified in place"
        # between two forward passes of one loss, which PyTorch 2.11 refuses.
        strategy = DDPStrategy(broadcast_buffers=False) if self.devices > 1 else "auto"
        accelerator = "cuda" if cuda else "cpu"
        fabric = Fabric(accelerator=accelerator, strategy=strategy, devices=self.devices, precision=precision)
        fabric.launch()
        return fabric


def _cpu_multiplies_bf16() -> bool:
    capabilities = torch.backends.cpu.get_cpu_capability()
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    has_avx512_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return capabilities.startswith("AVX512") and bool(has_amx or has_avx512_bf16)
