"""A recipe: every setting of a training run, read from a TOML file that a person reads and copies."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import msgspec

from cdal_sdk.bundle import Manifest, Provenance
from cdal_sdk.bundle.strict import convert_strictly
from cdal_sdk.diffusion import paper_betas, published_betas
from cdal_sdk.errors import ModelError, UsageError
from cdal_sdk.network import GeneratorConfig
from cdal_sdk.slicing import Plan
from cdal_sdk.study import Label
from cdal_trainer.discriminator import SMALLEST_SIDE

__all__ = ["Attention", "Augmentation", "Data", "Diffusion", "Discrimination", "Optimisation", "Recipe", "load_recipe"]


@dataclass(frozen=True)
class Data:
    """Which slices a step sees.

    Attributes:
        folds: number of parts of the cases; one is held out for validation.
        cases: shell pattern of the names of the cases that take part.
        patient: regular expression that finds the patient in a case's name, so that none is on both sides; where it
            is empty, each case is a patient.
        crop: height and width of a training slice: larger ones are cropped at random, smaller ones padded.
        foreground_share: share of the slices of a batch that contain a label.
        validation_cases: how many held-out cases are segmented during training (all at the end).
        validation_votes: votes of those, fewer than at the end to save time.
    """

    folds: int
    crop: tuple[int, int]
    cases: str = "*"
    patient: str = ""
    foreground_share: float = 0.75
    validation_cases: int = 8
    validation_votes: int = 1


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training slice; a probability of 0 switches one off.

    Attributes:
        affine: probability of rotation, scaling and translation.
        rotation: largest angle in degrees.
        scale: smallest and largest zoom.
        translation: largest shift in pixels.
        padding: what comes in from outside: the image's "border", or "zeros".
        flip: probability of a mirror image, for each axis.
        turn: probability of one to three quarter turns.
        colour: probability of a change of colours.
        brightness: largest shift of all channels, on the network's intensity scale.
        contrast: largest change of the contrast, as a share.
        saturation: the same for the saturation.
        hue: largest turn of the hue, as a share of a full one.
        histogram: probability of a random monotonous mapping of the intensities.
        gamma: probability of a gamma change of contrast.
        gamma_range: smallest and largest exponent.
        bias: probability of a smooth intensity field.
        noise: probability of Gaussian noise.
        noise_std: its largest standard deviation, on the network's intensity scale.
        blur: probability of a Gaussian blur of up to one pixel.
    """

    affine: float = 0.0
    rotation: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    translation: float = 0.0
    padding: Literal["border", "zeros"] = "border"
    flip: float = 0.0
    turn: float = 0.0
    colour: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    histogram: float = 0.0
    gamma: float = 0.0
    gamma_range: tuple[float, float] = (0.7, 1.5)
    bias: float = 0.0
    noise: float = 0.0
    noise_std: float = 0.1
    blur: float = 0.0


@dataclass(frozen=True)
class Diffusion:
    """The reverse process (METHOD: T, schedule, K).

    Attributes:
        steps: T.
        schedule: betas of the "paper", or of the "published" code (offset by 1e-3).
        beta_min: as in both formulas.
        beta_max: as in both formulas.
        votes: K at inference.
        posterior_noise: whether steps draw from the posterior or take its mean.
    """

    steps: int
    schedule: Literal["paper", "published"] = "paper"
    beta_min: float = 0.1
    beta_max: float = 20.0
    votes: int = 5
    posterior_noise: bool = True


@dataclass(frozen=True)
class Attention:
    """The attention map that weights the clean label in training.

    Attributes:
        scale: side of the discriminator's feature map on an input of the network's `image_size`; None switches
            attention off.
        norm: "none" takes the channel mean as it is (the paper); "unit" maps each to [0, 1].
    """

    scale: int | None
    norm: Literal["none", "unit"] = "unit"


@dataclass(frozen=True)
class Discrimination:
    """The discriminator and its loss.

    Attributes:
        width: channels after the first down-sampling.
        time_width: width of its time embedding.
        r1_gamma: weight of the R1 penalty on real pairs.
        every: generator steps per discriminator step (the paper: 1).
        separate: a discriminator for each denoising step (the paper's text) instead of one that is told the step (its
            code). On one device only.
    """

    width: int = 32
    time_width: int = 128
    r1_gamma: float = 1.0
    every: int = 1
    separate: bool = False


@dataclass(frozen=True)
class Optimisation:
    """Adam, cosine, averaging.

    Attributes:
        steps: generator steps of the whole run.
        batch: slices a step and device.
        accumulate: parts in which a batch is computed, to save memory.
        lr_generator: initial learning rate, after the warm-up.
        lr_discriminator: the same for the discriminator.
        lr_final: where the cosine ends.
        warmup: steps of linear warm-up.
        adam_betas: of both optimisers.
        ema: decay of the averaged weights; 0 keeps the raw ones.
        grad_clip: largest norm of either network's gradient; 0 does not clip.
        validate_every: steps between validations and their checkpoints.
        seed: of everything random.
        initial: model to start from: a bundled one's name, a model folder or a checkpoint; "" for random weights.
    """

    steps: int
    batch: int
    lr_generator: float
    lr_discriminator: float
    lr_final: float = 1e-5
    warmup: int = 0
    adam_betas: tuple[float, float] = (0.5, 0.9)
    ema: float = 0.999
    grad_clip: float = 1.0
    validate_every: int = 500
    seed: int = 0
    initial: str = ""
    accumulate: int = 1


@dataclass(frozen=True)
class Recipe:
    """All of it. `network`, `plan` and `labels` go into the trained model's manifest unchanged.

    `method` is "cdal", or a baseline that is trained on the same batches (see `cdal_trainer.method`).
    """

    name: str
    description: str
    labels: tuple[Label, ...]
    decision: Literal["threshold", "argmax"]
    plan: Plan
    network: GeneratorConfig
    data: Data
    diffusion: Diffusion
    attention: Attention
    discriminator: Discrimination
    optimisation: Optimisation
    augmentation: Augmentation = field(default_factory=Augmentation)
    polarity: Literal[1, -1] = 1
    method: str = "cdal"
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        counts = {
            "data.validation_cases": self.data.validation_cases,
            "data.validation_votes": self.data.validation_votes,
            "diffusion.steps": self.diffusion.steps,
            "discriminator.every": self.discriminator.every,
            "optimisation.steps": self.optimisation.steps,
            "optimisation.batch": self.optimisation.batch,
            "optimisation.accumulate": self.optimisation.accumulate,
            "optimisation.validate_every": self.optimisation.validate_every,
        }
        for name, value in counts.items():
            if value < 1:
                raise UsageError(f"{name} is {value}", remedy="give it at least 1")
        crop, divisor = self.data.crop, self.network.divisor
        if any(side % divisor for side in crop):
            raise UsageError(f"data.crop is {crop}", remedy=f"give multiples of {divisor}")
        if min(crop) < SMALLEST_SIDE:
            raise UsageError(
                f"data.crop is {crop}", remedy=f"give at least {SMALLEST_SIDE}, as the discriminator needs"
            )

    def manifest(self, provenance: Provenance | None = None) -> Manifest:
        """The manifest of a model that this recipe trains."""
        make = paper_betas if self.diffusion.schedule == "paper" else published_betas
        betas = make(self.diffusion.steps, self.diffusion.beta_min, self.diffusion.beta_max)
        return Manifest(
            name=self.name,
            description=self.description,
            labels=self.labels,
            network=self.network,
            plan=self.plan,
            betas=tuple(betas.double().tolist()),
            votes=self.diffusion.votes,
            posterior_noise=self.diffusion.posterior_noise,
            decision=self.decision,
            polarity=self.polarity,
            provenance=provenance or self.provenance,
        )


def load_recipe(reference: str | Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Load a recipe by its bundled name or the path of a TOML file.

    Args:
        reference: such as "hippocampus", or a path.
        overrides: settings such as "optimisation.batch=8"; the value is TOML, or else a string.

    Raises:
        UsageError: if there is no such recipe, or an entry is missing, unknown or unusable.
    """
    bundled = {
        Path(entry.name).stem: entry
        for entry in resources.files("cdal_trainer.recipes").iterdir()
        if entry.name.endswith(".toml")
    }
    path = Path(reference)
    if path.is_file():
        text = path.read_text(encoding="utf-8")
    elif str(reference) in bundled:
        text = bundled[str(reference)].read_text(encoding="utf-8")
    else:
        raise UsageError(
            f"there is no recipe '{reference}'",
            remedy=f"give a TOML file or one of: {', '.join(sorted(bundled))}",
        )
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"this is no TOML ({error})", where=str(reference)) from None
    for override in overrides:
        _override(data, override)
    return _convert(data, str(reference))


def _override(data: dict[str, Any], override: str) -> None:
    """Set "section.key=value" in place."""
    key, separator, text = override.partition("=")
    *sections, last = key.strip().split(".")
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            separator = ""
            break
    if not separator:
        raise UsageError(f"'{override}' is no setting", remedy="write section.key=value, such as optimisation.batch=8")
    try:
        data[last] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        data[last] = text.strip()


def _convert(data: dict[str, Any], where: str) -> Recipe:
    if data.get("attention", {}).get("scale") == 0:  # TOML has no null
        data["attention"]["scale"] = None
    try:
        recipe = convert_strictly(data, Recipe)
        recipe.manifest()  # contradictions between sections show here
    except (msgspec.ValidationError, ModelError) as error:
        raise UsageError(f"the recipe does not hold: {error}", where=where, remedy="correct this setting") from None
    return recipe
