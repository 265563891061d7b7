"""What is benchmarked: a trained model, or the paper's own configurations with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import torch

from cdal_bench.segdiff import SegDiffConfig
from cdal_sdk.bundle import Manifest, Provenance, load_model, published_manifest, write_model_folder
from cdal_sdk.diffusion import published_betas
from cdal_sdk.errors import UsageError
from cdal_sdk.network import Generator, GeneratorConfig

__all__ = ["PAPER", "Subject", "load_subject", "segdiff_config"]

_PREFIX = "paper:"
_SEGDIFF_VOTES = 9
_PUBLISHED_VOTES = {"paper:cxr": 30}  # as released; the paper itself says 5 throughout


def _paper(name: str, dataset: str, network: GeneratorConfig, steps: int) -> Manifest:
    """A configuration with what its data set implies; of random weights there is no provenance."""
    return replace(
        published_manifest(dataset, network, tuple(published_betas(steps).double().tolist())),
        name=f"{_PREFIX}{name}",
        description=f"The paper's configuration for {name}",
        votes=5,
        provenance=Provenance(),
    )


_MONUSEG = GeneratorConfig(
    image_channels=3,
    label_channels=1,
    image_size=256,
    width=64,
    multipliers=(1, 1, 1, 2, 2, 4, 4),
    blocks_per_level=2,
    attention_resolutions=(16, 8),
    encoder_blocks=5,
    latent_size=100,
    latent_width=256,
)
_CXR = GeneratorConfig(
    image_channels=1,
    label_channels=1,
    image_size=256,
    width=32,
    multipliers=(1, 1, 2, 2, 4, 4),
    blocks_per_level=1,
    attention_resolutions=(16,),
    encoder_blocks=6,
    latent_size=100,
    latent_width=256,
)
_HIPPOCAMPUS = GeneratorConfig(image_channels=1, label_channels=3, image_size=32)

PAPER: Mapping[str, Manifest] = MappingProxyType(
    {
        "monuseg": _paper("monuseg", "monu", _MONUSEG, 4),
        "cxr": _paper("cxr", "lung", _CXR, 2),
        "hippocampus": _paper("hippocampus", "hippo", _HIPPOCAMPUS, 2),
    }
)


@dataclass(frozen=True)
class Subject:
    """The model that is benchmarked.

    Attributes:
        reference: what loads it: a name, a folder or a checkpoint.
        manifest: of the model.
        trained: whether its weights are.
    """

    reference: str
    manifest: Manifest
    trained: bool

    def votes(self, mode: str, *, segdiff: bool) -> int:
        """Votes of a diffusion model: the model's own for everybody ("equal"), or as published."""
        if mode == "equal":
            return self.manifest.votes
        return _SEGDIFF_VOTES if segdiff else _PUBLISHED_VOTES.get(self.manifest.name, self.manifest.votes)


def load_subject(reference: str, folder: Path, seed: int = 0) -> Subject:
    """A model by name, folder or checkpoint; or "paper:NAME", which is written to a folder with random weights.

    Raises:
        UsageError: if the paper has no such configuration.
        ModelError: if there is no such model.
    """
    if not reference.startswith(_PREFIX):
        return Subject(reference, load_model(reference).manifest, trained=True)
    name = reference.removeprefix(_PREFIX)
    if name not in PAPER:
        known = ", ".join(_PREFIX + known for known in PAPER)
        raise UsageError(f"the paper has no configuration '{name}'", remedy=f"choose one of: {known}")
    torch.manual_seed(seed)
    generator = Generator(PAPER[name].network)
    manifest = write_model_folder(folder / name, PAPER[name], generator.state_dict())
    return Subject(str(folder / name), manifest, trained=False)


def segdiff_config(manifest: Manifest) -> SegDiffConfig:
    """SegDiff for the task of a model: levels by image side as improved DDPM has them, labels and image the model's.

    The encoder has 12 blocks for colour images as published for MoNuSeg, else 3.
    """
    side = max(manifest.plan.canvas)
    levels = {32: (1, 2, 2, 2), 64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4)}
    fitting = [multipliers for largest, multipliers in levels.items() if side <= largest]
    network = manifest.network
    return SegDiffConfig(
        image_channels=network.image_channels,
        label_channels=network.label_channels,
        image_size=side,
        multipliers=fitting[0] if fitting else SegDiffConfig.multipliers,
        encoder_blocks=SegDiffConfig.encoder_blocks if manifest.plan.channels == 3 else 3,
    )
