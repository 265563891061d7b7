"""The `tensorrt` engine: torch-tensorrt builds it without a GPU, whole, and in the types that it is asked for.

It takes torch-tensorrt in its build for TensorRT for RTX, which must not lie where the other tests would find it:

    pip install --no-deps --target FOLDER -r tests/engines/torch_trt.txt
    CDAL_TORCH_TENSORRT=FOLDER python -m pytest tests/engines/test_torch_trt.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from typing import Any

import pytest

from cdal_sdk.bundle import bundled_models

FOLDER = os.environ.get("CDAL_TORCH_TENSORRT")
pytestmark = pytest.mark.skipif(not FOLDER, reason="set CDAL_TORCH_TENSORRT, see tests/engines/test_torch_trt.py")


@pytest.fixture(scope="module")
def told() -> dict[str, dict[str, Any]]:
    """What the program told of each order."""
    orders = ["tiny:fp16", "tiny:bf16", *(f"{name}:fp16" for name in bundled_models())]
    command = [sys.executable, "-m", "tests.engines.torch_trt_dry_run", *orders]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(FOLDER), *sys.path])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)  # noqa: S603 - our own
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]  # libraries print, too
    return dict(zip([*orders, "refused"], lines, strict=True))


@pytest.mark.parametrize("name", bundled_models())
def test_shipped_models_are_one_engine_strongly_typed_in_fp16(name: str, told) -> None:
    model = told[f"{name}:fp16"]
    layers = model["layers"]
    assert model["engines"] == 1, "nothing is left to PyTorch"
    assert layers["CONVOLUTION"] == layers["MATRIX_MULTIPLY"] == ["HALF"]
    assert layers["NORMALIZATION"] == layers["SOFTMAX"] == layers["REDUCE"] == ["FLOAT"]


@pytest.mark.parametrize(("precision", "kind", "tolerance"), [("fp16", "HALF", 1e-3), ("bf16", "BF16", 1e-2)])
def test_what_it_is_converted_from_gives_the_sampler_s_results(precision, kind, tolerance, told) -> None:
    model = told[f"tiny:{precision}"]
    assert model["layers"]["CONVOLUTION"] == model["layers"]["MATRIX_MULTIPLY"] == [kind]
    assert model["layers"]["NORMALIZATION"] == ["FLOAT"]
    assert model["difference"] < tolerance


def test_what_tensorrt_lacks_is_an_error_instead_of_running_in_pytorch(told) -> None:
    assert "torch-tensorrt cannot build this" in told["refused"]["refusal"]
    assert "not fully supported" in told["refused"]["refusal"]


def test_its_fingerprint_names_the_tensorrt_library(told) -> None:
    library = metadata.version("tensorrt-rtx-cu13-bindings")
    assert told["tiny:fp16"]["environment"]["tensorrt_rtx"] == library
