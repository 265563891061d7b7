"""What a benchmark is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from cdal_bench.contenders import OWN
from cdal_sdk.errors import UsageError

__all__ = ["Request"]


@dataclass(frozen=True)
class Request:
    """What to compare, and how.

    Attributes:
        model: a bundled model's name, a model folder, a checkpoint, or "paper:NAME" (random weights).
        contenders: names, from `choose`.
        votes: "equal" or "published".
        batches: sizes for the throughput.
        device: "cpu" or "cuda".
        data: labelled cases; None takes a synthetic one.
        cases: most labelled cases that are scored; 0 leaves out everything from file to file.
        seed: of everything random.
        repetitions: measured rounds.
        warmup: unmeasured runs before them.
        seconds: after so many no further round begins.
        full: run long inferences whole instead of extrapolating.
        longest_s: an inference is long where that of a whole case is expected to take more seconds.
        cold: whether fresh processes measure cold start and memory.
        weights: checkpoints of trained baselines by contender or group, such as "segdiff".
        notes: what has to be told with a baseline's Dice, by the same names.

    Raises:
        UsageError: if weights or notes are for somebody who does not take part.
    """

    model: str
    contenders: tuple[str, ...]
    votes: str = "equal"
    batches: tuple[int, ...] = (1,)
    device: str = "cpu"
    data: Path | None = None
    cases: int = 3
    seed: int = 0
    repetitions: int = 5
    warmup: int = 1
    seconds: float | None = None
    full: bool = False
    longest_s: float = 30.0
    cold: bool = True
    weights: Mapping[str, Path] = field(default_factory=lambda: MappingProxyType({}))
    notes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        takers = [name for name in self.contenders if not name.startswith(OWN)]
        known = dict.fromkeys(key for name in takers for key in (name.partition("-")[0], name))
        for key in (*self.weights, *self.notes):
            if key not in known:
                raise UsageError(
                    f"nobody in this run takes weights or notes for '{key}'",
                    remedy=f"choose from: {', '.join(known)}" if known else "name baselines with --against",
                )

    def weights_of(self, name: str) -> Path | None:
        """The checkpoint of a contender, if one was given."""
        return self.weights.get(name) or self.weights.get(name.partition("-")[0])

    def note_of(self, name: str) -> str:
        """What has to be told of a contender, if anything."""
        return self.notes.get(name) or self.notes.get(name.partition("-")[0], "")
