"""What a training step costs: discriminator against generator, and the share of the machine's matrix rate.

    python -m cdal_bench.training_step --recipe chest-xray

Times both sides of Algorithm 1 on random data in the recipe's own sizes, with the loop's own precision, and counts the
arithmetic of convolutions and matrix products (PyTorch's counter; forward and backward). A profile of one more step
tells where the time goes that is not arithmetic.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from cdal_bench.machine import matrix_rates
from cdal_trainer.batches import Batch
from cdal_trainer.hardware import Hardware
from cdal_trainer.recipe import Recipe, load_recipe
from cdal_trainer.state import TrainingState

__all__ = ["StepCost", "measure_step"]


@dataclass(frozen=True)
class StepCost:
    """Medians over the measured steps.

    Attributes:
        precision: of the step.
        threads: that PyTorch uses.
        seconds: of each network's side of a step.
        gflop: of each side.
        matrix_gflops: what the machine reaches in a plain matrix product of the same type.
        share: of that rate, over both sides together.
        samples_per_second: of the whole step, the discriminator's turn included every `discriminator.every` steps.
        profile: share of both sides' time by operator, the ten dearest.
    """

    precision: str
    threads: int
    seconds: dict[str, float]
    gflop: dict[str, float]
    matrix_gflops: float
    share: float
    samples_per_second: float
    profile: dict[str, float]


class _FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the arithmetic of convolutions and matrix products.

    PyTorch's own counter cannot follow the gradient inside a gradient of the R1 penalty; its formulas can be used.
    """

    total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


class _Marked(TrainingState):
    """Notes what a clock says after each optimiser step."""

    clock: Callable[[], float]
    marks: list[tuple[str, float]]

    def _take_step(self, network: str) -> None:
        super()._take_step(network)
        self.marks.append((network, self.clock()))

    def sides(self, batch: Batch, clock: Callable[[], float]) -> dict[str, float]:
        """What passed on the clock in each network's side of one step in which all take their turn."""
        self.step, self.clock, self.marks = 0, clock, []
        previous = clock()
        self.advance(batch)
        passed = {}
        for network, mark in self.marks:
            passed[network], previous = mark - previous, mark
        return passed


def profile_step(state: _Marked, batch: Batch, operators: int = 10) -> dict[str, float]:
    """Share of a step's time that each of the dearest operators takes in itself."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        state.sides(batch, time.perf_counter)
    times = {event.key: float(event.self_cpu_time_total) for event in profiler.key_averages()}
    dearest = sorted(times, key=lambda key: -times[key])[:operators]
    return {key: round(times[key] / sum(times.values()), 3) for key in dearest}


def measure_step(recipe: Recipe, hardware: Hardware, repeats: int = 5) -> StepCost:
    """Measure a recipe's step."""
    state = _Marked(recipe, hardware.fabric(), "")
    (height, width), settings = recipe.data.crop, recipe.optimisation
    image = torch.randn(settings.batch, recipe.network.image_channels, height, width)
    batch = image, torch.randint(0, 2, (settings.batch, height, width)).to(torch.uint8)
    with _FlopCounter() as counter:  # type: ignore[no-untyped-call]
        flop = state.sides(batch, lambda: counter.total)
    runs = [state.sides(batch, time.perf_counter) for _ in range(repeats)]
    seconds = {side: median(run[side] for run in runs) for side in flop}
    half = hardware.precision == "bf16-mixed"
    rate = matrix_rates("cpu")["bfloat16" if half else "float32"]
    step = seconds["generator"] + seconds.get("discriminator", 0.0) / recipe.discriminator.every
    return StepCost(
        precision=hardware.precision,
        threads=torch.get_num_threads(),
        seconds=seconds,
        gflop={side: value / 1e9 for side, value in flop.items()},
        matrix_gflops=rate,
        share=sum(flop.values()) / 1e9 / sum(seconds.values()) / rate,
        samples_per_second=settings.batch / step,
        profile=profile_step(state, batch),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the cost of a recipe's training step on this CPU as JSON."""
    parser = argparse.ArgumentParser("python -m cdal_bench.training_step", description=main.__doc__)
    parser.add_argument("--recipe", default="hippocampus", help="bundled recipe or TOML file")
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="bf16-mixed", help="of the step")
    parser.add_argument("--repeats", type=int, default=5, help="measured steps; the median counts")
    options = parser.parse_args(arguments)
    cost = measure_step(load_recipe(options.recipe), Hardware("cpu", precision=options.precision), options.repeats)
    sys.stdout.write(json.dumps({"recipe": options.recipe, **asdict(cost)}, indent=2) + "\n")


if __name__ == "__main__":
    main()
