"""What is benchmarked: a trained model, or the paper's own configurations with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch

from cdal_bench.segdiff import SegDiffConfig
from cdal_sdk.bundle import Manifest, load_model, write_model_folder
from cdal_sdk.diffusion import published_betas
from cdal_sdk.errors import UsageError
from cdal_sdk.network import Generator, GeneratorConfig
from cdal_sdk.slicing import Intensity, Plan
from cdal_sdk.study import Code, Label

__all__ = ["PAPER", "Subject", "load_subject", "segdiff_config"]

_PREFIX = "paper:"
_SEGDIFF_VOTES = 9
_NUCLEUS = Label("Nucleus", 1, Code("84640000", "Nucleus"))
_LUNG = Label("Lung", 1, Code("39607008", "Lung"))
_HIPPOCAMPUS = (
    Label("Anterior", 1, Code("5366008", "Hippocampus"), Code("255549009", "Anterior")),
    Label("Posterior", 2, Code("5366008", "Hippocampus"), Code("255551008", "Posterior")),
)

PAPER: Mapping[str, Manifest] = MappingProxyType(
    {
        "monuseg": Manifest(
            name="paper:monuseg",
            description="The paper's configuration for MoNuSeg",
            labels=(_NUCLEUS,),
            network=GeneratorConfig(
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
            ),
            plan=Plan(
                "planar",
                3,
                Intensity("standardise", mean=(142.07, 98.48, 132.96), std=(65.78, 57.05, 57.78)),
                "tile",
                (256, 256),
                64,
                resize_to=(512, 512),
                overlap=0.0,
            ),
            betas=tuple(published_betas(4).double().tolist()),
            votes=5,
            decision="threshold",
        ),
        "cxr": Manifest(
            name="paper:cxr",
            description="The paper's configuration for chest X-rays",
            labels=(_LUNG,),
            network=GeneratorConfig(
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
            ),
            plan=Plan("planar", 1, Intensity("fixed", 0.0, 255.0), "resize", (256, 256), 32),
            betas=tuple(published_betas(2).double().tolist()),
            votes=5,
            decision="threshold",
            polarity=-1,
        ),
        "hippocampus": Manifest(
            name="paper:hippocampus",
            description="The paper's configuration for the hippocampus",
            labels=_HIPPOCAMPUS,
            network=GeneratorConfig(image_channels=1, label_channels=3, image_size=32),
            plan=Plan(
                "volume",
                1,
                Intensity("percentile", 0.0, 100.0, (0.0, 1.0)),
                "tile",
                (32, 32),
                8,
                orientation="LPI",
                overlap=0.75,
            ),
            betas=tuple(published_betas(2).double().tolist()),
            votes=5,
            decision="argmax",
        ),
    }
)

_PUBLISHED_VOTES = {"paper:cxr": 30}  # as released; the paper itself says 5 throughout


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
