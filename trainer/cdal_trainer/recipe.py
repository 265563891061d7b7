"""A recipe: every setting of a training run, read from a TOML file that a person reads and copies."""

from __future__ import annotations

import math
import re
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
from cdal_trainer.settings import Attention, Augmentation, Data, Diffusion, Discrimination, Optimisation

__all__ = ["Attention", "Augmentation", "Data", "Diffusion", "Discrimination", "Optimisation", "Recipe", "load_recipe"]

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
}
"""What msgspec calls the kinds of values, in the words of TOML."""


@dataclass(frozen=True)
class Recipe:
    """All of it. `network`, `plan` and `labels` go into the trained model's manifest unchanged.

    `method` is "cdal", or a baseline that is trained on the same batches (see `cdal_trainer.method`). `published` says
    that the settings are the paper's: SegDiff then has its own published size instead of the recipe's.
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
    published: bool = False
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        counts = {
            "data.per_patient": self.data.per_patient,
            "data.validation_cases": self.data.validation_cases,
            "data.validation_votes": self.data.validation_votes,
            "diffusion.steps": self.diffusion.steps,
            "diffusion.votes": self.diffusion.votes,
            "discriminator.every": self.discriminator.every,
            "discriminator.width": self.discriminator.width,
            "optimisation.steps": self.optimisation.steps,
            "optimisation.batch": self.optimisation.batch,
            "optimisation.accumulate": self.optimisation.accumulate,
            "optimisation.validate_every": self.optimisation.validate_every,
        }
        for name, count in counts.items():
            if count < 1:
                raise UsageError(f"{name} is {count}", remedy="give it at least 1")
        optimisation, augmentation = self.optimisation, self.augmentation
        bounds: dict[str, tuple[float, float, float]] = {
            "data.folds": (self.data.folds, 2, math.inf),
            "data.foreground_share": (self.data.foreground_share, 0, 1),
            "diffusion.beta_min": (self.diffusion.beta_min, 0, math.inf),
            "discriminator.time_width": (self.discriminator.time_width, 4, math.inf),
            "discriminator.r1_gamma": (self.discriminator.r1_gamma, 0, math.inf),
            "optimisation.ema": (optimisation.ema, 0, 1),
            "optimisation.seed": (optimisation.seed, 0, 2**63 - 1),
            "augmentation.scale": (min(augmentation.scale), 0.05, 20),
            "augmentation.rotation": (augmentation.rotation, 0, 180),
            "augmentation.gamma_range": (min(augmentation.gamma_range), 0.05, 20),
            "augmentation.noise_std": (augmentation.noise_std, 0, math.inf),
        }
        signs = ("warmup", "lr_generator", "lr_discriminator", "lr_final", "grad_clip")
        bounds |= {f"optimisation.{name}": (getattr(optimisation, name), 0, math.inf) for name in signs}
        bounds |= {
            f"optimisation.adam_betas[{i}]": (beta, 0, 0.99999) for i, beta in enumerate(optimisation.adam_betas)
        }
        odds = ("until", "affine", "flip", "turn", "colour", "histogram", "gamma", "bias", "occlusion", "noise", "blur")
        bounds |= {f"augmentation.{name}": (getattr(augmentation, name), 0, 1) for name in odds}
        for name, (value, low, high) in bounds.items():
            if not low <= value <= high:
                raise UsageError(f"{name} is {value:g}", remedy=f"give {low:g} to {high:g}")
        plan = self.plan
        if plan.image_channels != self.network.image_channels:
            raise UsageError(
                f"network.image_channels is {self.network.image_channels}",
                remedy=f"plan.channels={plan.channels} with plan.context={plan.context} needs "
                f"network.image_channels={plan.image_channels}",
            )
        if augmentation.colour and (self.plan.channels, self.plan.context) != (3, 0):
            raise UsageError("augmentation.colour is for RGB pictures", remedy="set it to 0")
        if self.discriminator.time_width % 2:
            raise UsageError(f"discriminator.time_width is {self.discriminator.time_width}", remedy="give an even one")
        crop, divisor = self.data.crop, self.network.divisor
        if augmentation.turn and crop[0] != crop[1]:
            raise UsageError(
                f"augmentation.turn makes slices of {crop} ones of {crop[::-1]}",
                remedy="set it to 0, or give data.crop equal sides",
            )
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


def load_recipe(reference: str | Path, overrides: tuple[str, ...] = (), *, paper: bool = False) -> Recipe:
    """Load a recipe by its bundled name or the path of a TOML file.

    Args:
        reference: such as "hippocampus", or a path.
        overrides: settings such as "optimisation.batch=8"; the value is TOML, or else a string.
        paper: take what the recipe's table `paper` says first, the settings of the paper.

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
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise UsageError(f"the recipe cannot be read ({why})", where=path, remedy="give a TOML file") from None
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
        raise UsageError(f"this is no TOML ({error})", where=str(reference), remedy="correct that line") from None
    published = data.pop("paper", {})
    if paper:
        if not published:
            raise UsageError("this recipe does not tell the paper's settings", where=str(reference))
        _merge(data, published)
    for override in overrides:
        _override(data, override)
    return _convert(data, str(reference))


def _merge(data: dict[str, Any], changes: dict[str, Any]) -> None:
    """Put changes into nested tables, in place."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(data.get(key), dict):
            _merge(data[key], value)
        else:
            data[key] = value


def _override(data: dict[str, Any], override: str) -> None:
    """Set "section.key=value" in place."""
    key, separator, text = override.partition("=")
    *sections, last = key.strip().split(".")
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            separator = ""
            break
    if not separator or not last:
        raise UsageError(f"'{override}' is no setting", remedy="write section.key=value, such as optimisation.batch=8")
    try:
        data[last] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        data[last] = text.strip()


def _convert(data: dict[str, Any], where: str) -> Recipe:
    attention = data.get("attention")
    if isinstance(attention, dict) and attention.get("scale") == 0:  # TOML has no null
        attention["scale"] = None
    try:
        recipe = convert_strictly(data, Recipe)
        recipe.manifest()  # contradictions between sections show here
    except ModelError as error:
        raise UsageError(f"the recipe does not hold: {error}", where=where, remedy="correct this setting") from None
    except msgspec.ValidationError as error:
        raise UsageError(_in_words(str(error)), where=where, remedy="correct this setting") from None
    return recipe


def _in_words(text: str) -> str:
    """What msgspec says of an entry, such as "Expected `int`, got `str` - at `$.data.folds`", as we would."""
    what, _, place = text.replace("`", "").partition(" - at $.")
    if expected := re.match(r"Expected (\w+)(?: \| null)?( of length \d+)?", what):
        return f"{place} takes {_KINDS.get(expected[1], expected[1])}{expected[2] or ''}"
    if missing := re.match(r"Object missing required field (.+)", what):
        return f"the entry '{f'{place}.{missing[1]}'.lstrip('.')}' is missing"
    return f"{place}: {what[0].lower()}{what[1:]}" if place else what
