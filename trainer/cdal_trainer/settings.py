"""The sections of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Attention", "Augmentation", "Data", "Diffusion", "Discrimination", "Optimisation"]


@dataclass(frozen=True)
class Data:
    """Which slices a step sees.

    Attributes:
        folds: number of parts of the cases; one is held out for validation.
        cases: shell pattern of the names of the cases that take part.
        patient: regular expression that finds the patient in a case's name, so that none is on both sides; where it
            is empty, each case is a patient.
        per_patient: so many consecutively numbered cases are one patient, such as 2 for the sides of a head.
        crop: height and width of a training slice: larger ones are cropped at random, smaller ones padded.
        foreground_share: share of the slices of a batch that contain a label.
        validation_cases: how many held-out cases are segmented during training (all at the end).
        validation_votes: votes of those, fewer than at the end to save time.
    """

    folds: int
    crop: tuple[int, int]
    cases: str = "*"
    patient: str = ""
    per_patient: int = 1
    foreground_share: float = 0.75
    validation_cases: int = 8
    validation_votes: int = 1


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training slice; a probability of 0 switches one off.

    Attributes:
        until: share of the steps after which all but flips and turns end, so that training ends on slices as they are.
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
        bias_strength: largest coefficient of its exponent.
        occlusion: probability that one to four rectangles of the image are replaced by noise.
        occlusion_size: their smallest and largest side in pixels.
        noise: probability of Gaussian noise.
        noise_std: its largest standard deviation, on the network's intensity scale.
        blur: probability of a Gaussian blur of up to one pixel.
    """

    until: float = 1.0
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
    bias_strength: float = 0.3
    occlusion: float = 0.0
    occlusion_size: tuple[int, int] = (8, 32)
    noise: float = 0.0
    noise_std: float = 0.1
    blur: float = 0.0

    def symmetries(self) -> Augmentation:
        """Flips and turns alone, which show nothing that no image has."""
        return Augmentation(flip=self.flip, turn=self.turn)


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
        channels_last: whether networks and images lie in memory with the channels last (docs/decisions/0009).
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
    channels_last: bool = False
