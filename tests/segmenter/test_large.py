"""Pictures of any size: the same masks as the usual way, in bounded memory, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from scipy.ndimage import gaussian_filter

from cdal_sdk import Segmenter, segment_cases
from cdal_sdk.bundle import write_model_folder
from cdal_sdk.errors import MissingExtraError, ReadError
from cdal_sdk.readers import discover
from cdal_sdk.readers.image import read_image
from cdal_sdk.readers.large_picture import open_large, read_gray
from cdal_sdk.readers.limits import LIMITS
from cdal_sdk.segmenter import batch
from cdal_sdk.segmenter.verify import verify
from cdal_sdk.slicing import Intensity
from tests.tiny_model import PLANAR, save_tiny, tiny_generator

pyvips = pytest.importorskip("pyvips", reason="libvips is not installed: pip install 'cdal-sdk[slides]'")

TILED = replace(
    PLANAR,
    name="tiny-tiled",
    network=replace(PLANAR.network, image_channels=3, image_size=64),
    plan=replace(
        PLANAR.plan,
        channels=3,
        fit="tile",
        scale=0.4,
        canvas=(64, 64),
        overlap=0.2,
        intensity=Intensity("standardise", mean=(120.0, 120.0, 120.0), std=(60.0, 60.0, 60.0)),
    ),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = tiny_generator(TILED)
    with torch.no_grad():
        generator.out.bias += 0.56  # so that its means lie on both sides of zero
    folder = tmp_path_factory.mktemp("models") / "tiled"
    write_model_folder(folder, TILED, generator.state_dict())
    return folder


def picture(height: int = 430, width: int = 371) -> np.ndarray:
    rng = np.random.default_rng(5)
    smooth = gaussian_filter(rng.normal(size=(height, width, 3)), (9, 9, 0))
    return np.clip(120 + 500 * smooth, 0, 255).astype(np.uint8)


def run(model: Path, source: Path, out: Path, whole_pixels: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(batch, "LIMITS", replace(LIMITS, whole_pixels=whole_pixels))
    monkeypatch.setattr("cdal_sdk.segmenter.large._BAND_PIXELS", 371 * 17)  # many bands
    report = segment_cases(Segmenter(model, engine="torch"), discover([source]), out)
    return {case["case"]: case for case in json.loads(report.to_json())["cases"]}


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_parts_give_what_the_whole_gives(model, tmp_path, monkeypatch, suffix):
    source = tmp_path / f"in/slide{suffix}"
    source.parent.mkdir()
    Image.fromarray(picture()).save(source)

    whole = run(model, source, tmp_path / "whole", 10**6, monkeypatch)["slide"]
    parts = run(model, source, tmp_path / "parts", 1000, monkeypatch)["slide"]

    assert whole["outputs"] == ["slide.png", "previews/slide.png"]
    assert parts["outputs"] == ["slide.mask.tif", "previews/slide.png"], parts["error"]
    expected = np.asarray(Image.open(tmp_path / "whole/slide.png"))
    found = read_gray(tmp_path / "parts/slide.mask.tif")
    assert 0.05 < (expected > 0).mean() < 0.95
    assert (expected != found).mean() < 1e-4, "resampling in parts rounds differently at most"
    for size in ("area_px", "area_px_interval"):
        assert parts["labels"]["Anterior"][size] == pytest.approx(whole["labels"]["Anterior"][size], rel=1e-3)
    assert parts["mean_spread"] == pytest.approx(whole["mean_spread"], rel=1e-3)
    assert verify(tmp_path / "parts", discover([source])).problems == []
    assert not list((tmp_path / "parts").glob(".*rows*"))
    again = run(model, source, tmp_path / "parts", 1000, monkeypatch)["slide"]
    assert again["status"] == "skipped"


def test_what_cannot_be_done_in_parts_fails_alone(model, tmp_path, monkeypatch):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(picture()).save(folder / "good.png")
    Image.fromarray(picture()[..., 0]).save(folder / "gray.png")
    Image.fromarray(picture()).save(folder / "cut.tif", compression="tiff_deflate")
    raw = (folder / "cut.tif").read_bytes()
    (folder / "cut.tif").write_bytes(
        raw[: len(raw) // 3] + bytes(len(raw) - 2 * (len(raw) // 3)) + raw[-(len(raw) // 3) :]
    )

    cases = run(model, folder, tmp_path / "out", 1000, monkeypatch)

    assert {name: case["status"] for name, case in cases.items()} == {
        "good": "ok", "gray": "failed", "cut": "failed",
    }  # fmt: skip
    assert "the image is gray" in cases["gray"]["error"]
    assert "truncated or damaged" in cases["cut"]["error"]
    left = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file() and ".cdal-ledger" not in path.parts}
    assert left == {"report.json", "report.html", "good.mask.tif", "good.png"}


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_rows_are_turned_as_exif_asks(tmp_path, suffix, orientation):
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = orientation
    path = tmp_path / f"turned{suffix}"
    Image.fromarray(picture()).save(path, exif=turned)
    expected = read_image("turned", path).image[..., 0].transpose(1, 2, 0)
    opened = open_large(path)
    rows = b"".join(opened.rows(start, start + 1) for start in range(opened.shape.height))
    found = np.frombuffer(rows, np.uint8).reshape(opened.shape.height, opened.shape.width, 3)
    np.testing.assert_array_equal(found, expected)


def test_a_turned_picture_passes_in_parts_and_a_huge_one_is_refused(model, tmp_path, monkeypatch):
    source, turned = tmp_path / "photo.jpg", Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    Image.fromarray(picture()).save(source, exif=turned)
    parts = run(model, source, tmp_path / "parts", 1000, monkeypatch)["photo"]
    assert parts["geometry"]["grid"] == [371, 430]
    run(model, source, tmp_path / "whole", 10**6, monkeypatch)
    expected = np.asarray(Image.open(tmp_path / "whole/photo.png"))
    assert (expected != read_gray(tmp_path / "parts/photo.mask.tif")).mean() < 1e-4
    monkeypatch.setattr("cdal_sdk.readers.large_picture.LIMITS", replace(LIMITS, pixels=1000))
    with pytest.raises(ReadError, match="save it upright"):
        open_large(source)


def test_a_pyramid_is_one_picture_and_two_pages_are_two(tmp_path):
    values = pyvips.Image.new_from_array(picture())
    values.tiffsave(str(tmp_path / "pyramid.tif"), tile=True, pyramid=True, compression="jpeg")
    assert open_large(tmp_path / "pyramid.tif").shape.height == 430
    page = Image.fromarray(picture())
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page])
    with pytest.raises(Exception, match="more than one picture"):
        open_large(tmp_path / "pages.tif")


def test_a_further_format_is_passed_over_with_a_way_out(model, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(batch, "LIMITS", replace(LIMITS, whole_pixels=1000))
    Image.fromarray(picture()).save(tmp_path / "slide.png")
    cases = discover([tmp_path / "slide.png"])
    report = segment_cases(Segmenter(model, engine="torch"), cases, tmp_path / "out", formats=("probability",))
    assert report.cases[0].outputs == ["slide.mask.tif", "previews/slide.png"]
    assert "--format probability is passed over for pictures that are segmented part by part; cut out" in caplog.text


def test_a_plan_that_needs_the_whole_picture_takes_no_parts():
    assert TILED.plan.by_parts
    assert not replace(TILED.plan, intensity=Intensity("percentile", 1, 99)).by_parts
    assert not replace(TILED.plan, scale=None, resize_to=(128, 128)).by_parts
    assert not PLANAR.plan.by_parts


def test_without_libvips_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyvips", None)
    with pytest.raises(MissingExtraError, match=r"cdal-sdk\[slides\]"):
        open_large(tmp_path / "x.tif")


SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)
from cdal_sdk import Segmenter, segment_cases
from cdal_sdk.readers import IsolatedReader, discover
from cdal_sdk.segmenter import batch

def peak(process):
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024

readers = []
close = IsolatedReader.close
def closing(reader):
    if reader._process is not None:
        readers.append(peak(reader._process.pid))
    close(reader)
IsolatedReader.close = closing
batch.LIMITS = replace(batch.LIMITS, whole_pixels=10**6)
model, third, whole, out = sys.argv[1:]
segmenter = Segmenter(model, engine="torch")
for name in (third, whole):
    report = segment_cases(segmenter, discover([Path(name)]), Path(out))
    assert [case.status for case in report.cases] == ["ok"], report.cases[0].error
    print(peak("self"), max(readers))
"""
LARGE = int(os.environ.get("CDAL_LARGE", "0"))
HEIGHT, WIDTH = (LARGE, LARGE) if LARGE else (9000, 2000)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_the_height(tmp_path):
    """The upper third of a picture, then all of it: 9000 x 2000 by default, CDAL_LARGE=20000 for a slide."""
    plan = replace(TILED.plan, scale=0.05 if LARGE else 0.1, canvas=(128, 128))
    model = save_tiny(replace(TILED, plan=plan), tmp_path / "model")
    tile = pyvips.Image.new_from_array(picture(500, 500))
    for name, height in (("third", HEIGHT // 3), ("whole", HEIGHT)):
        whole = tile.replicate(-(-WIDTH // 500), -(-height // 500)).crop(0, 0, WIDTH, height)
        whole.tiffsave(str(tmp_path / f"{name}.tif"), tile=True, compression="deflate", bigtiff=True)
    command = [sys.executable, "-c", SCRIPT, model, tmp_path / "third.tif", tmp_path / "whole.tif", tmp_path / "out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True)  # noqa: S603
    assert done.returncode == 0, done.stderr
    own_third, reader_third, own, reader = map(float, done.stdout.split())
    told = f"{own:.0f} MB and {reader:.0f} MB to read, a third of it {own_third:.0f} MB and {reader_third:.0f} MB"
    print(f"{HEIGHT} x {WIDTH} pixels: {told}")  # noqa: T201 - with -s, the measurement
    assert own - own_third < 60, done.stdout  # as numbers, two thirds of the picture take 144
    assert reader - reader_third < 60, done.stdout
