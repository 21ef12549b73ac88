"""Small residual networks for images of 28 to 256 px: a classifier, and a regressor of the factors of a scene.

He, Zhang, Ren and Sun, "Deep residual learning", CVPR 2016, with few, wide blocks: the layers that people look into
have 128 units on a fine grid, and every ReLU is a module of its own, so that each can be read and edited by name.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glasshouse.core.types import Images, Logits

STEM = 32
STAGES = (
    # channels, stride
    (64, 2),
    (128, 1),
    (128, 2),
)
GRID = 4  # of the regressor, which has to know where things are


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut: `relu(norm2(conv2(relu(norm1(conv1(x))))) + shortcut(x))`."""

    def __init__(self, n_in: int, n_out: int, *, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(n_out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(n_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or n_in != n_out:
            parts = {"conv": nn.Conv2d(n_in, n_out, 1, stride, bias=False), "norm": nn.BatchNorm2d(n_out)}
            self.shortcut = nn.Sequential(OrderedDict(parts))
        self.relu2 = nn.ReLU()

    def forward(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        inner = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(maps)))))
        return self.relu2(inner + self.shortcut(maps))


class ResidualNet(nn.Module):
    """Stem, three stages of residual blocks, mean over positions, linear classifier.

    With 3 channels and 64 px the second stage has 128 units on a grid of 16 × 16. 0.6 M weights.

    Args:
        width: multiplies the channels of every layer.
        repeats: blocks per stage.
        stem_stride: 1 keeps small images (28 px) at twice the grid, for four times the work.
    """

    def __init__(
        self,
        n_classes: int,
        *,
        n_channels: int = 3,
        width: float | int = 1.0,
        repeats: Sequence[int] = (1, 1, 1),
        stem_stride: int = 2,
    ):
        super().__init__()
        self.stem, self.stages, n_last = _trunk(n_channels, width, repeats, stem_stride)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(n_last, n_classes)

    def forward(self, images: Images) -> Logits:
        return self.head(self.flatten(self.pool(self.stages(self.stem(images)))))


class FactorNet(nn.Module):
    """A residual trunk, pooled to 4 × 4 as positions matter, with a linear head per factor of a scene.

    The outputs of all heads stand side by side, `n k`; `split` tells them apart.

    Args:
        heads: per factor, how many values it can take, or 1 for a number.
    """

    def __init__(self, heads: Mapping[str, int], *, width: float | int = 0.5, repeats: Sequence[int] = (1, 1, 1)):
        super().__init__()
        self.stem, self.stages, n_last = _trunk(3, width, repeats, 2)
        self.pool = nn.AdaptiveAvgPool2d(GRID)
        self.flatten = nn.Flatten()
        self.heads = nn.ModuleDict({name: nn.Linear(n_last * GRID**2, size) for name, size in heads.items()})
        self.sizes = dict(heads)

    def forward(self, images: Images) -> Logits:
        seen = self.flatten(self.pool(self.stages(self.stem(images))))
        return torch.cat([head(seen) for head in self.heads.values()], 1)

    def split(self, outputs: Logits) -> dict[str, Float[Tensor, "n _"]]:
        """Per factor its share of the outputs: logits of its values, or one number."""
        parts = outputs.split(list(self.sizes.values()), 1)
        return dict(zip(self.sizes, parts, strict=True))


def _trunk(
    n_channels: int, width: float | int, repeats: Sequence[int], stem_stride: int
) -> tuple[nn.Sequential, nn.Sequential, int]:
    n_in = round(STEM * width)
    stem = nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(n_channels, n_in, 3, stem_stride, 1, bias=False), norm=nn.BatchNorm2d(n_in), relu=nn.ReLU()
        )
    )
    stages: list[nn.Module] = []
    for (channels, stride), n_blocks in zip(STAGES, repeats, strict=True):
        n_out = round(channels * width)
        blocks = [ResidualBlock(n_in, n_out, stride=stride)]
        blocks += [ResidualBlock(n_out, n_out) for _ in range(n_blocks - 1)]
        stages.append(nn.Sequential(*blocks))
        n_in = n_out
    return stem, nn.Sequential(*stages), n_in
