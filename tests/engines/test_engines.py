"""Every engine that runs on a CPU gives the reference's results, whatever the batch, the size and the order."""

from __future__ import annotations

import copy
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from cdal_sdk.engines import ENGINES, Engine, Target, VoteMaps
from cdal_sdk.engines.eager import TorchEngine
from cdal_sdk.engines.torchscript import trace
from tests.engines.conftest import MODEL, builder
from tests.tiny_model import tiny_generator

ON_CPU = [kind.name for kind in ENGINES if "cpu" in kind.devices and kind.automatic]
ROOT = Path(__file__).resolve().parents[2]
CLOSE = {"atol": 2e-5, "rtol": 0}


@pytest.fixture(scope="module")
def reference() -> TorchEngine:
    return TorchEngine(tiny_generator(MODEL), MODEL.sampling(), "cpu")


def images(n: int, height: int = 16, width: int = 16) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, 2, height, width)).astype(np.float32)


@pytest.mark.parametrize("engine", ON_CPU)
def test_it_equals_the_reference(build: Callable[..., Engine], reference: TorchEngine, engine: str) -> None:
    made = build(engine)
    assert (made.name, made.device, made.precision) == (engine, "cpu", "fp32")
    for batch in (images(5), images(1), images(2, 6, 10)):
        expected, found = reference.run(batch), made.run(batch)
        np.testing.assert_allclose(found.mean, expected.mean, **CLOSE)
        np.testing.assert_allclose(found.spread, expected.spread, **CLOSE)
    assert expected.spread.mean() > 1e-3


@pytest.mark.parametrize("engine", ON_CPU)
def test_a_fixed_size_is_the_canvas(build: Callable[..., Engine], reference: TorchEngine, engine: str) -> None:
    made = build(engine, fixed_size=True)
    np.testing.assert_allclose(made.run(images(3)).mean, reference.run(images(3)).mean, **CLOSE)


@pytest.mark.parametrize("engine", ON_CPU)
def test_an_image_s_result_does_not_depend_on_its_batch(build: Callable[..., Engine], engine: str) -> None:
    made, batch = build(engine), images(5)
    together, backwards = made.run(batch).mean, made.run(batch[::-1].copy()).mean
    np.testing.assert_allclose(together, backwards[::-1], atol=2e-6)
    np.testing.assert_allclose(together[4:], made.run(batch[4:]).mean, atol=2e-6)


@pytest.mark.parametrize("engine", ON_CPU)
def test_free_noise_is_an_input(build: Callable[..., Engine], reference: TorchEngine, engine: str) -> None:
    """Given the same noise it equals the constant one, given other noise it equals a reference with that."""
    made, batch = build(engine, free_noise=True), images(2, 6, 10)
    other = MODEL.sampling(seed=7)
    for noise, expected in (
        (None, reference.run(batch)),
        (other.noise(), TorchEngine(tiny_generator(MODEL), other, "cpu").run(batch)),
    ):
        found = made.run(batch, noise)  # type: ignore[call-arg]
        np.testing.assert_allclose(found.mean, expected.mean, **CLOSE)
        np.testing.assert_allclose(found.spread, expected.spread, **CLOSE)
    assert np.abs(expected.mean - reference.run(batch).mean).max() > 1e-3


@pytest.mark.parametrize("engine", ON_CPU)
def test_probes_tell_every_step(build: Callable[..., Engine], engine: str) -> None:
    probing = TorchEngine(tiny_generator(MODEL), MODEL.sampling(), "cpu", probes=True)
    expected, found = probing.probe(images(3)), build(engine, probes=True).probe(images(3))  # type: ignore[attr-defined]
    assert list(expected) == ["mean", "spread", "step1", "step0"]
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, **CLOSE)
    assert np.abs(expected["step1"] - expected["step0"]).max() > 1e-3


@pytest.mark.parametrize("engine", [*ON_CPU, "torch"])
def test_threads_do_not_get_each_other_s_results(
    build: Callable[..., Engine], reference: TorchEngine, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images of one shape at the same time; and more shapes than stay compiled, in both threads."""
    monkeypatch.setattr("cdal_sdk.engines.openvino_cpu._SHAPES_KEPT", 1)
    made = reference if engine == "torch" else build(engine)
    twins = [values[None] for values in images(2)]
    expected = [made.run(image) for image in twins]

    def answers(image: np.ndarray) -> list[VoteMaps]:
        return [made.run(image) for _ in range(60)]

    with ThreadPoolExecutor(2) as threads:
        for answer, found in zip(expected, threads.map(answers, twins), strict=True):
            for maps in found:
                assert np.array_equal(maps.mean, answer.mean)
                assert np.array_equal(maps.spread, answer.spread)
        sizes = [(4, 4), (4, 6), (6, 4)]
        assert len(list(threads.map(lambda sides: made.run(images(1, *sides)), [*sizes, *sizes[::-1]]))) == 6


def test_an_engine_can_be_copied_with_a_lock_of_its_own(build: Callable[..., Engine]) -> None:
    made = build("openvino")
    copied = copy.deepcopy(made)
    np.testing.assert_array_equal(copied.run(images(1)).mean, made.run(images(1)).mean)
    assert copied._turns is not made._turns  # type: ignore[attr-defined]


def test_bfloat16_is_close_where_the_cpu_has_it(build: Callable[..., Engine], reference: TorchEngine) -> None:
    if "bf16" not in builder("openvino").precisions("cpu"):
        pytest.skip("this CPU has no bfloat16 instructions")
    found, expected = build("openvino", precision="bf16").run(images(2)), reference.run(images(2))
    difference = np.abs(found.mean - expected.mean)
    assert 1e-5 < difference.max() < 0.1
    assert difference.mean() < 0.01


def test_pytorch_s_number_of_threads_holds_for_every_library(
    build: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else OMP_NUM_THREADS slows PyTorch alone, which flatters engines, and jobs side by side overload a machine."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    graph = build("onnx")
    assert graph._session.get_session_options().intra_op_num_threads == 1  # type: ignore[attr-defined]
    openvino = build("openvino")
    openvino.run(images(1))
    (request,) = openvino._requests.values()  # type: ignore[attr-defined]
    assert request.get_compiled_model().get_property("INFERENCE_NUM_THREADS") == 1


ENGINES_COME_AND_GO = """
import os, signal, sys
import numpy as np
from cdal_sdk.engines.openvino_cpu import OpenVinoEngine
from pathlib import Path
def used():
    engine = OpenVinoEngine(Path(sys.argv[1]), "fp32")
    engine.run(np.zeros((1, 2, 16, 16), np.float32))
    return engine
first, second = used(), used()
del first
del second
signal.signal(signal.SIGUSR1, lambda *_: print("alive"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
def test_signals_are_survived_when_openvino_engines_came_and_went(build, tmp_path) -> None:
    """In a process of its own, as the opposite is a crash: see `openvino_core`."""
    build("openvino")
    (path,) = tmp_path.glob("engine*")
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", ENGINES_COME_AND_GO, path], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


@pytest.mark.parametrize("free_noise", [False, True])
@pytest.mark.parametrize("engine", ON_CPU)
def test_an_image_beyond_the_canvas_is_refused(build: Callable[..., Engine], engine: str, free_noise: bool) -> None:
    """With four votes, their noise has as many values as one vote needs at twice the canvas."""
    made = build(engine, sampling=MODEL.sampling(votes=4), free_noise=free_noise)
    for size in ((32, 32), (16, 32), (64, 16)):
        for count in (1, 4):
            with pytest.raises(Exception):  # noqa: B017 - each library has an error of its own
                made.run(images(count, *size))
    assert made.run(images(1)).mean.shape == (1, 3, 16, 16)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from cdal_sdk.engines import build_engine
from cdal_sdk.errors import OutputError
from tests.engines.conftest import MODEL, builder, target
from tests.tiny_model import tiny_generator
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    build_engine(builder("torchscript"), tiny_generator(MODEL), target(), Path(sys.argv[1]))
except OutputError as error:
    print(error.what)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
def test_a_full_disk_is_an_error_and_no_crash(tmp_path) -> None:
    order = [sys.executable, "-c", FULL_DISK, tmp_path / "engine"]
    done = subprocess.run(order, capture_output=True, text=True, check=False)  # noqa: S603
    assert (done.returncode, done.stdout) == (0, "the engine cannot be written\n"), done.stderr


def settings() -> tuple[object, ...]:
    def known(read: Callable[[], object]) -> object:
        try:
            return read()
        except RuntimeError:  # the newer and the older setting contradict each other
            return None

    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    older = known(torch.get_float32_matmul_precision), known(lambda: cudnn.allow_tf32)
    cpu = torch.backends.mkldnn.matmul.fp32_precision
    return *older, matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.deterministic, cudnn.benchmark, cpu


@pytest.mark.parametrize(
    "setting",
    [
        "pass",
        "torch.set_float32_matmul_precision('high')",
        "torch.backends.cudnn.allow_tf32 = False",
        "torch.backends.cudnn.deterministic = True",
        "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
        "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
        "torch.backends.fp32_precision = 'tf32'",
        "torch.backends.mkldnn.matmul.fp32_precision = 'bf16'",
    ],
)
def test_float32_is_float32_on_a_gpu_whatever_a_program_has_set(setting: str) -> None:
    """And its settings are the same afterwards. In a process of its own: they are the process's."""
    code = f"""
        import torch
        from cdal_sdk.engines.base import exact_float32
        from tests.engines.test_engines import settings
        {setting}
        before = settings()
        with exact_float32("cuda"):
            inside = settings()
        assert settings() == before, (before, settings())
        assert inside[0] == "highest" and inside[2:4] == ("ieee", "ieee") and inside[4:6] == before[4:6], inside
    """
    subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], check=True, cwd=ROOT)  # noqa: S603


def test_a_trace_allows_no_tf32() -> None:
    """It keeps the setting of the time when it was made."""
    target = Target(MODEL.sampling(), "cpu", "fp32", "weights")
    nodes = list(trace(tiny_generator(MODEL), target).inlined_graph.nodes())
    allowed = [list(node.inputs())[-1].toIValue() for node in nodes if node.kind() == "aten::_convolution"]
    assert len(allowed) > 20
    assert not any(allowed)
