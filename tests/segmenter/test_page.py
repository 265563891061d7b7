"""The page of a run: complete, harmless and self-contained."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdal_sdk.segmenter.page import write_page
from cdal_sdk.segmenter.report import CaseReport, Report

EVIL = "<script>alert(1)</script>"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def report(out: Path) -> Report:
    size = {"Anterior": {"value": 1, "volume_ml": 1.785, "volume_ml_interval": [1.7, 1.9]}}
    cases = [
        CaseReport("fine", "ok", None, "a.nii.gz", ["fine.nii.gz", "previews/fine.png"], size, 0.02),
        CaseReport("odd", "ok", None, "b", ["previews/odd.png"], size, 0.3, review=["high spread: 0.30"]),
        CaseReport(EVIL, "failed", f"{EVIL}: a slice is missing", "c"),
    ]
    (out / "previews").mkdir()
    for name in ("fine", "odd"):
        pixels = np.random.default_rng(0).integers(0, 255, (900, 1400, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(out / f"previews/{name}.png")
    return Report(
        model="hippocampus",
        model_version="1.0.0",
        weights_sha256="ab",
        engine="openvino",
        precision="bf16",
        device="cpu",
        seed=0,
        votes=5,
        force=False,
        software="0.1.0",
        cases=cases,
    )


def page(out: Path) -> str:
    write_page(report(out), out)
    return (out / "report.html").read_text(encoding="utf-8")


def test_every_case_with_its_size_reason_and_picture(tmp_path: Path) -> None:
    text = page(tmp_path)
    HTMLParser().feed(text)
    assert text.count("<tr class=") == 3
    assert "1.785 ml <small>(1.700 to 1.900)</small>" in text
    assert "high spread: 0.30" in text
    assert text.count("data:image/jpeg;base64,") == 2
    assert "2 ok, 1 failed; 1 to review" in text
    assert "model hippocampus 1.0.0, engine openvino in bf16 on cpu, 5 vote(s), seed 0, cDAL SDK 0.1.0" in text


def test_a_single_vote_is_not_told_as_certain(tmp_path: Path) -> None:
    write_page(replace(report(tmp_path), votes=1), tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "A single vote has no spread" in text
    assert "1.785 ml" in text
    assert "1.700 to 1.900" not in text
    assert "0.020" not in text


def test_names_and_errors_are_escaped_and_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    text = page(tmp_path)
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert not re.search(r"https?://|src=\"(?!data:)", text)


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")
def test_it_opens_in_a_browser(tmp_path: Path) -> None:
    page(tmp_path)
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [str(BROWSER), *options, "--dump-dom", (tmp_path / "report.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("<tr class=") == 3
    assert "a slice is missing" in done.stdout


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")
def test_a_long_error_leaves_pictures_their_width(tmp_path: Path) -> None:
    """The previews take about a third of the page, 1170 pixels wide; one of them is red here."""
    written = report(tmp_path)
    written.cases.append(replace(written.cases[-1], error="a sentence that goes on and on, " * 20))
    Image.new("RGB", (900, 900), (255, 0, 0)).save(tmp_path / "previews/fine.png")
    write_page(written, tmp_path)
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    shot = [f"--screenshot={tmp_path / 'shot.png'}", "--window-size=1200,900"]
    command = [str(BROWSER), *options, *shot, (tmp_path / "report.html").as_uri()]
    subprocess.run(command, capture_output=True, timeout=120, check=True)  # noqa: S603
    pixels = np.asarray(Image.open(tmp_path / "shot.png").convert("RGB")).astype(int)
    red = (pixels[..., 0] > 200) & (pixels[..., 1] < 60) & (pixels[..., 2] < 60)
    assert red.sum(axis=1).max() > 350
