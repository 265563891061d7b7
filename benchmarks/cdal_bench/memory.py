"""Memory of this process, or of PyTorch on a GPU."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch

__all__ = ["largest_mb", "peak_mb", "resident_mb"]

_PROCESS = Path("/proc/self")


def resident_mb() -> float | None:
    """What the process holds in memory now; None where the system does not tell."""
    return _status("VmRSS")


def peak_mb(run: Callable[[], object], device: str) -> float | None:
    """The largest memory while something runs; None where the system does not tell."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() / 1e6
    try:
        (_PROCESS / "clear_refs").write_text("5", encoding="ascii")  # the peak so far is forgotten
    except OSError:
        return None
    run()
    return _status("VmHWM")


def largest_mb() -> float:
    """The largest memory of this process since its start; 0 where the system does not tell."""
    if (peak := _status("VmHWM")) is not None:
        return peak
    try:  # a worse witness: it starts from the peak of whoever started the process
        import resource
    except ImportError:  # Windows
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _status(field: str) -> float | None:
    try:
        text = (_PROCESS / "status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found.group(1)) * 1024 / 1e6 if found else None
