"""The manifest: one JSON that locks a model's method, so that it can never run with another one by accident."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from cdal_sdk.bundle.strict import convert_strictly
from cdal_sdk.confidence import Confidence
from cdal_sdk.diffusion import Sampling, Schedule
from cdal_sdk.errors import ModelError
from cdal_sdk.network import GeneratorConfig
from cdal_sdk.slicing import Plan
from cdal_sdk.study import Label

__all__ = [
    "SCHEMA_VERSION",
    "Manifest",
    "Provenance",
    "manifest_from_data",
    "manifest_from_json",
    "manifest_to_json",
    "seal",
]

SCHEMA_VERSION = 1
_SEAL = "sha256"  # the entry, in files only, that guards all others


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from and how good it was found to be.

    Attributes:
        licence: SPDX identifier of the weights.
        data: training data, with its licence.
        citation: what to cite.
        split: which cases trained and which validated.
        metrics: figures on cases that training did not see, by name.
        limits: what it is not for.
    """

    licence: str = ""
    data: str = ""
    citation: str = ""
    split: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    limits: str = ""


@dataclass(frozen=True)
class Manifest:
    """Everything that fixes what a model computes.

    Attributes:
        name: of the model, as users type it.
        description: one sentence.
        labels: foreground structures. With "argmax", channel 0 is the background and label i is channel i + 1; with
            "threshold" there is one label and one channel.
        network: layers of the generator.
        plan: from a study to network inputs.
        betas: the noise schedule itself.
        votes: instances that are averaged by default, K.
        posterior_noise: whether steps draw from the posterior or take its mean.
        seed: default seed of all noise.
        decision: how the vote mean becomes a mask.
        polarity: 1 where the foreground is +1 on the label scale, -1 where it is inverted ("threshold" only).
        provenance: where it comes from.
        confidence: what its spread means, and when a result is to be reviewed.
        version: of the model itself.
        files: SHA-256 of each further file of the model folder.
        schema: version of this layout.
    """

    name: str
    description: str
    labels: tuple[Label, ...]
    network: GeneratorConfig
    plan: Plan
    betas: tuple[float, ...]
    votes: int
    decision: Literal["threshold", "argmax"]
    posterior_noise: bool = True
    seed: int = 0
    polarity: Literal[1, -1] = 1
    provenance: Provenance = field(default_factory=Provenance)
    confidence: Confidence = field(default_factory=Confidence)
    version: str = "1"
    files: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        def contradiction(what: str) -> ModelError:
            return ModelError(what, where=f"manifest of '{self.name}'", remedy="the model was not written properly")

        foreground = self.network.label_channels - (self.decision == "argmax")
        if len(self.labels) != foreground or (self.decision == "threshold" and foreground != 1):
            raise contradiction(f"{len(self.labels)} label(s) do not match {self.network.label_channels} channel(s)")
        values = {label.value for label in self.labels}
        if len(values) < len(self.labels) or not values <= set(range(1, 256)):
            raise contradiction("the labels' values are not different numbers from 1 to 255")
        if len({label.name for label in self.labels}) < len(self.labels):
            raise contradiction("two labels have the same name")
        if self.plan.image_channels != self.network.image_channels:
            raise contradiction("the plan and the network differ in image channels")
        if self.plan.divisor % self.network.divisor:
            raise contradiction("the plan's sizes do not fit the network")
        if self.polarity == -1 and self.decision == "argmax":
            raise contradiction("an inverted polarity has no meaning for one-hot labels")
        if self.votes < 1 or self.seed < 0:
            raise contradiction("votes must be at least 1 and the seed at least 0")
        Schedule(self.betas)  # refuses betas that are none

    @property
    def schedule(self) -> Schedule:
        """The schedule of the stored betas."""
        return Schedule(self.betas)

    def sampling(self, votes: int | None = None, seed: int | None = None) -> Sampling:
        """What the sampler depends on, with the model's own votes and seed unless others are given."""
        return Sampling(
            schedule=self.schedule,
            label_shape=(self.network.label_channels, *self.plan.canvas),
            latent_size=self.network.latent_size,
            votes=self.votes if votes is None else votes,
            seed=self.seed if seed is None else seed,
            posterior_noise=self.posterior_noise,
        )

    def with_files(self, files: dict[str, str]) -> Manifest:
        """The same manifest for other files."""
        return replace(self, files=files)


def manifest_to_json(manifest: Manifest) -> str:
    """Readable JSON, sealed; keys in the order of the dataclass."""
    return json.dumps(seal(msgspec.to_builtins(manifest)), indent=2, ensure_ascii=False) + "\n"


def seal(data: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest's entries with a last one: the SHA-256 of all others, whatever their order, layout and older seal.

    It guards against edits and damage, which nothing else would tell: other betas give a plausible, wrong mask.
    """
    entries = {name: value for name, value in data.items() if name != _SEAL}
    return entries | {_SEAL: hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()}


def _is_sealed(data: Mapping[str, Any]) -> bool:
    try:
        return seal(data) == data
    except (TypeError, ValueError):  # a checkpoint may hold anything
        return False


def manifest_from_json(text: str | bytes, where: str | Path) -> Manifest:
    """Parse and check a manifest.

    Raises:
        ModelError: if it is no JSON, of another schema version, differs from its seal (older ones have none), or has
            missing, unknown or unusable entries.
    """
    try:
        return manifest_from_data(json.loads(text), where)
    except ValueError as error:
        raise ModelError(f"this is no JSON ({error})", where=where, remedy="restore the model folder") from None


def manifest_from_data(data: Any, where: str | Path) -> Manifest:
    """Check a manifest that was parsed already; see `manifest_from_json`."""
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA_VERSION:
        raise ModelError(
            f"the manifest has schema {schema}, this version of cdal-sdk reads {SCHEMA_VERSION}",
            where=where,
            remedy="upgrade cdal-sdk, or export the model again with this version",
        )
    if _SEAL in data:
        if not _is_sealed(data):
            raise ModelError(
                "the manifest was changed by hand, or is damaged: it differs from its own SHA-256",
                where=where,
                remedy="restore it, or make the model again",
            )
        data = {name: value for name, value in data.items() if name != _SEAL}
    try:
        return convert_strictly(data, Manifest)
    except (msgspec.ValidationError, ModelError) as error:
        raise ModelError(
            f"the manifest does not hold: {error}", where=where, remedy="restore the model, or upgrade cdal-sdk"
        ) from None
