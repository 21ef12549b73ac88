"""Two small generators: one whose layers follow each other plainly, and one steered by styles.

`ConvGenerator`: Radford et al., "DCGAN", ICLR 2016. `StyleGenerator`: Karras et al., "StyleGAN2", CVPR 2020.
Each layer's output, after its activation, is the output of one module, so that units can be read and edited there.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from glasshouse.core.generative import GeneratorSpec, LayerInfo, Space, StyleAffine
from glasshouse.core.types import Images, Units

FIRST_GRID = 4


class PixelNorm(nn.Module):
    """Divides by the root mean square over units: at each position, or of a vector (Karras et al., ICLR 2018)."""

    def forward(self, values: Float[Tensor, "n k ..."]) -> Float[Tensor, "n k ..."]:
        return values * torch.rsqrt(values.square().mean(1, keepdim=True) + 1e-8)


def twice(maps: Units, weight: Float[Tensor, "o k 3 3"]) -> Float[Tensor, "n o i2 j2"]:
    """Twice the grid by repeating each value, then a 3×3 convolution: one transposed convolution, at 4/9 of the cost.

    Each output meets the same input through up to two taps a side, whose weights are added up beforehand.
    """
    kernel = F.avg_pool2d(F.pad(weight.flip(2, 3), (1, 1, 1, 1)), 2, stride=1) * 4
    return F.conv_transpose2d(maps, kernel.transpose(0, 1), stride=2, padding=1)


class UpConv(nn.Module):
    """Nearest neighbours to twice the grid, then a 3×3 convolution without bias."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in, 3, 3) / math.sqrt(9 * n_in))

    def forward(self, maps: Units) -> Float[Tensor, "n o i2 j2"]:
        return twice(maps, self.weight)


def up_block(n_in: int, n_out: int) -> nn.Sequential:
    """Twice the grid: convolution, batch norm, ReLU. Its output is the activation of `n_out` units."""
    parts = OrderedDict[str, nn.Module](conv=UpConv(n_in, n_out), norm=nn.BatchNorm2d(n_out), act=nn.ReLU())
    return nn.Sequential(parts)


class ConvGenerator(nn.Module):
    """z → 4×4 → 8×8 → …, each layer a convolution, batch norm and ReLU; then a convolution to RGB and tanh.

    Args:
        units: of each layer; the image has `4 · 2^(layers - 1)` pixels a side.
    """

    def __init__(self, z_dim: int = 32, units: Sequence[int] = (128, 128, 128, 32)):
        super().__init__()
        first = OrderedDict[str, nn.Module](
            linear=nn.Linear(z_dim, units[0] * FIRST_GRID**2, bias=False),
            grid=nn.Unflatten(1, (units[0], FIRST_GRID, FIRST_GRID)),
            norm=nn.BatchNorm2d(units[0]),
            act=nn.ReLU(),
        )
        blocks = [up_block(n_in, n_out) for n_in, n_out in pairwise(units)]
        self.layers = nn.Sequential(nn.Sequential(first), *blocks)
        self.rgb = nn.Conv2d(units[-1], 3, 3, padding=1)
        sides = [FIRST_GRID * 2**i for i in range(len(units))]
        infos = [
            LayerInfo(f"layers.{i}", n, (side, side)) for i, (n, side) in enumerate(zip(units, sides, strict=True))
        ]
        self.spec = GeneratorSpec(("z",), z_dim, sides[-1], tuple(infos))

    def forward(self, z: Float[Tensor, "n d"]) -> Images:
        return torch.tanh(self.rgb(self.layers(z)))

    def draw(self, data: Float[Tensor, "n d"]) -> Images:
        return self(data)


class StyledConv(nn.Module):
    """Convolution whose inputs are scaled by a style and whose outputs are scaled back to unit variance.

    y_o = conv(s · x)_o / sqrt(sum_ick (s_i w_oik)^2) + b_o, then leaky ReLU (Karras et al., CVPR 2020, eqs. 1-3).
    Scaling the maps equals scaling the weights per image, which the paper does in grouped convolutions.

    Args:
        up: the grid is doubled before, by repeating each value.
    """

    def __init__(self, n_in: int, n_out: int, w_dim: int, *, up: bool = False):
        super().__init__()
        self.up = up
        self.affine = nn.Linear(w_dim, n_in)
        self.weight = nn.Parameter(torch.randn(n_out, n_in, 3, 3) / math.sqrt(9 * n_in))
        self.bias = nn.Parameter(torch.zeros(n_out))
        start_affine(self.affine)

    def forward(self, maps: Units, style: Float[Tensor, "n k"]) -> Float[Tensor, "n o i2 j2"]:
        scaled = maps * style[:, :, None, None]
        out = twice(scaled, self.weight) if self.up else F.conv2d(scaled, self.weight, padding=1)
        gain = torch.rsqrt(style.square() @ self.weight.square().sum((2, 3)).T + 1e-8)
        return F.leaky_relu(out * gain[:, :, None, None] + self.bias[:, None, None], 0.2) * math.sqrt(2)


class StyledRGB(nn.Module):
    """A 1×1 convolution to RGB, its inputs scaled by a style, its outputs not scaled back."""

    def __init__(self, n_in: int, w_dim: int):
        super().__init__()
        self.affine = nn.Linear(w_dim, n_in)
        self.weight = nn.Parameter(torch.randn(3, n_in, 1, 1) / math.sqrt(n_in))
        self.bias = nn.Parameter(torch.zeros(3))
        start_affine(self.affine)

    def forward(self, maps: Units, style: Float[Tensor, "n k"]) -> Images:
        return F.conv2d(maps * style[:, :, None, None], self.weight, self.bias)


def start_affine(affine: nn.Linear) -> None:
    """Styles start around 1."""
    with torch.no_grad():
        affine.weight.normal_(std=1 / math.sqrt(affine.in_features))
        affine.bias.fill_(1)


class StyleGenerator(nn.Module):
    """z → mapping → w, whose slices, through one affine map per layer, scale what the layers read.

    Each resolution has two layers (the first has one, on a learnt constant) and adds its RGB to the picture so far.
    The RGB of a resolution shares its slice of w with the first layer of the next, as in the official code.
    Differs: no noise inputs; grids are doubled by repeating values, where the paper also blurs.

    Args:
        units: of both layers at 4×4, 8×8, ….
    """

    w_mean: Tensor

    def __init__(
        self, z_dim: int = 64, w_dim: int = 128, units: Sequence[int] = (128, 128, 128, 32), mapping_layers: int = 4
    ):
        super().__init__()
        parts: list[nn.Module] = [PixelNorm()]
        for i in range(mapping_layers):
            parts += [nn.Linear(z_dim if i == 0 else w_dim, w_dim), nn.LeakyReLU(0.2)]
        self.mapping = nn.Sequential(*parts)
        for module in self.mapping:
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, 0.2)
                nn.init.zeros_(module.bias)
        self.constant = nn.Parameter(torch.randn(1, units[0], FIRST_GRID, FIRST_GRID))
        layers, infos, slices = [StyledConv(units[0], units[0], w_dim)], list[LayerInfo](), [0]
        for i, (n_in, n_out) in enumerate(pairwise(units)):
            layers += [StyledConv(n_in, n_out, w_dim, up=True), StyledConv(n_out, n_out, w_dim)]
            slices += [2 * i + 1, 2 * i + 2]
        self.layers = nn.ModuleList(layers)
        self.rgb = nn.ModuleList(StyledRGB(n, w_dim) for n in units)
        self.register_buffer("w_mean", torch.zeros(w_dim))
        for i, layer in enumerate(layers):
            side = FIRST_GRID * 2 ** ((i + 1) // 2)
            infos.append(LayerInfo(f"layers.{i}", len(layer.bias), (side, side), slices[i]))
        n_styles = sum(affine.out_features for _, _, affine in self.affines())
        self.spec = GeneratorSpec(
            ("z", "w", "wplus", "style"),
            z_dim,
            FIRST_GRID * 2 ** (len(units) - 1),
            tuple(infos),
            w_dim=w_dim,
            n_w=2 * len(units),
            n_styles=n_styles,
        )

    def affines(self) -> list[tuple[str, int, nn.Linear]]:
        """Name of the module, slice of w and affine map, in the order of the synthesis."""
        found = list[tuple[str, int, nn.Linear]]()
        for i, layer in enumerate(self.layers):
            found.append((f"layers.{i}", i, layer.affine))  # pyright: ignore[reportArgumentType]
            if i % 2 == 0:
                found.append((f"rgb.{i // 2}", i + 1, self.rgb[i // 2].affine))  # pyright: ignore[reportArgumentType]
        return found

    def forward(self, z: Float[Tensor, "n d"]) -> Images:
        for space in self.spec.spaces[:-1]:
            z = self.advance(z, space)
        return self.draw(z)

    def advance(self, data: Tensor, space: Space) -> Tensor:
        if space == "z":
            return self.mapping(data)
        if space == "w":
            return data[:, None].expand(-1, self.spec.n_w, -1)
        return torch.cat([affine(data[:, index]) for _, index, affine in self.affines()], 1)

    def draw(self, data: Float[Tensor, "n s"]) -> Images:
        styles = iter(data.split([affine.out_features for _, _, affine in self.affines()], 1))
        maps, image = self.constant.expand(len(data), -1, -1, -1), None
        for i, layer in enumerate(self.layers):
            maps = layer(maps, next(styles))
            if i % 2 == 0:
                rgb = self.rgb[i // 2](maps, next(styles))
                image = rgb if image is None else rgb + F.interpolate(image, scale_factor=2, mode="bilinear")
        assert image is not None
        return torch.tanh(image)

    def style_affines(self) -> tuple[StyleAffine, ...]:
        found, column = list[StyleAffine](), 0
        for name, index, affine in self.affines():
            columns = column, column + affine.out_features
            found.append(StyleAffine(name, index, columns, affine.weight.detach(), affine.bias.detach()))
            column = columns[1]
        return tuple(found)


class Discriminator(nn.Module):
    """Image → one logit: strided convolutions and leaky ReLU down to 4×4, the batch's spread, then a linear layer.

    Args:
        units: at the image's resolution, half of it, …, 4×4.
    """

    def __init__(self, units: Sequence[int] = (32, 64, 128, 128)):
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(3, units[0], 3, padding=1), nn.LeakyReLU(0.2)]
        for n_in, n_out in pairwise(units):
            parts += [nn.Conv2d(n_in, n_out, 4, 2, 1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*parts)
        self.mix = nn.Conv2d(units[-1] + 1, units[-1], 3, padding=1)
        self.head = nn.Linear(units[-1] * FIRST_GRID**2, 1)

    def forward(self, images: Images) -> Float[Tensor, " n"]:
        maps = self.layers(images)
        maps = F.leaky_relu(self.mix(torch.cat([maps, batch_spread(maps)], 1)), 0.2)
        return self.head(maps.flatten(1))[:, 0]


def batch_spread(maps: Units, group: int = 4) -> Float[Tensor, "n 1 i j"]:
    """One map: the mean standard deviation within groups of images, which shows collapse (Karras et al., ICLR 2018)."""
    group = group if len(maps) % group == 0 else len(maps)
    spread = (maps.unflatten(0, (-1, group)).var(1, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
    return spread.repeat_interleave(group)[:, None, None, None].expand(-1, 1, *maps.shape[2:])
