"""How far an engine's arithmetic is from float32 after each step of the sampler."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdal_sdk.engines import Target
from cdal_sdk.engines.fused import FoldedSampler
from cdal_sdk.network import Generator

__all__ = ["StepDifference", "step_differences"]


@dataclass(frozen=True)
class StepDifference:
    """Difference of the clean label that the network predicts at a step, all votes, on the scale [-1, 1].

    Attributes:
        step: T - 1 is the first that runs, 0 the last.
        largest: absolute difference.
        mean: absolute difference.
    """

    step: int
    largest: float
    mean: float

    def __str__(self) -> str:
        return f"step {self.step}: largest {self.largest:.2g}, mean {self.mean:.2g}"


def step_differences(
    generator: Generator, engine: str, target: Target, images: NDArray[np.float32]
) -> tuple[StepDifference, ...]:
    """Run the engine's arithmetic and float32 with every step as an output; empty for engines that cannot tell."""
    if engine not in ("onnx", "openvino") or target.precision == "fp32":
        return ()
    sampler = FoldedSampler(generator, target.sampling.schedule, target.sampling.noise())
    images = images[len(images) // 2 :][:1]
    theirs = _steps(sampler, engine, replace(target, precision="fp32", islands=frozenset()), images)
    ours = _steps(sampler, engine, target, images)
    differences = []
    for step in sorted(ours, reverse=True):
        difference = np.abs(ours[step] - theirs[step])
        differences.append(StepDifference(step, float(difference.max()), float(difference.mean())))
    return tuple(differences)


def _steps(
    sampler: FoldedSampler, engine: str, target: Target, images: NDArray[np.float32]
) -> dict[int, NDArray[np.float32]]:
    from cdal_sdk.engines.onnx_graph import GraphOptions, write_graph

    prefix = "x0_step"
    if engine == "openvino":
        from cdal_sdk.engines.openvino_cpu import OpenVinoEngine

        graph = write_graph(sampler, GraphOptions(norm="statistics", probes="steps"))
        probing: Any = OpenVinoEngine(graph.SerializeToString(), target.precision)
    else:
        from cdal_sdk.engines.onnx_runtime import OnnxEngine

        options = GraphOptions(precision=target.precision, islands=target.islands, probes="steps")
        probing = OnnxEngine(write_graph(sampler, options).SerializeToString(), target.device, target.precision)
    found = probing.probe(images)
    return {int(name.removeprefix(prefix)): value for name, value in found.items() if name.startswith(prefix)}
