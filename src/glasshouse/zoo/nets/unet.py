"""A tiny U-Net that names the part at every pixel.

Ronneberger, Fischer and Brox, "U-Net", MICCAI 2015, with padded convolutions, batch norm and two levels.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from glasshouse.core.types import Images


class UNet(nn.Module):
    """Down twice, up twice, with what was seen at each size handed across. 94,000 weights at width 16.

    Args:
        width: channels at full size; twice and three times as many at the levels below.
    """

    def __init__(self, n_classes: int, *, n_channels: int = 3, width: int = 16):
        super().__init__()
        self.down1 = pair(n_channels, width)
        self.down2 = pair(width, 2 * width)
        self.pool = nn.MaxPool2d(2)
        self.bottom = pair(2 * width, 3 * width)
        self.up2 = pair(5 * width, 2 * width)
        self.up1 = pair(3 * width, width)
        self.head = nn.Conv2d(width, n_classes, 1)

    def forward(self, images: Images) -> Float[Tensor, "n k h w"]:
        fine = self.down1(images)
        middle = self.down2(self.pool(fine))
        coarse = self.bottom(self.pool(middle))
        middle = self.up2(_beside(middle, coarse))
        return self.head(self.up1(_beside(fine, middle)))


def pair(n_in: int, n_out: int) -> nn.Sequential:
    """Twice convolution, batch norm, ReLU."""
    parts: list[tuple[str, nn.Module]] = []
    for i, n in enumerate((n_in, n_out), 1):
        parts.append((f"conv{i}", nn.Conv2d(n, n_out, 3, 1, 1, bias=False)))
        parts.append((f"norm{i}", nn.BatchNorm2d(n_out)))
        parts.append((f"relu{i}", nn.ReLU()))
    return nn.Sequential(OrderedDict(parts))


def _beside(fine: Tensor, coarse: Tensor) -> Tensor:
    return torch.cat([fine, F.interpolate(coarse, size=fine.shape[-2:], mode="nearest")], 1)
