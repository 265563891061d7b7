"""Tiny models with random weights, saved as model folders: what the tests of whole runs need."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from cdal_sdk.bundle import Manifest, write_model_folder
from cdal_sdk.diffusion import paper_betas
from cdal_sdk.network import Generator, GeneratorConfig
from cdal_sdk.slicing import Domain, Intensity, Plan
from cdal_sdk.study import Code, Label

_Module = TypeVar("_Module", bound=nn.Module)

VOLUME = Manifest(
    name="tiny-volume",
    description="A volume model with random weights",
    labels=(
        Label("Anterior", 1, Code("5366008", "Hippocampus"), Code("255549009", "Anterior")),
        Label("Posterior", 2, Code("5366008", "Hippocampus"), Code("255551008", "Posterior")),
    ),
    network=GeneratorConfig(
        image_channels=3,
        label_channels=3,
        image_size=16,
        width=8,
        multipliers=(1, 1),
        blocks_per_level=1,
        attention_resolutions=(8,),
        encoder_blocks=1,
        latent_size=4,
        latent_width=8,
        latent_layers=1,
    ),
    plan=Plan(
        kind="volume",
        channels=1,
        intensity=Intensity("percentile", 0.5, 99.5, (0.0, 1.0)),
        fit="pad",
        canvas=(16, 16),
        divisor=2,
        context=1,
        domain=Domain(("MR",), (0.5, 3.0), (5.0, 40.0)),
    ),
    betas=tuple(paper_betas(2).tolist()),
    votes=2,
    decision="argmax",
)

PLANAR = replace(
    VOLUME,
    name="tiny-planar",
    labels=VOLUME.labels[:1],
    network=replace(VOLUME.network, image_channels=1, label_channels=1),
    plan=Plan("planar", 1, Intensity("fixed", 0.0, 255.0), "resize", (16, 16), 2),
    decision="threshold",
)


def tiny_generator(manifest: Manifest) -> Generator:
    """A generator none of whose layers is close to zero, so that its masks have structure."""
    return enliven(Generator(manifest.network).eval())


def enliven(module: _Module, gain: float = 1.0) -> _Module:
    """Draw every parameter at random, weights so that they keep the variance times the squared gain.

    A fresh generator is nearly the identity, which would hide mistakes.
    """
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = gain * parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.3
            parameter.copy_(scale * torch.randn(parameter.shape, generator=rng))
    return module


def save_tiny(manifest: Manifest, folder: Path) -> Path:
    """Write the tiny model; returns the folder."""
    write_model_folder(folder, manifest, tiny_generator(manifest).state_dict())
    return folder
