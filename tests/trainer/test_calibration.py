"""`cdal calibrate`: intervals that keep their promise on unseen cases, and a model folder that tells of it."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import typer
from PIL import Image
from scipy.stats import binomtest
from typer.testing import CliRunner

from cdal_sdk import Segmenter
from cdal_sdk.bundle import load_model, read_manifest
from cdal_sdk.errors import TrainingError
from cdal_trainer.calibration import CaseFigures, LabelFigures, calibrate, figures_of
from cdal_trainer.cases import labelled_cases
from cdal_trainer.cli import calibrate as command
from cdal_trainer.confidence_card import describe
from tests.tiny_model import PLANAR, VOLUME, save_tiny

NUMBERS = count()


def case(needed: float, *, spread: float = 0.1, dice: float = 0.9, parts: int = 1, border: bool = False) -> CaseFigures:
    label = LabelFigures(100, 90, np.linspace(-9, 9, 40, dtype=np.float32), needed)
    return CaseFigures(f"case_{next(NUMBERS)}", (label,), spread, dice, parts, border)


def drawn(rng: np.random.Generator, number: int) -> list[CaseFigures]:
    """Cases of several labels, whose factors are far from normal."""
    return [
        replace(case(0), labels=tuple(replace(case(0).labels[0], needed=float(v)) for v in rng.pareto(1.5, 2)))
        for _ in range(number)
    ]


@pytest.mark.parametrize("coverage", [0.75, 0.9])
def test_the_promise_holds_on_unseen_cases(coverage):
    """Two hundred models, each calibrated on 25 cases and held against one unseen case."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(200):
        scale = calibrate(drawn(rng, 25), coverage).confidence.interval_scale
        held += drawn(rng, 1)[0].needed <= scale
    assert binomtest(held, 200, coverage, alternative="less").pvalue > 0.01, held
    assert held / 200 < coverage + 0.08, "an interval of everything would hold, too"


def test_the_measured_coverage_is_that_of_cases_which_did_not_calibrate():
    rng = np.random.default_rng(4)
    fitted = calibrate(drawn(rng, 200)).covered
    assert fitted.cases == 200
    assert fitted.interval[0] < 0.9 < fitted.interval[1]
    hard = [case(1e6)] * 3 + [case(0)]
    other = calibrate(drawn(rng, 50), others=hard).covered
    assert (other.held, other.cases) == (1, 4)


def test_cross_fitting_keeps_a_patient_together():
    """Pairs that need the same factor: apart, each would give the other its own."""
    values = [float(number) for number in range(20) for _ in range(2)]
    cases = [replace(case(value), name=f"{value:g}-{side}") for value, side in zip(values, "ab" * 20, strict=True)]
    alone = calibrate(cases).covered
    together = calibrate(cases, patient=lambda name: name.partition("-")[0]).covered
    assert (alone.held, together.held) == (38, 36)


def test_it_is_said_where_nobody_knows_what_trained_the_model():
    words = describe(calibrate([case(1.0)] * 20))
    assert "(whether they trained the model is not known)" in words
    assert "that did not train the model" in describe(calibrate([case(1.0)] * 20, trained_on=0))


def test_a_check_on_what_trained_the_model_is_told():
    cases = [case(1.0)] * 20
    told = describe(calibrate(cases, others=cases, trained_on=0, checked_trained_on=3))
    assert "; 3 of them, or others of their patients, trained the model: it is too high." in told
    assert "too high" not in describe(calibrate(cases, others=cases, trained_on=0, checked_trained_on=0))


def test_too_few_cases_are_refused_with_what_is_possible():
    with pytest.raises(TrainingError, match=r"3 case\(s\) are too few .* 90%; give more cases, or --coverage 0.75"):
        calibrate([case(1.0)] * 3)
    assert calibrate([case(1.0), case(2.0), case(3.0)], 0.75).confidence.interval_scale == 3
    with pytest.raises(TrainingError, match="agree on wrong sizes in 6"):
        calibrate([case(1.0)] * 20 + [case(np.inf)] * 6)


def test_what_is_usual_comes_from_the_true_masks():
    usual = [case(1.0, parts=2)] * 39
    found = calibrate([*usual, case(1.0, parts=3, border=True)]).confidence
    assert (found.components, found.whole) == (2, True)
    found = calibrate([case(1.0, parts=80, border=True)] * 20).confidence
    assert (found.components, found.whole) == (0, False)


def test_a_case_in_ten_is_flagged_for_its_spread():
    cases = [case(1.0, spread=0.01 * n, dice=1 - 0.01 * n) for n in range(1, 21)]
    found = calibrate(cases)
    assert sum(c.mean_spread >= found.confidence.high_spread for c in cases) == 2
    assert found.rank_correlation == pytest.approx(-1)
    assert found.flagged_dice == (pytest.approx(0.805), pytest.approx(0.905))


@pytest.mark.parametrize("manifest", [VOLUME, PLANAR])
def test_figures_are_those_of_the_results_a_user_gets(manifest, data, pictures, tmp_path):
    """At the factor that a case needed, the interval in its report just holds the true size."""
    folder = save_tiny(replace(manifest, plan=replace(manifest.plan, domain=PLANAR.plan.domain)), tmp_path / "m")
    found = labelled_cases(data if manifest is VOLUME else pictures)[0]
    figures = figures_of(Segmenter(folder, engine="torch"), found)
    for label, told in zip(figures.labels, manifest.labels, strict=True):
        if not np.isfinite(label.needed):
            continue
        assert label.needed > 0, "else this tests nothing"
        for factor, holds in ((1.0005, True), (0.999, False)):
            confident = replace(read_manifest(folder).confidence, interval_scale=label.needed * factor)
            segmenter = Segmenter(folder, engine="torch")
            segmenter.manifest = replace(segmenter.manifest, confidence=confident)
            size = segmenter(found.image).volumes[told.name]
            low, high = size.volume_ml_interval or size.area_px_interval
            true = true_size(found, told.value)
            assert bool(low - 1e-9 <= true <= high + 1e-9) == holds


def true_size(found, value):
    if found.label.name.endswith(".png"):
        return int((np.asarray(Image.open(found.label)) > 0).sum())
    import nibabel

    return (np.asarray(nibabel.load(found.label).dataobj) == value).sum() / 1000


def cdal_calibrate(*arguments):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_model_folder_tells(pictures, tmp_path):
    folder = save_tiny(PLANAR, tmp_path / "model")
    (folder / "MODEL_CARD.md").write_text("# tiny\n\n## Licence\n\nNone.\n")
    for number in range(9):  # at least nine cases, for nine in ten
        for part in ("images", "masks"):
            (pictures / f"{part}/c{number}.png").write_bytes((pictures / f"{part}/a1.png").read_bytes())
    arguments = ("--model", folder, "--data", pictures, "--cases", "c*", "--check", "[ab]*", "--engine", "torch")

    told = cdal_calibrate(*arguments, "--dry-run", "--json")
    assert told.exit_code == 0, told.output
    assert read_manifest(folder).confidence.coverage is None, "--dry-run changes nothing"
    for _ in range(2):  # once more replaces
        assert cdal_calibrate(*arguments).exit_code == 0

    outcome = json.loads(told.stdout.splitlines()[-1])
    confidence = load_model(folder).manifest.confidence
    assert confidence.interval_scale == outcome["confidence"]["interval_scale"]
    assert (confidence.coverage, confidence.cases) == (0.9, 9)
    assert outcome["covered"]["cases"] == 3
    card = (folder / "MODEL_CARD.md").read_text()
    assert card.startswith("# tiny\n\n## Licence\n\nNone.\n\n<!-- confidence: begin")
    assert card.count("## Confidence") == 1
    assert f"more than {confidence.interval_scale:g} spreads" in card
    assert "Coverage measured on 3 other cases" in card


def test_wrong_usage_is_told(pictures, tmp_path):
    folder = save_tiny(PLANAR, tmp_path / "model")
    shared = cdal_calibrate("--model", folder, "--data", pictures, "--check", "a1")
    assert "both calibrate and check" in str(shared.exception)
    assert "no model folder" in str(cdal_calibrate("--model", tmp_path / "best.pt", "--data", pictures).exception)
    few = cdal_calibrate("--model", folder, "--data", pictures, "--engine", "torch")
    assert "too few" in str(few.exception)
