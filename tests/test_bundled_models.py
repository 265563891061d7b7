"""Every bundled model does what its card says, on a few real cases that training did not see."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdal_sdk.bundle import bundled_models, read_manifest
from cdal_trainer.evaluate import choose_cases, evaluate, load_trained

CASES = {  # data, pattern, split, number of cases, votes
    "hippocampus": ("Task04_Hippocampus", "*", "0/8", 1, 5),
    "chest-xray": ("cxr", "MCUCXR*", None, 6, 5),
    "nuclei": ("monuseg/test", "*", None, 1, 1),
}
_CARDS = Path(__file__).parents[1] / "cdal_sdk" / "models"


def test_each_is_here_and_has_a_card():
    assert set(bundled_models()) == CASES.keys()
    for name in CASES:
        card = (_CARDS / name / "MODEL_CARD.md").read_text(encoding="utf-8")
        for metric, value in read_manifest(name).provenance.metrics.items():
            told = f"{value:.0%}" if metric.startswith("interval") else f"{value:.3f}"
            assert value > 1 or told in card, f"the card of {name} does not tell {metric}, {value}"


@pytest.mark.parametrize("name", CASES)
def test_each_is_as_small_as_promised(name):
    assert (_CARDS / name / "weights.safetensors").stat().st_size < 20e6


@pytest.mark.parametrize("name", CASES)
def test_each_segments_unseen_cases(name, shared_data):
    """Not below the lowest Dice of a handful of cases by much: a broken model, not an unlucky one, fails."""
    folder, pattern, split, count, votes = CASES[name]
    cases, _ = choose_cases(shared_data / folder, pattern=pattern, split=split)
    evaluation = evaluate(load_trained(name, engine="torchscript", votes=votes), cases[:count])
    floor = min(read_manifest(name).provenance.metrics[f"dice_{label}"] for label in evaluation.summary) - 0.05
    for label, metrics in evaluation.summary.items():
        assert metrics["dice"].mean > floor, label
