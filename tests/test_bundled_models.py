"""Every bundled model does what its card says, on a few real cases that training did not see."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cdal_sdk.bundle import bundled_models, name_hash, read_manifest, read_split
from cdal_trainer.evaluate import choose_cases, evaluate, load_trained

CASES = {  # data, pattern, split, number of cases, votes
    "hippocampus": ("Task04_Hippocampus", "*", "held-out", 1, 5),
    "chest-xray": ("cxr", "MCUCXR*", None, 6, 5),
    "nuclei": ("monuseg/test", "*", None, 1, 1),
}
TRAINED_ON = {"hippocampus": "Task04_Hippocampus", "chest-xray": "cxr", "nuclei": "monuseg/train"}
_ROOT = Path(__file__).parents[1]
_CARDS = _ROOT / "cdal_sdk" / "models"


def test_each_is_here_and_has_a_card():
    assert set(bundled_models()) == CASES.keys()
    for name in CASES:
        card = (_CARDS / name / "MODEL_CARD.md").read_text(encoding="utf-8")
        for metric, value in read_manifest(name).provenance.metrics.items():
            told = f"{value:.0%}" if metric.startswith("interval") else f"{value:.3f}"
            assert value > 1 or told in card, f"the card of {name} does not tell {metric}, {value}"


@pytest.mark.parametrize("name", CASES)
def test_all_documents_tell_its_dice(name):
    """In the rows of the README and of the results, the figures and the number of cases of the manifest."""
    metrics = read_manifest(name).provenance.metrics
    cases = f"{metrics.get('images', len(read_split(name).held_out)):g}"
    for document, row, digits in (("README.md", f"| `{name}` |", 3), ("docs/results.md", f"| **`{name}`", 4)):
        lines = (_ROOT / document).read_text(encoding="utf-8").splitlines()
        (line,) = (line for line in lines if line.startswith(row))
        for metric, value in metrics.items():
            assert not metric.startswith("dice") or f"{value:.{digits}f}" in line, f"{document}: {metric} of {name}"
        assert re.search(rf"\b{cases} (images|volumes|of)", line), f"{document}: number of cases of {name}"
    assert re.search(rf"\bon {cases} ", (_CARDS / name / "MODEL_CARD.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", CASES)
def test_its_dice_is_that_of_the_stored_evaluation(name):
    stored = json.loads((_ROOT / "benchmarks/results/accuracy" / f"{name}.json").read_text(encoding="utf-8"))
    assert (stored["model"], stored["trained_on"]) == (name, 0)
    metrics = read_manifest(name).provenance.metrics
    for label, scores in stored["summary"].items():
        assert f"{scores['dice']['mean']:.4f}" == f"{metrics[f'dice_{label}']:.4f}"
        mean = sum(case["scores"][label]["dice"] for case in stored["cases"]) / len(stored["cases"])
        assert scores["dice"]["mean"] == pytest.approx(mean)


@pytest.mark.parametrize(("name", "rows"), [("hippocampus", 2), ("chest-xray", 5), ("nuclei", 5)])
def test_the_tables_of_its_card_are_the_stored_evaluation(name, rows):
    """A row a metric, or a row a label with its Dice."""
    stored = json.loads((_ROOT / "benchmarks/results/accuracy" / f"{name}.json").read_text(encoding="utf-8"))
    labels = stored["summary"]
    known = {label.lower(): metrics["dice"] for label, metrics in labels.items()} | next(iter(labels.values()))
    found = 0
    for line in (_CARDS / name / "MODEL_CARD.md").read_text(encoding="utf-8").splitlines():
        first, *told = (cell.strip() for cell in line.strip("|").split("|"))
        if (key := first.split(",")[0].lower()) in known:
            for text, value in zip(told, ("mean", "std"), strict=False):
                last_digit = 10.0 ** -len(text.partition(".")[2])
                assert float(text) == pytest.approx(known[key][value], abs=0.6 * last_digit), line
            found += 1
    assert found == rows


@pytest.mark.parametrize(
    ("name", "training", "held_out"), [("hippocampus", 170, 20), ("chest-xray", 518, 48), ("nuclei", 27, 3)]
)
def test_each_knows_its_split(name, training, held_out, shared_data):
    """Of the hippocampi that were held out, five whose other side trained do not count."""
    record = read_split(name)
    assert (len(record.training), len(record.held_out)) == (training, held_out)
    assert f"{training} cases for training" in read_manifest(name).provenance.split
    data = shared_data / TRAINED_ON[name]
    assert len(choose_cases(data, split="held-out", record=record)[0]) == held_out
    names = [case.name for case in choose_cases(data)[0]]
    assert {name_hash(case) for case in names} >= set(record.training)
    if name == "hippocampus":
        for case in (case for case in names if name_hash(case) in record.held_out):
            number = int(case[-3:])
            assert name_hash(f"hippocampus_{number + (1 if number % 2 else -1):03d}") not in record.training


@pytest.mark.parametrize("name", CASES)
def test_each_is_as_small_as_promised(name):
    assert (_CARDS / name / "weights.safetensors").stat().st_size < 20e6


@pytest.mark.parametrize("name", CASES)
def test_each_segments_unseen_cases(name, shared_data):
    """Not below the lowest Dice of a handful of cases by much: a broken model, not an unlucky one, fails."""
    folder, pattern, split, count, votes = CASES[name]
    record = read_split(name)
    cases, _ = choose_cases(shared_data / folder, pattern=pattern, split=split, record=record)
    assert not {name_hash(case.name) for case in cases} & set(record.training)
    evaluation = evaluate(load_trained(name, engine="torchscript", votes=votes), cases[:count])
    floor = min(read_manifest(name).provenance.metrics[f"dice_{label}"] for label in evaluation.summary) - 0.05
    for label, metrics in evaluation.summary.items():
        assert metrics["dice"].mean > floor, label
