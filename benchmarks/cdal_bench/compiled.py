"""Networks compiled by OpenVINO, so that opponents get on a CPU what our own engines get."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cdal_bench.segdiff import SegDiff
from cdal_sdk.engines import Precision, builder_of, engine_kind
from cdal_sdk.errors import EngineError

__all__ = ["CompiledMethod", "CompiledSegDiff", "compiled_precision"]


def compiled_precision(device: str) -> Precision:
    """The fastest precision that OpenVINO has here.

    Raises:
        MissingExtraError: if it is not installed.
        EngineError: if the device is no CPU.
    """
    if device != "cpu":
        raise EngineError("baselines are compiled by OpenVINO on CPUs only", remedy="leave it out on a GPU")
    return builder_of(engine_kind("openvino")).precisions(device)[0]


class CompiledMethod:
    """A method of a network, compiled anew for each shape of its inputs.

    Args:
        network: in eval mode, on the CPU.
        method: tensors in, one tensor out.
        precision: in which it computes; tensors outside are float32.
    """

    def __init__(self, network: nn.Module, method: str, precision: Precision) -> None:
        self._module = _Forward(network, method)
        self._precision = precision
        self._requests: dict[tuple[torch.Size, ...], Any] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Run it."""
        shapes = tuple(tensor.shape for tensor in inputs)
        if shapes not in self._requests:
            self._requests[shapes] = self._compile(inputs)
        request = self._requests[shapes]
        request.infer([np.ascontiguousarray(tensor.numpy()) for tensor in inputs])
        return torch.from_numpy(np.array(request.get_output_tensor().data, np.float32))

    def _compile(self, inputs: tuple[Tensor, ...]) -> Any:
        import openvino

        from cdal_sdk.engines.openvino_cpu import openvino_request

        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PyTorch's own, of its own classes
            example = tuple(torch.zeros_like(tensor) for tensor in inputs)  # those of inference mode cannot be exported
            # Exported, not traced: compiling a traced residual block of fixed shape crashes OpenVINO 2026.4.
            model = openvino.convert_model(torch.export.export(self._module, example))
        return openvino_request(model, self._precision)


class CompiledSegDiff:
    """SegDiff, its encoder and its denoiser compiled apart; samplers take it like the network itself."""

    def __init__(self, model: SegDiff, precision: Precision) -> None:
        self.config, self.schedule = model.config, model.schedule
        self._encode = CompiledMethod(model, "encode", precision)
        self._denoise = CompiledMethod(model, "denoise", precision)

    def encode(self, image: Tensor) -> Tensor:
        """See `SegDiff.encode`."""
        return self._encode(image)

    def denoise(self, x_t: Tensor, step: Tensor, condition: Tensor) -> Tensor:
        """See `SegDiff.denoise`."""
        return self._denoise(x_t, step, condition)


class _Forward(nn.Module):
    """A method as the forward of a module, which is what can be converted."""

    def __init__(self, network: nn.Module, method: str) -> None:
        super().__init__()
        self.network, self.method = network, method

    def forward(self, *inputs: Tensor) -> Tensor:
        result: Tensor = getattr(self.network, self.method)(*inputs)
        return result
