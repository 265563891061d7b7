"""The settings that fix the generator's layers and the shapes of its weights."""

from __future__ import annotations

from dataclasses import dataclass

from cdal_sdk.errors import ModelError

__all__ = ["GeneratorConfig"]


@dataclass(frozen=True)
class GeneratorConfig:
    """Layers of the generator.

    Attributes:
        image_channels: channels of the condition image.
        label_channels: channels of the label that is denoised: 1 (binary, thresholded) or one a class (one-hot).
        image_size: the size that places attention: a level of side `image_size / 2**level` has it where that is in
            `attention_resolutions`, whatever the size of the tensor at run time.
        width: channels of the first level.
        multipliers: width of each level, in multiples of `width`; each level after the first halves the side.
        blocks_per_level: residual blocks of a level on the way down (one more on the way up).
        attention_resolutions: sides that get self-attention.
        encoder_blocks: residual blocks of the condition encoder.
        latent: whether z has any influence; without it every scale and shift is a learned constant (ablation).
        latent_size: entries of z.
        latent_width: width of the latent mapping, the source of every scale and shift.
        latent_layers: hidden layers of the latent mapping after the first.
        dropout: dropout probability inside residual blocks (training only).
        tanh: whether tanh closes the network.
    """

    image_channels: int
    label_channels: int
    image_size: int
    width: int = 32
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks_per_level: int = 2
    attention_resolutions: tuple[int, ...] = (16,)
    encoder_blocks: int = 6
    latent_size: int = 50
    latent_width: int = 128
    latent_layers: int = 3
    dropout: float = 0.0
    tanh: bool = True
    latent: bool = True

    def __post_init__(self) -> None:
        counts = {
            "image_channels": self.image_channels,
            "label_channels": self.label_channels,
            "image_size": self.image_size,
            "blocks_per_level": self.blocks_per_level,
            "latent_size": self.latent_size,
            "latent_width": self.latent_width,
        }
        for name, value in counts.items():
            if value < 1:
                raise ModelError(f"{name} is {value}", where="generator config", remedy="give it at least 1")
        for name, value in {"encoder_blocks": self.encoder_blocks, "latent_layers": self.latent_layers}.items():
            if value < 0:
                raise ModelError(f"{name} is {value}", where="generator config", remedy="give it at least 0")
        if not 0 <= self.dropout < 1:
            raise ModelError(f"dropout is {self.dropout}", where="generator config", remedy="give it 0 to below 1")
        if self.width < 4 or self.width % 4:
            raise ModelError(f"width is {self.width}", where="generator config", remedy="use a multiple of 4")
        if not self.multipliers or min(self.multipliers) < 1:
            raise ModelError(
                f"multipliers are {self.multipliers}", where="generator config", remedy="give one at least 1 a level"
            )

    @property
    def divisor(self) -> int:
        """Height and width of every input must be multiples of this."""
        return int(2 ** (len(self.multipliers) - 1))

    def attends(self, level: int) -> bool:
        """Whether the blocks of a level (0 is the finest) are followed by self-attention."""
        return self.image_size // 2**level in self.attention_resolutions
