"""A published checkpoint with all that its data set implies: preprocessing, schedule, polarity and labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdal_sdk.bundle.checkpoint import checkpoint_content, save_checkpoint
from cdal_sdk.bundle.manifest import Manifest, Provenance
from cdal_sdk.diffusion import published_betas
from cdal_sdk.errors import ModelError
from cdal_sdk.network import GeneratorConfig, load_published
from cdal_sdk.network.published import read_published_config
from cdal_sdk.slicing import Domain, Intensity, Plan
from cdal_sdk.study import Code, Label

__all__ = ["convert_published", "published_manifest"]

_EIGHT_BITS = (0.0, 255.0)  # the published code maps 8-bit pictures; deeper ones would silently saturate
_CITATION = "Hejrati et al., MICCAI 2024"
_LICENCE = "LicenseRef-published-cDAL-research-only"
_HIPPOCAMPUS = Code("5366008", "Hippocampus")


def convert_published(checkpoint: Path, config: Path, out: Path) -> Manifest:
    """Write a checkpoint of ours from a published one.

    Args:
        checkpoint: the published `.pth`.
        config: the published JSON of parameters.
        out: checkpoint to write.

    Returns:
        The manifest that it holds.

    Raises:
        ModelError: if a file cannot be read safely, does not match, or belongs to no published data set.
        OutputError: if it cannot be written.
    """
    settings = read_published_config(config)
    generator = load_published(checkpoint, config)
    manifest = _manifest(settings, generator.config, config)
    save_checkpoint(checkpoint_content(manifest, generator.state_dict()), out)
    return manifest


def _manifest(settings: Mapping[str, Any], network: GeneratorConfig, where: Path) -> Manifest:
    name = str(settings["dataset"])
    if name not in _MAKERS:
        raise ModelError(
            f"the dataset '{name}' is none of the published ones",
            where=where,
            remedy=f"it is one of {', '.join(_MAKERS)}",
        )
    try:
        betas = published_betas(
            int(settings["num_timesteps"]), float(settings["beta_min"]), float(settings["beta_max"])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the schedule cannot be built ({error})", where=where, remedy="complete the file") from None
    if network.label_channels != (3 if name == "hippo" else 1):
        raise ModelError(
            f"num_channels is {network.label_channels}, which the dataset '{name}' does not have",
            where=where,
            remedy="correct num_channels or dataset",
        )
    return published_manifest(name, network, tuple(betas.double().tolist()))


def published_manifest(dataset: str, network: GeneratorConfig, betas: tuple[float, ...]) -> Manifest:
    """All that one of the published data sets implies: "monu", "lung" or "hippo"."""
    return _MAKERS[dataset](network, betas)


def _nuclei(network: GeneratorConfig, betas: tuple[float, ...]) -> Manifest:
    """MoNuSeg: resized to twice the network's size and tested on four tiles."""
    side = network.image_size
    intensity = Intensity("standardise", mean=(142.07, 98.48, 132.96), std=(65.78, 57.05, 57.78))
    return Manifest(
        name="published-monuseg",
        description="Nuclei on H&E-stained histology, published cDAL checkpoint",
        labels=(
            Label(
                "Nucleus",
                1,
                Code("84640000", "Nucleus"),
                category=Code("4421005", "Cell structure"),
                colour=(40, 200, 90),
            ),
        ),
        network=network,
        plan=Plan(
            kind="planar",
            channels=3,
            intensity=intensity,
            fit="tile",
            canvas=(side, side),
            divisor=network.divisor,
            resize_to=(2 * side, 2 * side),
            overlap=0.0,
            domain=Domain(values=_EIGHT_BITS),
        ),
        betas=betas,
        votes=5,
        decision="threshold",
        provenance=Provenance(data="MoNuSeg 2018", citation=_CITATION, licence=_LICENCE),
    )


def _lung(network: GeneratorConfig, betas: tuple[float, ...]) -> Manifest:
    """Chest X-ray, whole; the lung is -1 on the published label scale. 8-bit gray values go to [-1, 1]."""
    side = network.image_size
    return Manifest(
        name="published-chest-xray",
        description="Lungs on frontal chest X-rays, published cDAL checkpoint",
        labels=(Label("Lung", 1, Code("39607008", "Lung"), colour=(60, 150, 230)),),
        network=network,
        plan=Plan(
            kind="planar",
            channels=1,
            intensity=Intensity("fixed", 0.0, 255.0, target=(-1.0, 1.0)),
            fit="resize",
            canvas=(side, side),
            divisor=network.divisor,
            domain=Domain(modalities=("CR", "DX"), views=("frontal",), values=_EIGHT_BITS),
        ),
        betas=betas,
        votes=30,
        decision="threshold",
        polarity=-1,
        provenance=Provenance(data="Montgomery and Shenzhen chest X-rays", citation=_CITATION, licence=_LICENCE),
    )


def _hippocampus(network: GeneratorConfig, betas: tuple[float, ...]) -> Manifest:
    """Decathlon task 4: windows of the network's size slid over slices with an overlap of three quarters."""
    side = network.image_size
    return Manifest(
        name="published-hippocampus",
        description="Anterior and posterior hippocampus on cropped T1-weighted MRI, published cDAL checkpoint",
        labels=(
            Label("Anterior", 1, _HIPPOCAMPUS, Code("255549009", "Anterior"), colour=(230, 85, 60)),
            Label("Posterior", 2, _HIPPOCAMPUS, Code("255551008", "Posterior"), colour=(60, 150, 230)),
        ),
        network=network,
        plan=Plan(
            kind="volume",
            channels=1,
            intensity=Intensity("percentile", 0.0, 100.0, target=(0.0, 1.0)),
            fit="tile",
            canvas=(side, side),
            divisor=network.divisor,
            orientation="LPI",
            overlap=0.75,
            domain=Domain(modalities=("MR",), spacing_mm=(0.6, 1.6), extent_mm=(16.0, 96.0)),
        ),
        betas=betas,
        votes=5,
        decision="argmax",
        provenance=Provenance(data="Medical Segmentation Decathlon, task 4", citation=_CITATION, licence=_LICENCE),
    )


_MAKERS = {"monu": _nuclei, "lung": _lung, "hippo": _hippocampus}
