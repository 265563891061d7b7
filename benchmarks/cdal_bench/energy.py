"""Energy counters, where the machine has any that may be read."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

__all__ = ["joules_of"]

_RAPL = Path("/sys/class/powercap")


def joules_of(run: Callable[[], object], device: str) -> float | None:
    """Energy of the whole processor or GPU while something runs; None where no counter can be read."""
    read = _gpu_counter() if device == "cuda" else _cpu_counter()
    if read is None:
        return None
    before = read()
    run()
    spent = read() - before
    return spent if spent > 0 else None  # a counter that wrapped around, or does not count


def _cpu_counter(root: Path = _RAPL) -> Callable[[], float] | None:
    """Joules of all processor packages (RAPL)."""
    counters = sorted(root.glob("intel-rapl:?/energy_uj")) if root.is_dir() else []
    try:
        for counter in counters:
            counter.read_text(encoding="ascii")
    except OSError:
        return None
    if not counters:
        return None
    return lambda: sum(int(counter.read_text(encoding="ascii")) for counter in counters) / 1e6


def _gpu_counter() -> Callable[[], float] | None:
    """Joules of the first GPU (NVML), where its Python library is installed."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByIndex(0)
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # noqa: BLE001 - whatever is missing, there is no counter
        return None
    return lambda: float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
