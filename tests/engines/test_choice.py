"""Which engine is taken: stored, kept or built; every reason not to take one ends in the next one."""

from __future__ import annotations

import errno
import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cdal_sdk.digest import sha256
from cdal_sdk.engines import (
    Engine,
    EngineCache,
    EngineKind,
    EngineRequest,
    Precision,
    Target,
    VoteMaps,
    check_engine_name,
    choice,
    engine_names,
    fingerprint,
    fitting_precisions,
    make_engine,
    registry,
    stored_engine_names,
)
from cdal_sdk.engines.fingerprint import differences
from cdal_sdk.errors import EngineError, GateError, MissingExtraError, OutputError, UsageError
from cdal_sdk.network import Generator
from tests.tiny_model import VOLUME, tiny_generator


class Fake:
    """A builder whose engines are files with its version; it counts what it builds."""

    suffix = ".fake"
    needs_device = False
    takes_islands = takes_free_noise = takes_probes = False

    def __init__(self, name: str, *precisions: Precision) -> None:
        self.name, self.offers, self.version, self.built = name, precisions, "1", 0

    def precisions(self, device: str) -> tuple[Precision, ...]:
        return self.offers

    def environment(self, device: str) -> Mapping[str, str]:
        return {"library": self.version}

    def build(self, generator: Generator, target: Target, path: Path) -> None:
        self.built += 1
        path.write_text(f"{self.name} {target.precision}")

    def load(self, path: Path, target: Target) -> Engine:
        if path.read_text() != f"{self.name} {target.precision}":
            raise EngineError("this is no engine", where=path)
        return FakeEngine(self.name, target)


class FakeEngine:
    def __init__(self, name: str, target: Target) -> None:
        self.name, self.device, self.precision = name, target.device, target.precision

    def run(self, images: np.ndarray) -> VoteMaps:
        raise NotImplementedError


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Fake]:
    """Two engines, the faster one with two precisions."""
    fakes = {"fast": Fake("fast", "bf16", "fp32"), "slow": Fake("slow", "fp32")}
    kinds = tuple(EngineKind(name, name, ("cpu",)) for name in fakes)
    monkeypatch.setattr(registry, "ENGINES", kinds)
    monkeypatch.setattr(choice, "builder_of", lambda kind: fakes[kind.name])
    return fakes


@pytest.fixture
def request_(tmp_path: Path) -> EngineRequest:
    cache = EngineCache(tmp_path / "cache")
    return EngineRequest(tiny_generator(VOLUME), VOLUME.sampling(), "cpu", "weights", cache=cache)


def refuse(*refused: tuple[str, str]) -> Callable[[Engine], str]:
    def gate(engine: Engine) -> str:
        if (engine.name, engine.precision) in refused:
            raise GateError("it disagrees", where=engine.name)
        return "it agrees"

    return gate


def test_names() -> None:
    assert {"auto", "torch", "torchscript", "onnx", "openvino", "tensorrt", "tensorrt-rtx"} <= set(engine_names())
    with pytest.raises(UsageError, match="no engine 'cuda'; choose one of: auto, tensorrt"):
        check_engine_name("cuda")


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"needs the package 'openvino'.*cdal-sdk\[openvino\]"):
        registry.builder_of(registry.engine_kind("openvino"))
    assert registry.builder_of(registry.engine_kind("torchscript")), "every installation has this one"


@pytest.mark.parametrize("error", [ImportError("libtbb.so.12"), OSError("wrong ELF class"), AttributeError("__api__")])
def test_a_library_that_is_broken_is_passed_over(monkeypatch, request_, caplog, error) -> None:
    real = registry.importlib.import_module

    def load(name: str) -> object:
        if name == "cdal_sdk.engines.openvino_cpu":
            raise error
        return real(name)

    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(registry.importlib, "import_module", load)
    kinds = tuple(map(registry.engine_kind, ("openvino", "torchscript")))
    monkeypatch.setattr(registry, "ENGINES", kinds)
    with caplog.at_level(logging.WARNING, "cdal_sdk"):
        assert make_engine("auto", request_).name == "torchscript"
    assert f"the library of 'openvino' does not load here ({error})" in caplog.text
    with pytest.raises(EngineError, match=r"install cdal-sdk\[openvino\] again, or use another engine"):
        make_engine("openvino", request_)


@pytest.mark.parametrize(
    ("available", "wanted", "found"),
    [
        (("bf16", "fp32"), None, ("bf16", "fp32")),
        (("bf16", "fp32"), "fp16", ("bf16",)),
        (("fp16", "bf16"), "bf16", ("bf16",)),
        (("fp32",), "fp16", ("fp32",)),
        (("bf16", "fp32"), "fp32", ("fp32",)),
        (("int8",), None, ("int8",)),
        (("int8",), "int8", ("int8",)),
        (("fp16", "bf16"), "fp32", None),
        (("int8",), "fp32", None),
        (("int8",), "bf16", None),
    ],
)
def test_nobody_gets_less_precision_than_asked_for(available, wanted, found) -> None:
    kind = EngineKind("some", "some", ("cpu",))
    if found is not None:
        assert fitting_precisions(kind, available, wanted) == found
        return
    with pytest.raises(EngineError, match=f"'some' does not compute in {wanted}; it has {available[0]}"):
        fitting_precisions(kind, available, wanted)


def test_what_no_weight_tells_of_the_network_is_part_of_an_engine_s_identity(request_) -> None:
    network, target = VOLUME.network, request_.target("fp32")
    plain = fingerprint("slow", target, network, {})
    assert json.loads(json.dumps(plain)) == plain, "a stored one compares"
    assert fingerprint("slow", target, replace(network, dropout=0.5), {}) == plain
    for change in ({"tanh": False}, {"latent": False}, {"attention_resolutions": ()}):
        assert differences(fingerprint("slow", target, replace(network, **change), {}), plain) == ["network"]


def test_a_verdict_holds_for_what_was_judged(fakes, request_) -> None:
    seen: list[str] = []
    request = replace(request_, gate=lambda engine: seen.append(engine.name) or "it agrees")
    for judged, gated in (("a", 1), ("a", 1), ("b", 2)):
        make_engine("slow", replace(request, judged=judged))
        assert (len(seen), fakes["slow"].built) == (gated, gated)
    with pytest.raises(GateError):
        make_engine("slow", replace(request, judged="c", gate=refuse(("slow", "fp32"))))
    make_engine("slow", replace(request, judged="d"))


def test_auto_takes_the_fastest_that_passes(fakes, request_) -> None:
    engine = make_engine("auto", replace(request_, gate=refuse()))
    assert (engine.name, engine.precision) == ("fast", "bf16")


def test_a_refused_precision_gives_way_to_the_next(fakes, request_, caplog) -> None:
    gated = replace(request_, gate=refuse(("fast", "bf16")))
    assert make_engine("auto", gated).precision == "fp32"
    assert fakes["fast"].built == 2
    assert make_engine("auto", gated).precision == "fp32"
    assert fakes["fast"].built == 2, "the refusal is remembered, and what passed is kept"


def test_a_refused_engine_gives_way_to_the_next_with_a_reason(fakes, request_, caplog) -> None:
    with caplog.at_level(logging.INFO, "cdal_sdk"):
        engine = make_engine("auto", replace(request_, gate=refuse(("fast", "bf16"), ("fast", "fp32"))))
    assert engine.name == "slow"
    assert "engine fast is passed over: fast: it disagrees" in caplog.text
    assert "engine slow on cpu in fp32 (faster ones cannot be used here: fast)" in caplog.text


def test_where_nothing_can_be_used_the_reference_runs(fakes, request_) -> None:
    everything = (("fast", "bf16"), ("fast", "fp32"), ("slow", "fp32"))
    assert make_engine("auto", replace(request_, gate=refuse(*everything))).name == "torch"


def test_an_engine_asked_for_by_name_is_not_replaced(fakes, request_) -> None:
    with pytest.raises(GateError, match="disagrees"):
        make_engine("slow", replace(request_, gate=refuse(("slow", "fp32"))))
    with pytest.raises(GateError, match="disagreed with the float32 reference earlier"):
        make_engine("slow", replace(request_, gate=refuse(("slow", "fp32"))))


def test_a_build_that_fails_in_any_way_is_passed_over(fakes, request_, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(fakes["fast"], "build", fail)
    assert make_engine("auto", request_).name == "slow"
    with pytest.raises(EngineError, match=r"cannot be built here \(MemoryError"):
        make_engine("fast", request_)


def test_an_engine_that_no_gate_has_seen_is_gated_where_there_is_one(fakes, request_) -> None:
    make_engine("slow", replace(request_, gate=None))
    with pytest.raises(GateError):
        make_engine("slow", replace(request_, gate=refuse(("slow", "fp32"))))


def test_a_verdict_that_is_damaged_is_none(fakes, request_) -> None:
    with pytest.raises(GateError):
        make_engine("slow", replace(request_, gate=refuse(("slow", "fp32"))))
    (verdict,) = request_.cache.folder.glob("*.verdict.json")
    verdict.write_text("{}")
    assert make_engine("slow", request_).name == "slow"


def test_a_half_that_an_engine_lacks_becomes_its_own_half_or_float32(fakes, request_) -> None:
    assert make_engine("fast", replace(request_, precision="fp16")).precision == "bf16"
    assert make_engine("fast", replace(request_, precision="fp32")).precision == "fp32"
    assert make_engine("slow", replace(request_, precision="fp16")).precision == "fp32"


def test_a_device_that_an_engine_lacks_is_an_error(fakes, request_) -> None:
    with pytest.raises(EngineError, match="does not run on cuda"):
        make_engine("slow", replace(request_, device="cuda"))
    fakes["slow"].offers = ()
    with pytest.raises(EngineError, match="finds no cpu that it can use"):
        make_engine("slow", request_)


# --- engines kept from earlier runs -------------------------------------------------------------------------------


def test_a_built_engine_is_kept_until_anything_changes(fakes, request_) -> None:
    for _ in range(2):
        make_engine("slow", request_)
    assert fakes["slow"].built == 1
    for changed in (
        replace(request_, weights_sha256="others"),
        replace(request_, sampling=VOLUME.sampling(votes=1)),
        replace(request_, sampling=VOLUME.sampling(seed=9)),
        replace(request_, fixed_size=True),
    ):
        built = fakes["slow"].built
        make_engine("slow", changed)
        assert fakes["slow"].built == built + 1
    fakes["slow"].version = "2"
    make_engine("slow", request_)
    assert fakes["slow"].built == 6


def test_a_damaged_kept_engine_is_built_again(fakes, request_, caplog) -> None:
    make_engine("slow", request_)
    (kept,) = request_.cache.folder.glob("*/engine.fake")
    kept.write_text("slow fp33")
    make_engine("slow", request_)
    assert fakes["slow"].built == 2
    assert "is damaged and will be built again" in caplog.text
    assert kept.read_text() == "slow fp32"


def test_a_whole_kept_engine_that_no_longer_opens_is_built_again(fakes, request_, caplog) -> None:
    """As where a driver changed under it."""
    make_engine("slow", request_)
    (kept,) = request_.cache.folder.glob("*/engine.fake")
    kept.write_text("of another driver")
    description = kept.with_name("engine.json")
    description.write_text(json.dumps({**json.loads(description.read_text()), "sha256": sha256(kept)}))
    make_engine("slow", request_)
    assert "does not open and is built again" in caplog.text
    assert (fakes["slow"].built, kept.read_text()) == (2, "slow fp32")


@pytest.mark.parametrize("content", ["", "[]", '{"fingerprint": {}}', None], ids=["empty", "list", "foreign", "gone"])
def test_a_kept_engine_without_its_description_is_built_again(fakes, request_, content) -> None:
    make_engine("slow", request_)
    (description,) = request_.cache.folder.glob("*/engine.json")
    description.unlink() if content is None else description.write_text(content)
    make_engine("slow", request_)
    make_engine("slow", request_)
    assert fakes["slow"].built == 2, "once for the damage, and then it is whole"


def test_a_full_disk_ends_in_the_next_engine(fakes, request_, monkeypatch, caplog) -> None:
    def full(generator, target, path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fakes["fast"], "build", full)
    assert make_engine("auto", request_).name == "slow"
    assert "engine fast is passed over" in caplog.text
    with pytest.raises(OutputError, match="cannot be written; check the free space"):
        make_engine("fast", request_)


def test_a_refused_engine_is_not_kept(fakes, request_) -> None:
    with pytest.raises(GateError):
        make_engine("slow", replace(request_, gate=refuse(("slow", "fp32"))))
    assert not list(request_.cache.folder.glob("*/engine.fake"))
    assert not list(request_.cache.folder.glob(".building*"))


def test_builds_that_race_do_not_harm_each_other(fakes, request_) -> None:
    """All build before the first one is done; each gets an engine, and one whole entry remains."""
    barrier, engines = threading.Barrier(4), []
    build = fakes["slow"].build

    def slow_build(generator, target, path) -> None:
        barrier.wait(timeout=30)
        build(generator, target, path)

    fakes["slow"].build = slow_build
    threads = [threading.Thread(target=lambda: engines.append(make_engine("slow", request_))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [engine.name for engine in engines] == ["slow"] * 4
    assert len(list(request_.cache.folder.glob("*/engine.fake"))) == 1
    assert not list(request_.cache.folder.glob(".building*"))


def test_a_cache_that_cannot_be_written_costs_only_time(fakes, request_, tmp_path, caplog) -> None:
    (tmp_path / "file").touch()
    engine = make_engine("slow", replace(request_, cache=EngineCache(tmp_path / "file" / "cache")))
    assert engine.name == "slow"
    assert "built engines cannot be kept" in caplog.text


# --- engines that came with the model -----------------------------------------------------------------------------


@pytest.fixture
def stored(fakes, request_, tmp_path) -> Callable[..., EngineRequest]:
    """A function that stores the slow engine with a model; returns the request with it."""

    def store(content: str = "slow fp32", gate: str | None = "it agrees", **changes: object) -> EngineRequest:
        target = request_.target("fp32")
        names = stored_engine_names(registry.engine_kind("slow"), ".fake", target)
        engine, description = (tmp_path / name for name in names)
        engine.parent.mkdir(exist_ok=True)
        engine.write_text(content)
        found = fingerprint("slow", target, VOLUME.network, {"library": "1"}) | changes
        description.write_text(json.dumps({"fingerprint": found, "sha256": sha256(engine), "gate": gate}))
        return replace(request_, stored=dict(zip(names, (engine, description), strict=True)))

    return store


def test_a_stored_engine_that_fits_is_taken_without_another_gate(fakes, stored) -> None:
    assert make_engine("slow", replace(stored(), gate=refuse(("slow", "fp32")))).name == "slow"
    assert fakes["slow"].built == 0


def test_a_stored_precision_goes_before_a_faster_one(fakes, request_, tmp_path) -> None:
    target = request_.target("fp32")
    names = stored_engine_names(registry.engine_kind("fast"), ".fake", target)
    files = {name: tmp_path / Path(name).name for name in names}
    files[names[0]].write_text("fast fp32")
    files[names[1]].write_text(
        json.dumps({"fingerprint": fingerprint("fast", target, VOLUME.network, {"library": "1"}), "gate": "ok"})
    )
    assert make_engine("auto", replace(request_, stored=files)).precision == "fp32"
    assert fakes["fast"].built == 0


def test_a_stored_engine_with_free_noise_serves_every_seed(fakes, request_, tmp_path) -> None:
    fakes["slow"].takes_free_noise = True
    target = replace(request_.target("fp32"), free_noise=True)
    names = stored_engine_names(registry.engine_kind("slow"), ".fake", target)
    assert names[0] == "engines/slow-cpu-fp32-free-noise.fake"
    files = {name: tmp_path / Path(name).name for name in names}
    files[names[0]].write_text("slow fp32")
    files[names[1]].write_text(
        json.dumps({"fingerprint": fingerprint("slow", target, VOLUME.network, {"library": "1"}), "gate": "ok"})
    )
    for seed in (0, 5):
        make_engine("slow", replace(request_, stored=files, sampling=VOLUME.sampling(seed=seed)))
    assert fakes["slow"].built == 0
    make_engine("slow", replace(request_, stored=files, sampling=VOLUME.sampling(votes=1)))
    assert fakes["slow"].built == 1, "the votes are not free"


@pytest.mark.parametrize("changes", [{"library": "0"}, {"seed": 5}, {"weights": "old"}, {"graph_version": 0}])
def test_a_stale_or_foreign_one_is_built_again_and_gated(fakes, stored, changes, caplog) -> None:
    with caplog.at_level(logging.INFO, "cdal_sdk"), pytest.raises(GateError):
        make_engine("slow", replace(stored(**changes), gate=refuse(("slow", "fp32"))))
    assert fakes["slow"].built == 1
    assert f"the stored engine slow was built for another {next(iter(changes))}" in caplog.text


@pytest.mark.parametrize("name", ["betas", "network", "label_shape", "posterior_noise"])
def test_the_same_weights_with_another_method_are_told_loudly(fakes, stored, name, caplog) -> None:
    """The manifest may have been changed by hand; with other weights it is another model's engine."""
    with caplog.at_level(logging.WARNING, "cdal_sdk"):
        make_engine("slow", stored(**{name: "other", "weights": "old"}))
        assert not caplog.records
        make_engine("slow", stored(**{name: "other"}))
    assert f"the stored engine slow was built for another {name}: was the model's manifest changed?" in caplog.text


def test_one_that_another_export_has_replaced_is_not_opened(fakes, stored, caplog) -> None:
    """Its description is of the export that the model was loaded from."""
    request = stored()
    engine = next(path for name, path in request.stored.items() if name.endswith(".fake"))
    engine.write_text(engine.read_text() + " ")
    assert make_engine("slow", request).name == "slow"
    assert fakes["slow"].built == 1
    assert "is not the one that its description tells of" in caplog.text


def test_one_that_does_not_open_is_built_again(fakes, stored, caplog) -> None:
    assert make_engine("slow", stored("nonsense")).name == "slow"
    assert "the stored engine slow is not used" in caplog.text


def test_one_that_was_not_gated_yet_is_gated_once_at_its_first_use(fakes, stored) -> None:
    gates: list[Engine] = []
    request = replace(stored(gate=None), gate=lambda engine: gates.append(engine) or "it agrees")
    for _ in range(2):
        assert make_engine("slow", request).name == "slow"
    assert (fakes["slow"].built, len(gates)) == (0, 1)


def test_one_that_was_gated_on_another_gpu_is_gated_here(fakes, stored, monkeypatch) -> None:
    gates: list[Engine] = []
    request = replace(stored(), gate=lambda engine: gates.append(engine) or "it agrees")
    for here, gated in (("", 0), ("GPU A", 1), ("GPU A", 1), ("GPU B", 2)):
        monkeypatch.setattr(choice, "describe_gpu", lambda device, here=here: here)
        make_engine("slow", request)
        assert len(gates) == gated


def test_what_an_older_description_does_not_tell_of_the_network_is_no_difference(fakes, stored) -> None:
    request = stored()
    description = next(path for name, path in request.stored.items() if name.endswith(".json"))
    data = json.loads(description.read_text())
    del data["fingerprint"]["network"]
    description.write_text(json.dumps(data))
    make_engine("slow", request)
    assert fakes["slow"].built == 0


def test_a_kept_one_is_gated_anew_on_another_gpu(fakes, request_, monkeypatch) -> None:
    gates: list[Engine] = []
    request = replace(request_, gate=lambda engine: gates.append(engine) or "it agrees")
    for here, gated in (("GPU A", 1), ("GPU A", 1), ("GPU B", 2)):
        monkeypatch.setattr(choice, "describe_gpu", lambda device, here=here: here)
        make_engine("slow", request)
        assert len(gates) == gated


def test_an_engine_that_fails_in_half_precision_is_tried_in_float32(fakes, request_) -> None:
    def gate(engine: Engine) -> str:
        if engine.precision == "bf16":
            raise EngineError("it does not run here")
        return "it agrees"

    engine = make_engine("auto", replace(request_, gate=gate))
    assert (engine.name, engine.precision) == ("fast", "fp32")


def test_one_that_only_an_export_makes_says_why_it_is_not_there(fakes, request_, monkeypatch) -> None:
    monkeypatch.setattr(registry, "ENGINES", (EngineKind("slow", "slow", ("cpu",), automatic=False),))
    with pytest.raises(
        EngineError, match=r"no engine 'slow' for these votes, this seed, these versions and this machine.*--int8"
    ):
        make_engine("slow", request_)
    assert fakes["slow"].built == 0


def test_one_that_fails_its_first_gate_is_refused_for_good(fakes, stored) -> None:
    request = replace(stored(gate=None), gate=refuse(("slow", "fp32")))
    for text in ("disagrees", "disagreed with the float32 reference earlier"):
        with pytest.raises(GateError, match=text):
            make_engine("slow", request)
