"""Inverters: up-convolutional networks that draw, from the features of a layer, the image they came from."""

import math
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.core import BadInput, Images, Model, Noun, PerImage, Preprocess, Units, borrow, generator
from glasshouse.core.activations import Edit
from glasshouse.core.lift import checked_images, module_of
from glasshouse.core.shards import Data
from glasshouse.visualize.inversion import pair_distance, pixels_of, reader

SLOPE = 0.2  # of leaky ReLUs below 0
SMALLEST = (4, 4)  # grid that features without positions are put on
THINNEST = 16
PAIRED = 256  # images whose distances from each other are measured


class Decoder(nn.Module):
    """From features `n k i j` to pixels: two layers on the grid, then resize and convolve until the image is full size.

    Each doubling of the sides halves the number of channels. Features without positions go through two linear
    layers instead. Features are first brought to mean 0 and variance 1, by what `begin` has seen.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, units: int, grid: tuple[int, int], shape: tuple[int, int, int], width: int):
        super().__init__()
        self.sizes = stairs(grid, shape[1:])
        widths = [max(width >> step, THINNEST) for step in range(len(self.sizes))]
        self.base = (width, *self.sizes[0])
        stem: list[nn.Module] = [convolution(units, width), convolution(width, width)]
        if grid == (1, 1):
            stem = [nn.Flatten(), nn.Linear(units, 8 * width), nn.Linear(8 * width, math.prod(self.base))]
        self.stem = nn.ModuleList(stem)
        self.steps = nn.ModuleList(convolution(*pair) for pair in pairwise(widths))
        self.last = convolution(widths[-1], shape[0])
        self.register_buffer("centre", torch.zeros(units))
        self.register_buffer("scale", torch.ones(units))

    def forward(self, maps: Units) -> Images:
        x = (maps - self.centre[:, None, None]) / self.scale[:, None, None]
        for layer in self.stem:
            x = layer(x) if isinstance(layer, nn.Flatten) else F.leaky_relu(layer(x), SLOPE)
        x = x.unflatten(1, self.base) if x.ndim == 2 else enlarge(x, self.sizes[0])
        for size, layer in zip(self.sizes[1:], self.steps, strict=True):
            x = F.leaky_relu(layer(enlarge(x, size)), SLOPE)
        return self.last(x)

    @torch.no_grad()
    def begin(self, maps: Units, pixels: Images, seed: int) -> "Decoder":
        """First weights (He et al., ICCV 2015), suited to these features; first drawings are near the mean image."""
        draws = generator(seed)
        for weight in self.parameters():
            if weight.ndim == 1:
                weight.zero_()
            else:
                fresh = torch.empty(weight.shape)
                weight.copy_(nn.init.kaiming_normal_(fresh, SLOPE, generator=draws))
        assert self.last.bias is not None
        self.last.bias.copy_(pixels.mean((0, 2, 3)))
        self.last.weight.mul_(0.1)
        spread = maps.std((0, 2, 3), correction=0)
        self.centre.copy_(maps.mean((0, 2, 3)))
        self.scale.copy_(torch.where(spread > 0, spread, 1))
        return self


@dataclass(frozen=True, eq=False, repr=False)
class Inverter(Noun):
    """A trained decoder of one layer, and how well it draws images that it was not trained on.

    Args:
        units, grid: of the layer.
        shape: channels, height and width of the images.
        width: channels of the decoder on the layer's grid.
        weights: of the decoder, by name.
        loss: mean squared error of pixels at each step of the training.
        squares: mean squared error of pixels for each image that `measured` was given; None before.
        spread: mean distance of two of these images, as the root of a mean square over pixels.
    """

    layer: str
    units: int
    grid: tuple[int, int]
    shape: tuple[int, int, int]
    width: int
    weights: dict[str, Tensor]
    loss: Float[Tensor, " t"]
    squares: PerImage | None = None
    spread: float = math.nan
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    provenance: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        c, h, w = self.shape
        told = f"loss {self.loss[-1]:.3g} after {len(self.loss)} steps"
        if self.squares is not None:
            told = f"error {float(self.error.mean()):.3f} on {len(self.squares)} images, {told}"
        return f"Inverter({self.layer}, {self.units} units on {self.grid[0]}×{self.grid[1]} to {c}×{h}×{w}, {told})"

    def reconstruct(self, maps: Units) -> Images:
        """Pixels (0…1) that features of the layer stand for, on average over all images that have them."""
        if tuple(maps.shape[1:]) != (self.units, *self.grid):
            raise BadInput(
                f"features of shape {tuple(maps.shape)} for an inverter of {self.units} units on {self.grid}.",
                f"Pass `n k i j` of layer '{self.layer}', as inverter.maps(model, inputs) gives them.",
            )
        net = decoder(self.units, self.grid, self.shape, self.width, maps.device)
        net.load_state_dict(self.weights)
        with torch.inference_mode(False), torch.no_grad():
            return net(maps.detach().clone().float()).clamp(0, 1)

    def maps(self, model: Model | nn.Module, inputs: Images) -> Units:
        """Features of the layer, to be changed and then drawn by `reconstruct`."""
        images = checked_images(inputs)
        with borrow(model, images, [self.layer]) as network, torch.no_grad():
            images = images.detach().clone()
            return reader(network, images, self.layer)(images)

    def through(self, model: Model | nn.Module, inputs: Images, change: Edit | None = None) -> Images:
        """What is left of images behind the layer, as pixels.

        Args:
            change: rewrites the features `n k i j` first: `core.ablate([3])`, `only([3])`, `permuted()`.
        """
        maps = self.maps(model, inputs)
        return self.reconstruct(maps if change is None else change(maps))

    def measured(
        self,
        model: Model | nn.Module,
        data: Data,
        *,
        batch_size: int = 64,
        seed: int = 0,
        preprocess: Preprocess | None = None,
    ) -> "Inverter":
        """The same inverter with its errors on other images, such as held-out ones.

        Args:
            seed: of the at most 256 images whose distances from each other give the error's unit.
        """
        sample = set(torch.randperm(len(data), generator=generator(seed))[:PAIRED].tolist())
        squares: list[Tensor] = []
        chosen: list[Tensor] = []
        for rows in torch.arange(len(data)).split(batch_size):
            inputs = stacked(data, rows).to(device_of(model))
            pixels = pixels_of(inputs, preprocess or preprocess_of(model)).float()
            squares.append((self.through(model, inputs) - pixels).square().mean((1, 2, 3)).cpu())
            chosen += [pixels[place].cpu() for place, row in enumerate(rows.tolist()) if row in sample]
        spread = float(pair_distance(torch.stack(chosen))) / math.sqrt(math.prod(self.shape))
        return replace(self, squares=torch.cat(squares), spread=spread)

    @property
    def error(self) -> PerImage:
        """Distance from the image over the mean distance of two images, for each of those measured.

        The normalised reconstruction error of Dosovitskiy and Brox, CVPR 2016, sec. 3.
        """
        return self._measured.sqrt() / self.spread

    @property
    def psnr(self) -> PerImage:
        """Peak signal-to-noise ratio in dB, `-10 log10` of the mean squared error, for each image measured."""
        return -10 * self._measured.log10()

    @property
    def _measured(self) -> PerImage:
        if self.squares is None:
            raise BadInput("this inverter's error has not been measured.", "Call inverter.measured(model, others).")
        return self.squares


def convolution(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def enlarge(maps: Units, size: tuple[int, int]) -> Float[Tensor, "n k ..."]:
    """Bilinear: unlike a transposed convolution, it treats all pixels alike and leaves no checkerboard."""
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def stairs(grid: tuple[int, int], size: tuple[int, int]) -> list[tuple[int, int]]:
    """Sizes from the layer's grid to the image, each about twice the one before."""
    sizes, least = [size], SMALLEST if grid == (1, 1) else grid
    while sizes[0] != (half := ((sizes[0][0] + 1) // 2, (sizes[0][1] + 1) // 2)):
        if half[0] < least[0] or half[1] < least[1]:
            break
        sizes.insert(0, half)
    return sizes


def decoder(
    units: int,
    grid: tuple[int, int],
    shape: tuple[int, int, int],
    width: int,
    device: torch.device | str,
) -> Decoder:
    """A decoder whose weights are still to come, made without a random number."""
    with torch.device("meta"):
        net = Decoder(units, grid, shape, width)
    return net.to_empty(device=device)


def stacked(data: Data, rows: Int[Tensor, " r"]) -> Images:
    """Some images of a data set, whose items are an image, a tuple that starts with one, or have it under `image`."""
    found: list[Tensor] = []
    for row in rows.tolist():
        item = data[row]
        image: Any = item[0] if isinstance(item, tuple | list) else item
        image = image.get("image") if isinstance(image, dict) else image
        if not isinstance(image, Tensor) or (found and image.shape != found[0].shape):
            seen = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise BadInput(
                f"item {row} of the data set holds {seen} where an image `c h w` like the others is due.",
                "Give tensors, tuples that start with one, or dictionaries with one under 'image', all of one size.",
            )
        found.append(image)
    return checked_images(torch.stack(found))


def preprocess_of(model: Model | nn.Module) -> Preprocess | None:
    return model.preprocessing if isinstance(model, Model) else None


def device_of(model: Model | nn.Module) -> torch.device:
    return next((weight.device for weight in module_of(model).parameters()), torch.device("cpu"))
