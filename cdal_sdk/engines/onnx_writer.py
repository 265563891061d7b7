"""Building an ONNX graph node by node: names, constants that are stored once, and explicit types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

__all__ = ["OPSET", "GraphWriter"]

OPSET = 20
_IR_VERSION = 10


class GraphWriter:
    """Collects nodes and constants; every method returns the name of the value that it made."""

    def __init__(self) -> None:
        self.scope = ""
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._stored: dict[tuple[object, ...], str] = {}
        self._names: set[str] = set()

    def node(self, operator: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Add a node with one output."""
        return self.nodes(operator, *inputs, name=name, outputs=1, **attributes)[0]

    def nodes(
        self, operator: str, *inputs: str, name: str | None = None, outputs: int, **attributes: Any
    ) -> tuple[str, ...]:
        """Add a node with several outputs; a name that is given counts from the graph's root, others from the scope."""
        unique = self._unique(name or f"{self.scope}.{operator}".lstrip("."))
        made = (unique,) if outputs == 1 else tuple(f"{unique}.{i}" for i in range(outputs))
        self._nodes.append(helper.make_node(operator, list(inputs), list(made), name=unique, **attributes))
        return made

    def constant(self, values: NDArray[Any] | Tensor | Sequence[int], kind: int | None = None) -> str:
        """A constant of a type, by default float32 for tensors and int64 for lists; equal ones are stored once."""
        if isinstance(values, Tensor):
            values = values.detach().cpu().numpy()
        array = np.ascontiguousarray(values, np.int64 if isinstance(values, list | tuple) else None)
        kind = helper.np_dtype_to_tensor_dtype(array.dtype) if kind is None else kind
        key = (kind, array.shape, array.tobytes())
        if key not in self._stored:
            name = f"constant{len(self._stored)}"
            array = array.astype(helper.tensor_dtype_to_np_dtype(kind))
            self._constants[name] = numpy_helper.from_array(array, name)
            self._stored[key] = name
        return self._stored[key]

    def cast(self, value: str, kind: int, present: int) -> str:
        """The value in another type, or itself where it has that already."""
        return value if kind == present else self.node("Cast", value, to=kind)

    def model(self, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
        """The finished model.

        Raises:
            onnx.checker.ValidationError: if it is no valid ONNX.
        """
        graph = helper.make_graph(self._nodes, "cdal", inputs, outputs, list(self._constants.values()))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="cdal-sdk")
        model.ir_version = _IR_VERSION
        onnx.checker.check_model(model)
        return model

    def _unique(self, name: str) -> str:
        unique, count = name, 1
        while unique in self._names:
            count += 1
            unique = f"{name}_{count}"
        self._names.add(unique)
        return unique


FLOAT = TensorProto.FLOAT
