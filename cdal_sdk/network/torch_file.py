"""Reading PyTorch files safely: tensors and plain values, never code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from cdal_sdk.errors import ModelError

__all__ = ["read_torch_file"]


def read_torch_file(path: Path, remedy: str) -> Any:
    """The content of a file that `torch.save` wrote, on the CPU.

    Raises:
        ModelError: if it is missing, damaged, no such file at all, or holds anything but tensors and plain values.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError("there is no such file", where=path, remedy=remedy) from None
    except pickle.UnpicklingError:
        raise ModelError(
            "this is no PyTorch file of weights alone (one that holds code is not loaded)", where=path, remedy=remedy
        ) from None
    except (PermissionError, IsADirectoryError) as error:
        what = f"the file cannot be opened ({error.strerror})"
        raise ModelError(what, where=path, remedy="check the path and its permissions") from None
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError) as error:
        told = str(error) and not isinstance(error, LookupError)  # which tells a bare key
        reason = str(error).splitlines()[0] if told else type(error).__name__
        raise ModelError(f"this is no readable PyTorch file ({reason})", where=path, remedy=remedy) from None
