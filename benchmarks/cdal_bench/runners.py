"""What can be timed: every contender behind the engines' protocol, and in parts where the whole takes too long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cdal_bench.baselines import Baseline
from cdal_bench.compiled import CompiledMethod, CompiledSegDiff, compiled_precision
from cdal_bench.segdiff import SegDiff, ddim_steps
from cdal_bench.segdiff.sampler import Denoiser, ancestral_step, ddim, predictor, sample, vote_noise
from cdal_sdk.diffusion import vote_statistics
from cdal_sdk.engines import Precision, VoteMaps

if TYPE_CHECKING:
    from cdal_trainer.recipe import Recipe

__all__ = ["BaselineRunner", "Divisible", "Margin", "Part", "SegDiffRunner", "maps_of"]


@dataclass(frozen=True)
class Part:
    """A piece of an inference.

    Attributes:
        name: what it is.
        run: does it once.
        times: how often the whole inference does it.
    """

    name: str
    run: Callable[[], object]
    times: int


@runtime_checkable
class Divisible(Protocol):
    """What can also be taken apart. The times of its parts, each as often as it says, are the whole."""

    def parts(self, images: NDArray[np.float32]) -> tuple[Part, ...]:
        """The inference of some images in parts."""
        ...


@dataclass(frozen=True)
class Margin:
    """What fills up smaller images at their far edges, as in training.

    A network that has seen such a margin in every smaller image can fail without it.

    Attributes:
        size: (h, w) that images have at least.
        value: of the margin.
    """

    size: tuple[int, int] = (0, 0)
    value: float = 0.0

    @classmethod
    def of(cls, recipe: Recipe) -> Margin:
        """Up to the crop that a recipe trains on."""
        return cls(recipe.data.crop, recipe.plan.intensity.target[0])

    def filled(self, height: int, width: int) -> tuple[int, int]:
        """The size (h, w) of an image with its margin."""
        return max(self.size[0], height), max(self.size[1], width)

    def fill(self, images: NDArray[np.float32]) -> Tensor:
        """Images [n, channel, h, w] with their margin."""
        height, width = images.shape[2:]
        far_height, far_width = self.filled(height, width)
        return F.pad(torch.from_numpy(images), (0, far_width - width, 0, far_height - height), value=self.value)


def maps_of(votes: Tensor, size: tuple[int, ...]) -> VoteMaps:
    """Mean and spread of votes [vote, n, label, H, W], without the margin around a size (h, w)."""
    mean, spread = vote_statistics(votes[..., : size[0], : size[1]].float())
    return VoteMaps(mean.cpu().numpy(), spread.cpu().numpy())


class SegDiffRunner:
    """SegDiff, as published or faster.

    Args:
        model: in eval mode; taken over.
        votes: instances.
        seed: of all noise.
        device: "cpu" or "cuda".
        variant: "published" is float32 as PyTorch runs it, votes one after the other, the encoder at every step;
            "hoisted" has the encoder once an image; "fast" computes in bfloat16, channels last, and on CUDA compiled
            with the votes as one batch, besides; "openvino" is the hoisted one compiled by OpenVINO, for CPUs.
        few_steps: number of DDIM steps instead of all the ancestral ones.
        margin: of its training.
    """

    name = "segdiff"

    def __init__(
        self,
        model: SegDiff,
        votes: int,
        seed: int,
        device: str,
        *,
        variant: Literal["published", "hoisted", "fast", "openvino"],
        few_steps: int | None = None,
        margin: Margin = Margin(),
    ) -> None:
        self.device, self.votes, self.seed, self._margin = device, votes, seed, margin
        self.few_steps, self.steps = few_steps, few_steps or model.config.steps
        self._hoist, self._fast = variant != "published", variant == "fast"
        self.precision: Precision = "bf16" if self._fast else "fp32"
        self._at_once = votes if self._fast and device == "cuda" else 1
        self._model: Denoiser = model.to(device)
        if variant == "openvino":
            self.precision = compiled_precision(device)
            self._model = CompiledSegDiff(model, self.precision)
        if self._fast:
            model = model.to(device, torch.bfloat16).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            if device == "cuda":
                model.denoise = torch.compile(model.denoise)  # type: ignore[method-assign]
            self._model = model

    @torch.inference_mode()
    def run(self, images: NDArray[np.float32]) -> VoteMaps:
        """See `Engine.run`."""
        votes = sample(
            self._model,
            self._image(images),
            votes=self.votes,
            seed=self.seed,
            few_steps=self.few_steps,
            hoist_encoder=self._hoist,
            votes_at_once=self._at_once,
        )
        return maps_of(votes, images.shape[2:])

    def parts(self, images: NDArray[np.float32]) -> tuple[Part, ...]:
        """One encoding, and one step of as many votes as go at once; as published, every step encodes."""
        model, steps = self._model, self.steps
        image = self._image(images)
        x = vote_noise(self.seed, 0, (model.config.label_channels, *image.shape[2:]))().to(self.device)
        x = x.expand(self._at_once * len(image), *x.shape[1:])
        repeated = image.repeat(self._at_once, 1, 1, 1)
        with torch.inference_mode():
            condition = model.encode(image).repeat(self._at_once, 1, 1, 1) if self._hoist else None
        predict = predictor(model, repeated, condition)

        def step() -> Tensor:
            if self.few_steps is not None:
                return ddim(predict, x, model.schedule, ddim_steps(model.config.steps, self.few_steps)[:1])
            return ancestral_step(predict, x, model.config.steps - 1, model.schedule, lambda: torch.randn_like(x))

        part = Part("step", self._finished(step), steps * -(-self.votes // self._at_once))
        return (Part("encoder", self._finished(lambda: model.encode(image)), 1), part) if self._hoist else (part,)

    def _image(self, images: NDArray[np.float32]) -> Tensor:
        image = self._margin.fill(images).to(self.device)
        return image.bfloat16().contiguous(memory_format=torch.channels_last) if self._fast else image

    def _finished(self, run: Callable[[], object]) -> Callable[[], object]:
        """Without gradients, and finished when it returns."""

        def finished() -> None:
            with torch.inference_mode():
                run()
            if self.device == "cuda":
                torch.cuda.synchronize()

        return finished


class BaselineRunner:
    """A supervised baseline: one evaluation, eager in float32, or compiled by OpenVINO."""

    def __init__(self, model: Baseline, device: str, *, compiled: bool = False, margin: Margin = Margin()) -> None:
        self.name: str = model.name
        self.precision: Precision = compiled_precision(device) if compiled else "fp32"
        self.device, self._margin = device, margin
        model = model.to(device)
        self._label = CompiledMethod(model, "label", self.precision) if compiled else model.label

    @torch.inference_mode()
    def run(self, images: NDArray[np.float32]) -> VoteMaps:
        """See `Engine.run`."""
        return maps_of(self._label(self._margin.fill(images).to(self.device))[None], images.shape[2:])
