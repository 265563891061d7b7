"""The result of an evaluation: scores a case and label, their summary, and the files that hold them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cdal_sdk.atomic import atomic
from cdal_sdk.errors import UsageError
from cdal_sdk.study import Label
from cdal_trainer.metrics import METRICS, Difference, Score, Summary, compare_paired, summarise
from cdal_trainer.pictures import Panel, draw_panels

__all__ = ["CaseScore", "Evaluation"]

_SCHEMA = 1
_TOLD = ("model", "method", "engine", "votes", "seed", "evaluations", "chosen", "trained_on")


@dataclass(frozen=True)
class CaseScore:
    """The scores of one case.

    Attributes:
        case: its name.
        scores: by label name.
        patient: whose it is; "" for one of its own.
    """

    case: str
    scores: dict[str, Score]
    patient: str = ""

    @property
    def mean_dice(self) -> float:
        """Over the labels."""
        return float(np.mean([score.dice for score in self.scores.values()]))


@dataclass(frozen=True)
class Evaluation:
    """A model's scores on a set of cases.

    Attributes:
        model: its name.
        method: "cdal", or the baseline's name.
        engine: that ran it.
        votes: instances that were averaged.
        seed: of all noise.
        evaluations: of the network, for one image (NFE).
        cases: in the order of the data.
        chosen: how the cases were chosen, in words.
        trained_on: how many of them trained the model, or are of patients that did; None where that is not known.
        panels: pictures of the best, median and worst case.
    """

    model: str
    method: str
    engine: str
    votes: int
    seed: int
    evaluations: int
    cases: list[CaseScore]
    chosen: str = "all"
    trained_on: int | None = None
    panels: list[Panel] = field(default_factory=list, repr=False)

    @property
    def summary(self) -> dict[str, dict[str, Summary]]:
        """Summaries by label and metric."""
        return {name: summarise([case.scores[name] for case in self.cases]) for name in self.cases[0].scores}

    def require_pairs(self, names: Iterable[str], labels: Iterable[str]) -> None:
        """Refuse a comparison with a model that is scored on other cases or labels.

        Raises:
            UsageError: if it is.
        """
        if set(names) != {case.case for case in self.cases} or set(labels) != set(self.cases[0].scores):
            raise UsageError(
                "the two models were scored on different cases or labels", remedy="score both on the same data"
            )

    def against(self, other: Evaluation) -> dict[str, Difference]:
        """The paired difference in Dice, by label; cases of one patient, as named here, are no independent ones.

        Raises:
            UsageError: if the other was scored on other cases or labels.
        """
        other.require_pairs([case.case for case in self.cases], self.cases[0].scores)
        theirs = {case.case: case for case in other.cases}
        return {
            name: compare_paired(
                [case.scores[name].dice for case in self.cases],
                [theirs[case.case].scores[name].dice for case in self.cases],
                [case.patient or case.case for case in self.cases],
            )
            for name in self.summary
        }

    def to_data(self) -> dict[str, Any]:
        """As JSON holds it; what is not defined is null."""
        data: dict[str, Any] = {"schema": _SCHEMA}
        data |= {name: getattr(self, name) for name in _TOLD}
        data["summary"] = {
            label: {metric: asdict(summary) for metric, summary in metrics.items()}
            for label, metrics in self.summary.items()
        }
        data["cases"] = [
            {
                "case": case.case,
                "patient": case.patient or case.case,
                "scores": {label: _defined(asdict(score)) for label, score in case.scores.items()},
            }
            for case in self.cases
        ]
        return data

    @classmethod
    def from_json(cls, path: Path) -> Evaluation:
        """Read what `save` wrote.

        Raises:
            UsageError: if it is none.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            cases = [
                CaseScore(
                    entry["case"],
                    {label: _score(values) for label, values in entry["scores"].items()},
                    entry.get("patient", ""),  # older files have none
                )
                for entry in data["cases"]
            ]
            return cls(**{name: data[name] for name in _TOLD if name in data}, cases=cases)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise UsageError("this is no result of cdal evaluate", where=path, remedy="give its JSON file") from None

    def save(self, path: Path, labels: Sequence[Label], other: Evaluation | None = None) -> list[Path]:
        """Write JSON, CSV and, where there are any, the picture of the best, median and worst case.

        Args:
            path: of the JSON, with or without its suffix; the others get its name with their own.
            labels: of the model.
            other: what to compare with, as the JSON's "comparison".

        Returns:
            The files written.
        """
        data = self.to_data()
        if other is not None:
            differences = {name: asdict(difference) for name, difference in self.against(other).items()}
            data["comparison"] = {"model": other.model, "method": other.method, "dice": differences}
        stem = path.name.removesuffix(".json")
        written = [path.with_name(f"{stem}{suffix}") for suffix in (".json", ".csv")]
        with atomic(written[0]) as aside:
            aside.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
        with atomic(written[1]) as aside, aside.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["case", "label", *METRICS])
            for case in self.cases:
                for label, score in case.scores.items():
                    rows.writerow([case.case, label, *(f"{value:.5f}" for value in asdict(score).values())])
        if self.panels:
            written.append(path.with_name(f"{stem}.png"))
            with atomic(written[2]) as aside:
                draw_panels(self.panels, labels, aside)
        return written


def _defined(values: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _score(values: dict[str, float | None]) -> Score:
    return Score(**{name: math.nan if value is None else value for name, value in values.items()})
