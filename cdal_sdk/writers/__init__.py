"""From results to files: each written beside its final place, read back, compared, and only then renamed.

The functions are loaded when they are first asked for, since nibabel and highdicom are slow to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cdal_sdk.writers.dicom_seg import Algorithm, write_dicom_probability, write_dicom_seg
    from cdal_sdk.writers.dicom_series import write_mr_series
    from cdal_sdk.writers.image import write_mask_png
    from cdal_sdk.writers.large_mask import MaskRows, write_mask_tiff
    from cdal_sdk.writers.nifti import write_nifti, write_nifti_maps
    from cdal_sdk.writers.preview import thumbnail, write_preview

__all__ = [
    "Algorithm",
    "MaskRows",
    "thumbnail",
    "write_dicom_probability",
    "write_dicom_seg",
    "write_mask_png",
    "write_mask_tiff",
    "write_mr_series",
    "write_nifti",
    "write_nifti_maps",
    "write_preview",
]

_HOMES = {
    "Algorithm": "dicom_seg",
    "MaskRows": "large_mask",
    "thumbnail": "preview",
    "write_dicom_probability": "dicom_seg",
    "write_dicom_seg": "dicom_seg",
    "write_mask_png": "image",
    "write_mask_tiff": "large_mask",
    "write_mr_series": "dicom_series",
    "write_nifti": "nifti",
    "write_nifti_maps": "nifti",
    "write_preview": "preview",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
