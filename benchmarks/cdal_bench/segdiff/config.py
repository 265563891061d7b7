"""The settings that fix SegDiff's layers and its diffusion."""

from __future__ import annotations

from dataclasses import dataclass

from cdal_sdk.diffusion import Schedule
from cdal_sdk.errors import ModelError

__all__ = ["SegDiffConfig", "linear_betas"]


def linear_betas(steps: int) -> tuple[float, ...]:
    """The linear schedule of improved DDPM: 1e-4 to 0.02 over 1000 steps, scaled up as there are fewer, [T].

    Raises:
        ModelError: if there are too few steps for the scaled betas to stay below 1.
    """
    if steps < 21:
        raise ModelError(f"{steps} steps are too few for the linear schedule", remedy="give at least 21")
    scale = 1000 / steps
    first, last = 1e-4 * scale, 0.02 * scale
    return tuple(first + (last - first) * step / (steps - 1) for step in range(steps))


@dataclass(frozen=True)
class SegDiffConfig:
    """SegDiff as published at the defaults, with 12 encoder blocks on MoNuSeg; small widths train on a CPU.

    Attributes:
        image_channels: channels of the condition image.
        label_channels: channels of the label that is denoised.
        image_size: places attention: a level of side `image_size / 2**level` has it where that is in
            `attention_resolutions`.
        width: channels of the first level.
        multipliers: width of each level in multiples of `width`; each level after the first halves the side.
        blocks_per_level: residual blocks of a level on the way down (one more on the way up).
        attention_resolutions: sides that get self-attention.
        heads: of the attention.
        encoder_blocks: residual-in-residual dense blocks of the image encoder.
        encoder_width: their features.
        encoder_growth: features that each of their convolutions adds.
        dropout: inside residual blocks (training only).
        steps: T.
    """

    image_channels: int = 3
    label_channels: int = 1
    image_size: int = 256
    width: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    blocks_per_level: int = 2
    attention_resolutions: tuple[int, ...] = (16, 8)
    heads: int = 4
    encoder_blocks: int = 12
    encoder_width: int = 64
    encoder_growth: int = 32
    dropout: float = 0.0
    steps: int = 100

    def __post_init__(self) -> None:
        counts = {
            "image_channels": self.image_channels,
            "label_channels": self.label_channels,
            "blocks_per_level": self.blocks_per_level,
            "encoder_blocks": self.encoder_blocks,
            "encoder_width": self.encoder_width,
            "encoder_growth": self.encoder_growth,
            "the smallest multiplier": min(self.multipliers, default=0),
        }
        for name, value in counts.items():
            if value < 1:
                raise ModelError(f"{name} is {value}", where="SegDiff config", remedy="give it at least 1")
        if self.width < 4 or self.width % 4 or self.width % self.heads:
            raise ModelError(
                f"width is {self.width}", where="SegDiff config", remedy=f"use a multiple of 4 and of {self.heads}"
            )
        if not 0 <= self.dropout < 1:
            raise ModelError(f"dropout is {self.dropout}", where="SegDiff config", remedy="give it 0 to below 1")
        linear_betas(self.steps)

    @property
    def divisor(self) -> int:
        """Height and width of every input must be multiples of this."""
        return int(2 ** (len(self.multipliers) - 1))

    @property
    def schedule(self) -> Schedule:
        """The schedule, in the numbering of the SDK: step 0 is the cleanest."""
        return Schedule(linear_betas(self.steps))

    def attends(self, level: int) -> bool:
        """Whether the blocks of a level (0 is the finest) are followed by self-attention."""
        return self.image_size // 2**level in self.attention_resolutions
