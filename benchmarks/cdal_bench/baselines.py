"""The supervised baselines: MONAI's U-Net, U-Net++ and residual U-Net in 2-D, behind one interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from cdal_sdk.errors import MissingExtraError, UsageError

__all__ = ["BASELINES", "Baseline", "BaselineName", "baseline_loss", "build_baseline"]

BaselineName = Literal["unet", "unetplusplus", "resunet"]
BASELINES: tuple[BaselineName, ...] = get_args(BaselineName)

_LEVELS = 5
_DIVISOR = 2 ** (_LEVELS - 1)


class Baseline(nn.Module):
    """A network that maps an image of any size straight to a label.

    Args:
        name: of the network.
        network: image [n, channel, h, w] to logits [n, label, h, w], bare or as the only entry of a list.
        label_channels: 1 is binary, more are one-hot classes.
    """

    def __init__(self, name: BaselineName, network: nn.Module, label_channels: int) -> None:
        super().__init__()
        self.name = name
        self.network = network
        self.label_channels = label_channels

    def forward(self, image: Tensor) -> Tensor:
        """Logits [n, label, h, w]; inside, the far edges are repeated until the coarsest level has two whole pixels."""
        height, width = image.shape[2:]
        padding = (0, max(-width % _DIVISOR, 2 * _DIVISOR - width), 0, max(-height % _DIVISOR, 2 * _DIVISOR - height))
        output = self.network(F.pad(image, padding, mode="replicate") if any(padding) else image)
        logits: Tensor = output if isinstance(output, Tensor) else output[0]
        return logits[:, :, :height, :width]

    def label(self, image: Tensor) -> Tensor:
        """The label on the generator's scale, [n, label, h, w] in [-1, 1]: 2 p - 1."""
        logits: Tensor = self(image)
        return (logits / 2).tanh() if self.label_channels == 1 else 2 * logits.softmax(dim=1) - 1


def build_baseline(name: str, image_channels: int, label_channels: int, width: int = 32) -> Baseline:
    """Make a baseline with fresh weights.

    Parameters at the default width for one gray channel and one label: U-Net 7.8 M, U-Net++ 9.1 M, residual U-Net
    6.5 M.

    Args:
        name: one of `BASELINES`.
        image_channels: channels of the image.
        label_channels: 1 is binary, more are one-hot classes.
        width: channels of the first of five levels; each further level doubles them.

    Raises:
        UsageError: if there is no such baseline.
        MissingExtraError: if MONAI is not installed.
    """
    if name not in BASELINES:
        raise UsageError(f"there is no baseline '{name}'", remedy=f"choose one of: {', '.join(BASELINES)}")
    try:
        from monai.networks.nets.basic_unet import BasicUNet
        from monai.networks.nets.basic_unetplusplus import BasicUNetPlusPlus
        from monai.networks.nets.unet import UNet
    except ModuleNotFoundError:
        raise MissingExtraError("monai", "train") from None
    widths = tuple(width * 2**level for level in range(_LEVELS))
    features = (*widths, width)
    makers: dict[str, Callable[[], nn.Module]] = {
        "unet": lambda: BasicUNet(2, image_channels, label_channels, features),
        "unetplusplus": lambda: BasicUNetPlusPlus(2, image_channels, label_channels, features),
        "resunet": lambda: UNet(2, image_channels, label_channels, widths, (2,) * (_LEVELS - 1), num_res_units=2),
    }
    network = makers[name]()
    if name == "unetplusplus":  # heads of its deep supervision, which would be computed and thrown away
        network.final_conv_0_1 = network.final_conv_0_2 = network.final_conv_0_3 = nn.Identity()
    return Baseline(name, network, label_channels)


def baseline_loss(model: Baseline, image: Tensor, x0: Tensor) -> Tensor:
    """Dice loss plus cross entropy (MONAI's DiceCELoss), a scalar.

    Args:
        model: in train mode.
        image: [n, channel, h, w].
        x0: clean label [n, label, h, w] in {-1, 1}, as the generator is trained with.
    """
    from monai.losses.dice import DiceCELoss

    binary = model.label_channels == 1
    loss: Tensor = DiceCELoss(sigmoid=binary, softmax=not binary)(model(image), (x0 + 1) / 2)
    return loss
