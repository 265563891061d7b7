"""cDAL SDK: few-step conditional diffusion for medical image segmentation.

>>> from cdal_sdk import Segmenter
>>> result = Segmenter("hippocampus")("scan.nii.gz")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cdal_sdk.bundle import Manifest, bundled_models, load_model
    from cdal_sdk.errors import CdalError
    from cdal_sdk.segmenter import Result, Segmenter, segment_cases
    from cdal_sdk.study import Segmentation, Study

__version__ = "0.1.0"
__all__ = [
    "CdalError",
    "Manifest",
    "Result",
    "Segmentation",
    "Segmenter",
    "Study",
    "bundled_models",
    "load_model",
    "segment_cases",
]

# Loaded when first asked for: torch alone takes seconds to import.
_HOMES = {
    "CdalError": "errors",
    "Manifest": "bundle",
    "Result": "segmenter",
    "Segmentation": "study",
    "Segmenter": "segmenter",
    "Study": "study",
    "bundled_models": "bundle",
    "load_model": "bundle",
    "segment_cases": "segmenter",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
