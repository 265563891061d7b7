"""What the benchmark runs on, and how fast that multiplies matrices."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from cdal_bench.results import Machine

__all__ = ["describe_machine", "matrix_rates"]

_PACKAGES = ("torch", "monai", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "torch-tensorrt")
_SIDE = {"cpu": 2048, "cuda": 8192}
_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def describe_machine(device: str) -> Machine:
    """Hardware, software and matrix rates of this machine."""
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        memory_gb=_memory_gb(),
        accelerator=torch.cuda.get_device_name() if device == "cuda" else None,
        system=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        software={name: found for name in _PACKAGES if (found := _version(name))},
        gflops=matrix_rates(device),
    )


def matrix_rates(device: str, rounds: int = 12, side: int | None = None) -> dict[str, float]:
    """GFLOP/s of products of large square matrices by precision: the best of several, as a roof should be."""
    side = side or _SIDE[device]
    rates = {}
    for name, dtype in _PRECISIONS.items():
        if name == "float16" and device == "cpu":  # emulated there
            continue
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        seconds = []
        for _ in range(rounds + 1):
            start = time.perf_counter()
            torch.mm(a, b)
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        rates[name] = 2 * side**3 / min(seconds[1:]) / 1e9
    return rates


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _memory_gb() -> float:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError, AttributeError):
        return 0.0


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
