"""What ONNX Runtime is asked for on a GPU, which no GPU is needed to tell."""

from __future__ import annotations

import pytest

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")

from cdal_sdk.engines.onnx_runtime import OnnxEngine  # noqa: E402
from cdal_sdk.errors import EngineError  # noqa: E402


@pytest.mark.parametrize(
    ("device", "asked"),
    [("cuda", ("CUDAExecutionProvider", {"use_tf32": "0"})), ("cpu", ("CPUExecutionProvider", {}))],
)
def test_float32_is_no_tf32(monkeypatch, device, asked):
    given = []

    class Session:
        def __init__(self, model, options, providers):
            given.extend(providers)

        def get_providers(self):
            return []

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    with pytest.raises(EngineError, match=f"does not reach {device} here"):
        OnnxEngine(b"", device, "fp32")
    assert given == [asked]
