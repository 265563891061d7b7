"""The whole benchmark on a tiny model: what it measures, tells and draws."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cdal_bench import probe as probe_module
from cdal_bench.benchmark import run_benchmark
from cdal_bench.compiled import compiled_precision
from cdal_bench.configurations import PAPER, Subject, load_subject, segdiff_config
from cdal_bench.contenders import choose, prepare_contender
from cdal_bench.plots import draw_plots
from cdal_bench.probe import Probe, probe
from cdal_bench.report import duration, report_markdown, times
from cdal_bench.request import Request
from cdal_bench.results import Result, Start, read_result, write_result
from cdal_bench.segdiff import SegDiffConfig
from cdal_sdk.errors import EngineError, ReadError, UsageError
from cdal_trainer.cases import labelled_cases
from cdal_trainer.evaluate import evaluate, load_trained
from tests.bench.test_publish import MACHINE


@pytest.fixture(scope="module")
def result(model: Path, task: Path, checkpoints: dict[str, Path]) -> Result:
    request = Request(
        model=str(model),
        contenders=choose(["segdiff", "cdal-published", "unet"], ["torch", "torchscript"]),
        batches=(1, 2),
        data=task,
        cases=2,
        repetitions=2,
        warmup=0,
        longest_s=0.0,
        cold=False,
        weights=checkpoints,
        notes={"segdiff": "not converged"},
    )
    return run_benchmark(request)


@pytest.fixture
def known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose matrix rates need not be measured."""
    monkeypatch.setattr("cdal_bench.benchmark.describe_machine", lambda device: MACHINE)
    monkeypatch.setattr("cdal_bench.benchmark.matrix_rates", lambda device: MACHINE.gflops)


def test_every_contender_has_a_row_with_its_cost(result):
    cost = {row.name: (row.steps, row.votes, row.evaluations, row.encoder_evaluations) for row in result.rows}
    assert cost == {
        "segdiff-published": (100, 2, 200, 200),
        "segdiff-fast": (100, 2, 200, 1),
        "segdiff-openvino": (100, 2, 200, 1),
        "segdiff-ddim": (10, 2, 20, 1),
        "cdal-published": (2, 2, 4, 4),
        "cdal-plain": (2, 2, 4, 1),
        "cdal-torchscript": (2, 2, 4, 1),
        "unet": (0, 1, 1, 0),
    }
    gflop = {row.name: row.gflop for row in result.rows}
    assert gflop["segdiff-published"] > gflop["segdiff-fast"] > 9 * gflop["segdiff-ddim"]
    assert gflop["cdal-published"] > gflop["cdal-plain"] == gflop["cdal-torchscript"] > 0
    assert all(len(row.network.samples_ms) == 2 and min(row.network.samples_ms) > 0 for row in result.rows)
    assert all(row.roofline is not None and 0 < row.roofline < 1.5 for row in result.rows)


def test_what_was_not_run_whole_says_so_and_has_no_dice(result):
    for row in result.rows:
        extrapolated = row.name.startswith("segdiff") or row.name == "cdal-published"
        assert (row.extrapolated is not None) == extrapolated
        assert bool(row.dice) == (not extrapolated)
        assert [entry.batch for entry in row.throughput] == ([1] if extrapolated else [1, 2])
        assert row.stages_ms.keys() == {"read", "prepare", "engine", "restore", "write"}
        assert row.stages_ms["engine"] > 0
        assert row.case is not None
        assert len(row.case.samples_ms) == 2
        assert row.case.p50.value > row.stages_ms["engine"]
        assert row.note == ("not converged" if row.name.startswith("segdiff") else "")
    page = report_markdown(result)
    (line,) = (line for line in page.splitlines() if line.startswith("| SegDiff as published |") and "200 (100" in line)
    assert "*extrapolated*" in line
    assert "200 x step, each measured once a round" in page
    (line,) = (line for line in page.splitlines() if line.startswith("| SegDiff as published | 2 |"))
    assert line.count("*extrapolated*") == 1, "its throughput, too"


def test_what_takes_little_time_runs_whole(model, known_machine):
    request = Request(str(model), choose(["cdal-published"], []), cases=0, repetitions=1, warmup=0, cold=False)
    assert run_benchmark(request).rows[0].extrapolated is None


def test_our_engines_are_held_against_the_reference_on_the_images_measured(result):
    verdicts = {row.name: row.gate for row in result.rows if row.gate}
    assert set(verdicts) == {"cdal-torchscript"}
    assert verdicts["cdal-torchscript"].passed
    assert "8 images" in verdicts["cdal-torchscript"].figures, "four of each case"
    assert "| passed |" in report_markdown(result)


def test_compiled_baselines_take_part_with_their_precision_and_the_same_weights(model, checkpoints, known_machine):
    pytest.importorskip("openvino")
    request = Request(
        str(model),
        choose(["unet", "unet-openvino"], []),
        cases=0,
        repetitions=1,
        warmup=0,
        cold=False,
        weights={"unet": checkpoints["unet"]},
    )
    rows = run_benchmark(request).rows
    assert [row.title for row in rows] == ["U-Net", "U-Net, OpenVINO"]
    assert rows[0].precision == "float32"
    assert rows[1].precision == ("bfloat16" if compiled_precision("cpu") == "bf16" else "float32")
    assert rows[0].gflop == rows[1].gflop


@pytest.mark.parametrize("name", ["unet", "cdal-plain"])
def test_dice_is_the_one_of_the_trainers_evaluation(result, model, task, checkpoints, name):
    """On images smaller than the crops of training, too, which a baseline sees with a margin."""
    trained = load_trained(checkpoints.get(name, model), device="cpu")
    first, _, last = labelled_cases(task)
    summary = evaluate(trained, [first, last]).summary
    assert result.row(name).dice == {label: pytest.approx(found["dice"].mean) for label, found in summary.items()}


def test_ratios_are_of_ours_against_the_others(result):
    pairs = {(ratio.against, ratio.contender) for ratio in result.ratios}
    others = {row.name for row in result.rows} - {"cdal-plain", "cdal-torchscript"}
    assert pairs == {(o, e) for o in others for e in ("cdal-plain", "cdal-torchscript")} | {
        ("cdal-plain", "cdal-torchscript")
    }
    for ratio in result.ratios:
        slow, fast = result.row(ratio.against), result.row(ratio.contender)
        assert ratio.times.value == pytest.approx(slow.network.p50.value / fast.network.p50.value)
        assert ratio.arithmetic == pytest.approx(slow.gflop / fast.gflop)


def test_the_json_comes_back_and_tells_nothing_of_this_machine_but_its_kind(result, tmp_path, model, task):
    write_result(result, tmp_path / "result.json")
    text = (tmp_path / "result.json").read_text()
    again = read_result(tmp_path / "result.json")
    assert [row.name for row in again.rows] == [row.name for row in result.rows]
    assert again.rows[0].network.p50.value == pytest.approx(result.rows[0].network.p50.value, rel=1e-4)
    write_result(again, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == text
    for private in (str(model.parent), str(task.parent), str(tmp_path), str(Path.home())):
        assert private not in text
    assert f'"{platform.node()}"' not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(schema=1), "schema 1"),
        (lambda data: data.pop("machine"), "no result"),
        (lambda data: data["rows"][0].update(colour="red"), "no result"),
    ],
)
def test_another_json_is_refused(result, tmp_path, change, message):
    path = tmp_path / "result.json"
    write_result(result, path)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ReadError, match=message):
        read_result(path)


def test_pictures_are_drawn_of_what_there_is(result, tmp_path):
    assert set(draw_plots(result, tmp_path).values()) == {"latency.png", "dice.png", "stages.png", "throughput.png"}
    assert all((tmp_path / name).stat().st_size > 5000 for name in draw_plots(result, tmp_path).values())
    bare = replace(result, rows=tuple(replace(row, dice={}, stages_ms={}, throughput=()) for row in result.rows))
    assert set(draw_plots(bare, tmp_path / "bare").values()) == {"latency.png"}


def test_an_engine_that_cannot_be_made_is_told_and_the_others_go_on(model, monkeypatch, known_machine):
    def unavailable(*arguments):
        raise EngineError("there is no such runtime", remedy="install it")

    monkeypatch.setattr("cdal_bench.contenders.make_own_engine", unavailable)
    request = Request(str(model), choose(["unet"], ["torchscript"]), cases=0, repetitions=1, warmup=0, cold=False)
    found = run_benchmark(request)
    assert found.failed == {"cdal-torchscript": "there is no such runtime; install it"}
    assert found.unavailable == {}
    assert [row.name for row in found.rows] == ["unet"]
    assert "there is no such runtime" in report_markdown(found)


def test_an_engine_of_another_device_has_not_failed(model, known_machine):
    request = Request(str(model), choose(["unet"], ["tensorrt"]), cases=0, repetitions=1, warmup=0, cold=False)
    found = run_benchmark(request)
    assert set(found.unavailable) == {"cdal-tensorrt"}
    assert found.failed == {}


@pytest.mark.parametrize("engines", [["tensorrt"], []])
def test_where_nobody_can_be_made_nothing_is_measured(model, engines, known_machine):
    with pytest.raises(UsageError, match="nobody can be measured"):
        run_benchmark(Request(str(model), choose([], engines), cold=False))


@pytest.mark.parametrize("setting", ["weights", "notes"])
def test_weights_for_nobody_are_refused(setting):
    taken = {"segdiff": "x", "segdiff-fast": "x"}
    Request("hippocampus", choose(["segdiff"], []), **{setting: taken})
    for name in ("segdif", "unet", "cdal"):
        with pytest.raises(UsageError, match=f"'{name}'.*segdiff, segdiff-published"):
            Request("hippocampus", choose(["segdiff", "cdal-published"], ["onnx"]), **{setting: {name: "x"}})


@pytest.mark.parametrize(
    ("against", "engines", "message"), [(["segdif"], [], "no contender 'segdif'"), ([], ["onnyx"], "no engine 'onnyx'")]
)
def test_unknown_names_are_refused(against, engines, message):
    with pytest.raises(UsageError, match=message):
        choose(against, engines)


def test_a_fresh_process_tells_its_start(model):
    found = probe(Probe("cdal-plain", str(model), "", "equal", "cpu", 0, full=False))
    assert found is not None
    assert found.cold_s is not None
    assert 0 < found.build_s < found.cold_s
    assert found.peak_mb > 50


@pytest.mark.parametrize("name", ["cdal-plain", "segdiff-fast"])
def test_a_fresh_process_neither_imports_nor_counts_for_others(model, checkpoints, name):
    weights = str(checkpoints["segdiff"]) if name == "segdiff-fast" else ""
    code = (
        "import sys\n"
        "from cdal_bench import contenders, probe\n"
        "contenders._flop = None\n"
        f"start = probe._run(probe.Probe({name!r}, {str(model)!r}, {weights!r}, 'equal', 'cpu', 0, full=True), 0.0)\n"
        "assert start.build_s > 0\n"
        "print([name for name in ('lightning_fabric', 'matplotlib', 'monai', 'tensorboard') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603 - ours
    assert done.stdout == "[]\n", done.stderr


def test_the_first_process_builds_and_the_second_finds_what_it_kept(monkeypatch):
    seen: list[list[str]] = []

    def fresh(order, cache):
        seen.append([path.name for path in Path(cache).iterdir()])
        (Path(cache) / "engine").touch()
        return Start(cold_s=float(len(seen)), build_s=10.0 * len(seen), peak_mb=100.0 * len(seen))

    monkeypatch.setattr(probe_module, "_fresh", fresh)
    order = Probe("cdal-plain", "hippocampus", "", "equal", "cpu", 0, full=True)
    assert probe(order) == Start(cold_s=2.0, build_s=10.0, peak_mb=200.0)
    assert seen == [[], ["engine"]]


def test_a_process_that_fails_tells_nothing(model):
    assert probe(Probe("cdal-plain", str(model / "missing"), "", "equal", "cpu", 0, full=False)) is None


def test_the_paper_s_configurations():
    for name, manifest in PAPER.items():
        assert manifest.name == f"paper:{name}"
        assert set(manifest.plan.canvas) == {manifest.network.image_size}
    assert segdiff_config(PAPER["monuseg"]) == SegDiffConfig()
    with pytest.raises(UsageError, match="paper:monuseg"):
        load_subject("paper:brain", Path())


def test_the_arithmetic_of_the_monuseg_configuration():
    """What the steps alone are worth: 350 times against SegDiff as published, 107 against SegDiff made fast."""
    subject = Subject("", PAPER["monuseg"], trained=False)
    flop = {
        name: prepare_contender(name, subject, (256, 256)).cost.flop
        for name in ("segdiff-published", "segdiff-fast", "cdal-plain")
    }
    assert flop["segdiff-published"] / flop["cdal-plain"] == pytest.approx(351, rel=0.01)
    assert flop["segdiff-fast"] / flop["cdal-plain"] == pytest.approx(106.5, rel=0.01)


@pytest.mark.parametrize("trained", [False, True], ids=["fresh", "trained"])
@pytest.mark.parametrize("name", ["cdal-plain", "cdal-published", "segdiff-published", "unet"])
def test_what_is_counted_is_what_runs(name, model, checkpoints, trained):
    """With resampling in general steps where the release has them; our votes share little more than the encoder."""
    subject = load_subject(str(model), Path())
    manifest = replace(subject.manifest, votes=1 if name.startswith("segdiff") else 2)
    weights = checkpoints.get(name.partition("-")[0]) if trained else None  # they see a margin around so small an image
    contender = prepare_contender(name, replace(subject, manifest=manifest), (16, 16), weights=weights)
    engine = contender.make()
    # The counter does not see into the CPU's own kernel for attention.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        engine.run(np.zeros((1, manifest.network.image_channels, 16, 16), np.float32))
    assert contender.cost.flop == pytest.approx(counter.get_total_flops(), rel=2e-3)


def test_votes_as_published():
    subject = Subject("", PAPER["cxr"], trained=False)
    votes = {
        name: prepare_contender(name, subject, (32, 32), mode="published").cost.votes
        for name in ("segdiff-ddim", "cdal-plain", "unet")
    }
    assert votes == {"segdiff-ddim": 9, "cdal-plain": 30, "unet": 1}


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0.1234, "0.123 ms"), (999, "999 ms"), (1500, "1.5 s"), (600_000, "10 min"), (2e7, "5.56 h")],
)
def test_durations(milliseconds, text):
    assert duration(milliseconds) == text


@pytest.mark.parametrize(("value", "text"), [(1.234, "1.2x"), (106.5, "110x"), (351.4, "350x"), (1234.0, "1,200x")])
def test_ratios_carry_two_digits(value, text):
    assert times(value) == text
