"""Who takes part: from the names that a user types to runners, each with its cost."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Generic, Literal, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from cdal_bench.baselines import BASELINES, Baseline, build_baseline
from cdal_bench.configurations import Subject, segdiff_config
from cdal_bench.own_engines import make_own_engine, own_engine_names, runs_on
from cdal_bench.published_cdal import PublishedCdal, make_generic
from cdal_bench.runners import BaselineRunner, Margin, SegDiffRunner
from cdal_bench.segdiff import SegDiff
from cdal_sdk.bundle import load_checkpoint, load_model
from cdal_sdk.engines import BuiltEngine
from cdal_sdk.errors import ModelError, UsageError
from cdal_sdk.network import Generator
from cdal_trainer.trained import trained_network

__all__ = ["DDIM_STEPS", "OWN", "PLAIN", "PUBLISHED", "Contender", "Cost", "choose", "is_ours", "prepare_contender"]

DDIM_STEPS = 10
PLAIN, PUBLISHED = "cdal-plain", "cdal-published"
OWN = "cdal-"
_COMPILED = "-openvino"
_GROUPS = {"segdiff": ("segdiff-published", "segdiff-fast", f"segdiff{_COMPILED}", "segdiff-ddim")}
_BASELINES = tuple(name + suffix for name in BASELINES for suffix in ("", _COMPILED))
_TITLES = {
    "segdiff-published": "SegDiff as published",
    "segdiff-fast": "SegDiff made fast",
    "segdiff-openvino": "SegDiff made fast, OpenVINO",
    "segdiff-ddim": f"SegDiff made fast, DDIM in {DDIM_STEPS} steps",
    PUBLISHED: "cDAL as published",
    PLAIN: "cDAL, this SDK's reference",
    "unet": "U-Net",
    "unetplusplus": "U-Net++",
    "resunet": "Residual U-Net",
}
_VARIANTS: dict[str, Literal["published", "fast", "openvino"]] = {
    "segdiff-published": "published",
    "segdiff-fast": "fast",
    "segdiff-openvino": "openvino",
    "segdiff-ddim": "fast",
}


@dataclass(frozen=True)
class Cost:
    """What one image costs.

    Attributes:
        steps: of the reverse process; 0 without one.
        votes: that are averaged.
        evaluations: of the network, encoder apart (NFE).
        encoder_evaluations: of the image encoder.
        count: counts the floating-point operations, where tensors are made on PyTorch's device "meta".
    """

    steps: int
    votes: int
    evaluations: int
    encoder_evaluations: int
    count: Callable[[], float]

    @cached_property
    def flop(self) -> float:
        """Floating-point operations, a multiplication and an addition being two; counted once they are asked for."""
        with torch.device("meta"):
            return self.count()


@dataclass(frozen=True)
class Contender:
    """One of those that are compared.

    Attributes:
        name: as typed.
        title: as read.
        cost: of one image.
        trained: whether its weights are, so that its masks mean something.
        make: builds its engine, or a runner that can be taken apart.
        expected: whether it should run on the device once its packages are installed.
    """

    name: str
    title: str
    cost: Cost
    trained: bool
    make: Callable[[], BuiltEngine]
    expected: bool = True


def choose(against: Iterable[str], engines: Iterable[str]) -> tuple[str, ...]:
    """Names of contenders, in the order of the tables.

    Args:
        against: such as "segdiff" (all of its variants), "segdiff-fast", "unet", "unet-openvino", "cdal-published".
        engines: the SDK's, by name; "auto" is every engine that it has.

    Raises:
        UsageError: for a name that is nobody's.
    """
    known_engines = own_engine_names()
    others = [*_GROUPS["segdiff"], PUBLISHED, *_BASELINES]
    wanted: list[str] = []
    for name in against:
        if name not in others and name not in _GROUPS:
            raise UsageError(f"there is no contender '{name}'", remedy=f"choose from: segdiff, {', '.join(others)}")
        wanted += _GROUPS.get(name, (name,))
    for name in engines:
        if name != "auto" and name not in known_engines:
            raise UsageError(f"there is no engine '{name}'", remedy=f"choose from: auto, {', '.join(known_engines)}")
        wanted += [_own(known) for known in (known_engines if name == "auto" else [name])]
    order = [*_GROUPS["segdiff"], PUBLISHED, PLAIN, *(_own(name) for name in known_engines), *_BASELINES]
    return tuple(name for name in dict.fromkeys(order) if name in wanted)


def is_ours(name: str) -> bool:
    """Whether a contender is cDAL as this SDK runs it, the reference among them."""
    return name.startswith(OWN) and name != PUBLISHED


def _own(engine: str) -> str:
    """The contender behind an engine's name; the eager reference is called plain."""
    return PLAIN if engine == "torch" else OWN + engine


def prepare_contender(
    name: str,
    subject: Subject,
    shape: tuple[int, int],
    *,
    mode: str = "equal",
    device: str = "cpu",
    seed: int = 0,
    weights: Path | None = None,
) -> Contender:
    """A contender; nothing is built or counted yet.

    Args:
        name: from `choose`.
        subject: the model.
        shape: height and width of the image that costs are of.
        mode: "equal" or "published" votes.
        device: "cpu" or "cuda".
        seed: of all noise and all random weights.
        weights: checkpoint of a trained baseline; without, its weights are random and its masks mean nothing.

    Raises:
        ModelError: if the checkpoint is not one of this baseline.
    """
    if name.startswith("segdiff"):
        return _segdiff(name, subject, shape, mode, device, _source(weights, SegDiff, seed))
    if name in _BASELINES:
        return _baseline(name, subject, shape, device, _source(weights, Baseline, seed))
    return _cdal(name, subject, shape, mode, device, seed)


_Network = TypeVar("_Network", SegDiff, Baseline)


@dataclass(frozen=True)
class _Source(Generic[_Network]):
    """Where a baseline's weights come from, and the margin that goes with them."""

    trained: _Network | None
    seed: int
    margin: Margin

    def network(self, fresh: Callable[[], _Network]) -> _Network:
        """The trained network (a copy, as runners take theirs over), or one with random weights."""
        if self.trained is not None:
            return copy.deepcopy(self.trained)
        torch.manual_seed(self.seed)
        network = fresh()
        network.eval()
        return network


def _source(weights: Path | None, kind: type[_Network], seed: int) -> _Source[_Network]:
    if weights is None:
        return _Source(None, seed, Margin())
    method, network = trained_network(load_checkpoint(weights), weights)
    if not isinstance(network, kind):
        raise ModelError("these are the weights of another baseline", where=weights, remedy="give it its own")
    return _Source(network, seed, Margin.of(method.recipe))


def _segdiff(
    name: str, subject: Subject, shape: tuple[int, int], mode: str, device: str, source: _Source[SegDiff]
) -> Contender:
    config = segdiff_config(subject.manifest) if source.trained is None else source.trained.config
    variant = _VARIANTS[name]
    few = DDIM_STEPS if name == "segdiff-ddim" else None
    votes, steps = subject.votes(mode, segdiff=True), few or config.steps
    encodings = steps * votes if variant == "published" else 1

    def flop() -> float:
        model, size = SegDiff(config).eval(), source.margin.filled(*shape)
        image, label = torch.zeros(1, config.image_channels, *size), torch.zeros(1, config.label_channels, *size)
        features = torch.zeros(1, config.width, *size)
        encoding = _flop(lambda: model.encode(image))
        return encodings * encoding + steps * votes * _flop(lambda: model.denoise(label, torch.zeros(1), features))

    def make() -> SegDiffRunner:
        network = source.network(lambda: SegDiff(config))
        return SegDiffRunner(network, votes, source.seed, device, variant=variant, few_steps=few, margin=source.margin)

    cost = Cost(steps, votes, steps * votes, encodings, flop)
    expected = device == "cpu" or variant != "openvino"
    return Contender(name, _TITLES[name], cost, source.trained is not None, make, expected)


def _baseline(name: str, subject: Subject, shape: tuple[int, int], device: str, source: _Source[Baseline]) -> Contender:
    kind, compiled = name.removesuffix(_COMPILED), name.endswith(_COMPILED)
    channels, labels = subject.manifest.network.image_channels, subject.manifest.network.label_channels

    def fresh() -> Baseline:
        return build_baseline(kind, channels, labels)

    def flop() -> float:
        model = source.network(fresh).to("meta")
        return _flop(lambda: model(torch.zeros(1, channels, *source.margin.filled(*shape))))

    def make() -> BaselineRunner:
        return BaselineRunner(source.network(fresh), device, compiled=compiled, margin=source.margin)

    title = f"{_TITLES[kind]}, OpenVINO" if compiled else _TITLES[kind]
    expected = device == "cpu" or not compiled
    return Contender(name, title, Cost(0, 1, 1, 0, flop), source.trained is not None, make, expected)


def _cdal(name: str, subject: Subject, shape: tuple[int, int], mode: str, device: str, seed: int) -> Contender:
    manifest, network = subject.manifest, subject.manifest.network
    sampling = manifest.sampling(subject.votes(mode, segdiff=False), seed)
    steps, votes = sampling.schedule.steps, sampling.votes
    encodings = steps * votes if name == PUBLISHED else 1
    engine = "torch" if name in (PLAIN, PUBLISHED) else name.removeprefix(OWN)

    def flop() -> float:
        model = Generator(network).eval()
        if name == PUBLISHED:
            make_generic(model)
        image, label = torch.zeros(1, network.image_channels, *shape), torch.zeros(1, network.label_channels, *shape)
        features, z = torch.zeros(1, network.width, *shape), torch.zeros(1, network.latent_size)
        encoding = _flop(lambda: model.encode(image))
        step = _flop(lambda: model.denoise(label, features, model.steer(torch.zeros(1), z)))
        return encodings * encoding + steps * votes * step

    def make() -> BuiltEngine:
        model = load_model(subject.reference)
        if name == PUBLISHED:
            return PublishedCdal(model.generator, sampling, device)
        return make_own_engine(engine, model, sampling, device)

    cost = Cost(steps, votes, steps * votes, encodings, flop)
    title = _TITLES.get(name, f"cDAL, engine {engine}")
    return Contender(name, title, cost, subject.trained, make, runs_on(engine, device))


@torch.no_grad()
def _flop(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())
