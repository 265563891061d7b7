"""The ways that are compared compute the same, and what is measured is stored."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cdal_bench import engine_speed, engine_ways
from cdal_bench.engine_report import SpeedRow, VolumeTime, read_speed
from cdal_bench.published_cdal import make_generic
from cdal_bench.results import Machine
from cdal_sdk.engines.eager import TorchEngine
from tests.engines.conftest import MODEL
from tests.tiny_model import tiny_generator

MACHINE = Machine("Some CPU", 2, 2, 16.0, None, "Linux", {"torch": "2"}, {"float32": 100.0, "bfloat16": 300.0})


@pytest.mark.parametrize("generic", [True, False], ids=["published", "plain"])
def test_the_published_way_computes_the_same(generic: bool) -> None:
    """General FIR resampling inserts zeros, pads, filters and drops; the encoder runs at every step."""
    image = np.random.default_rng(0).standard_normal((1, 2, 16, 16)).astype(np.float32)
    expected = TorchEngine(tiny_generator(MODEL), MODEL.sampling(), "cpu").run(image)
    generator, encoded = tiny_generator(MODEL), []
    if generic:
        make_generic(generator)
    generator.encoder.register_forward_hook(lambda _, inputs, __: encoded.append(len(inputs[0])))
    found = engine_ways.batched_way(generator, MODEL.sampling())(image)
    np.testing.assert_allclose(found.mean, expected.mean, atol=1e-5)
    np.testing.assert_allclose(found.spread, expected.spread, atol=1e-5)
    assert encoded == [3, 3], "at both steps, for each of the three votes"


def test_no_fir_is_left_that_filters_depthwise(monkeypatch: pytest.MonkeyPatch) -> None:
    groups: set[int] = set()
    convolve = torch.nn.functional.conv2d

    def watch(*arguments: object, **further: object) -> torch.Tensor:
        groups.add(int(further.get("groups", 1)))  # type: ignore[call-overload]
        return convolve(*arguments, **further)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.nn.functional, "conv2d", watch)
    for generic, found in ((True, {1}), (False, {1, 3, 8, 16})):
        groups.clear()
        generator = tiny_generator(MODEL)
        if generic:
            make_generic(generator)
        engine_ways.batched_way(generator, MODEL.sampling())(np.zeros((1, 2, 16, 16), np.float32))
        assert groups <= found
        assert (len(groups) > 1) is not generic


def test_everything_is_measured_and_stored(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setattr(engine_speed, "alone", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(engine_speed, "describe_machine", lambda device: MACHINE)
    monkeypatch.setattr(engine_speed, "matrix_rates", lambda device: {"float32": 90.0, "bfloat16": 310.0})
    monkeypatch.setattr(engine_speed, "arithmetic", lambda: 1e11)
    monkeypatch.setattr(engine_speed, "fused_mean", lambda: None)
    monkeypatch.setattr(
        engine_speed, "measure_way", lambda way, repeats, expected: SpeedRow(way, 2.0, (2.0,) * repeats, 0.0, 1.0, 0.0)
    )
    monkeypatch.setattr(engine_speed, "volume_time", lambda engine, repeats: VolumeTime(engine, (3.0,) * repeats))
    order = ["--ways", "plain", "--repeats", "3", "--out", str(tmp_path / "speed.json")]
    engine_speed.main(order)
    speed = read_speed(tmp_path / "speed.json")
    assert speed.rows[0].samples == (2.0, 2.0, 2.0)
    assert speed.machine.gflops == {"float32": 100.0, "bfloat16": 310.0}
    (volume,) = speed.volumes
    assert (volume.engine, volume.samples) == ("auto", (3.0, 3.0, 3.0))
    assert volume.run == speed.rows[0].run
    assert volume.run.startswith("20")
    assert speed.share_of_roof == pytest.approx(50 / 310)
    assert "one image" in capsys.readouterr().out
    monkeypatch.setattr(engine_speed, "_this_run", lambda: "another day")
    engine_speed.main([*order, "--volumes"])
    joined = read_speed(tmp_path / "speed.json")
    assert joined.rows[0].run == "another day"
    assert joined.volumes == speed.volumes, "what a run leaves out stays, with the day of its own run"
