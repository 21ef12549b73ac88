"""Glass models: classifiers whose weights are set by hand, so that what decides is known and not estimated.

What is true of an image is told as a game. Its players are `regions`, disjoint sets of pixels, and `worth` is the
closed form of the class scores when some regions are kept and every other pixel is black:

    model(images · union of the kept regions) = worth(images, kept)        for every choice of regions

With all of them kept this is the score of the whole image. What a region does when it is removed, and its Shapley
value, follow exactly.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from glasshouse.core.model import Model, Preprocess
from glasshouse.core.types import Images, Masks

Regions: TypeAlias = Callable[[Tensor], Tensor]
"""From images `n c h w` to disjoint masks `n r h w`."""

Worth: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""From images and the regions kept in each, `bool n r`, to scores `n c`."""


@dataclass(frozen=True)
class Truth:
    """What is true inside a glass model.

    Args:
        formula: of the class scores, in plain text.
        region_names: what each region is.
        regions: where each region lies in given images. Outside all of them the score's gradient is 0, and black
            pixels there leave the score as it is.
        worth: class scores when only some regions are kept.
        reads: for each layer, `bool c k`: whether the score of class c depends on unit k. Units that a class does
            not read can take any value without changing its score by a bit (ahead of a rotated layer, by more than
            rounding). `name.input` stands for what a layer is given: that of the first one, for image channels.
        concept_names, directions: concepts that a layer carries, and the unit vectors, `m k`, along which it does:
            the product of direction and units is the concept's own map.
    """

    formula: str
    region_names: tuple[str, ...]
    regions: Regions
    worth: Worth
    reads: dict[str, Tensor]
    concept_names: tuple[str, ...] = ()
    directions: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    @property
    def units(self) -> dict[str, tuple[int, ...]]:
        """For each layer, the units that some class reads."""
        return {layer: numbers(read.any(0)) for layer, read in self.reads.items()}

    @property
    def idle(self) -> dict[str, tuple[int, ...]]:
        """For each layer, the units without any influence."""
        return {layer: numbers(~read.any(0)) for layer, read in self.reads.items()}

    def pixels(self, images: Images) -> Masks:
        """The pixels that the scores come from: all regions together."""
        return self.regions(images).any(1)

    def keep(self, images: Images, kept: Bool[Tensor, "n r"]) -> Images:
        """The images with everything black but the regions kept."""
        shown = (self.regions(images) & kept[:, :, None, None]).any(1)
        return images * shown[:, None]

    def scores(self, images: Images) -> Float[Tensor, "n k"]:
        """Class scores by formula."""
        return self.worth(images, self._everything(images))

    def removal(self, images: Images) -> Float[Tensor, "n r k"]:
        """How much each class score falls when a region turns black."""
        whole, everything = self.scores(images), self._everything(images)
        without = [
            self.worth(images, everything.index_fill(1, torch.tensor([i], device=images.device), False))
            for i in range(len(self.region_names))
        ]
        return torch.stack([whole - rest for rest in without], 1)

    def shapley(self, images: Images) -> Float[Tensor, "n r k"]:
        """Shapley value of each region for each class; they sum to the score less that of a black image.

            φ_i = Σ_S |S|! (r - |S| - 1)! / r! · (v(S ∪ i) - v(S))      over the sets S without i

        Shapley, "A value for n-person games", 1953. Takes 2^r values of `worth`.
        """
        r = len(self.region_names)
        chances = [1 / (r * math.comb(r - 1, size)) for size in range(r)]
        value = torch.zeros(0)
        for kept in product((False, True), repeat=r):
            size = sum(kept)
            worth = self.worth(images, torch.tensor(kept, device=images.device).expand(len(images), r))
            share = worth.new_tensor([chances[size - 1] if inside else -chances[size % r] for inside in kept])
            part = share[:, None] * worth[:, None]
            value = part if not len(value) else value + part
        return value

    def _everything(self, images: Tensor) -> Tensor:
        return torch.ones(len(images), len(self.region_names), dtype=torch.bool, device=images.device)


@dataclass(frozen=True, kw_only=True, repr=False)
class Glass(Model):
    """A model together with what is true inside it. Takes pixels 0…1 as they are."""

    truth: Truth

    def __repr__(self) -> str:
        return f"Glass({self.name}: {', '.join(self.class_names)})"


def glass(
    name: str, module: nn.Module, class_names: Sequence[str], truth: Truth, size: tuple[int, int] = (64, 64)
) -> Glass:
    """A module in evaluation mode, its weights not learnable, and its truth."""
    plain = Preprocess(size=size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    module.eval().requires_grad_(False)
    return Glass(module, plain, tuple(class_names), name, {"weights": "set by hand"}, truth=truth)


def chain(layers: Mapping[str, nn.Module]) -> nn.Sequential:
    """Layers one after the other, under the names given."""
    return nn.Sequential(OrderedDict(layers))


def point_conv(weight: Float[Tensor, "o k"], bias: Float[Tensor, " o"] | None = None) -> nn.Conv2d:
    """A 1×1 convolution with the weights given."""
    return conv(weight[:, :, None, None], bias)


def conv(weight: Float[Tensor, "o k i j"], bias: Float[Tensor, " o"] | None = None) -> nn.Conv2d:
    """A convolution without padding, with the weights given."""
    n_out, n_in, *kernel = weight.shape
    layer = nn.Conv2d(n_in, n_out, (kernel[0], kernel[1]), bias=bias is not None)
    set_weights(layer, weight, bias)
    return layer


def linear(weight: Float[Tensor, "o k"], bias: Float[Tensor, " o"] | None = None) -> nn.Linear:
    """A linear layer with the weights given."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    set_weights(layer, weight, bias)
    return layer


def set_weights(layer: nn.Conv2d | nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    """Give a layer its weights."""
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None and layer.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
            layer.bias.copy_(bias)


def numbers(chosen: Bool[Tensor, " k"]) -> tuple[int, ...]:
    """The places that are true."""
    return tuple(chosen.nonzero()[:, 0].tolist())


def random_rotation(n: int, seed: int = 0) -> Float[Tensor, "n n"]:
    """An orthogonal matrix, drawn evenly among all of them (float64)."""
    drawn = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    q, r = torch.linalg.qr(drawn)
    return q * r.diagonal().sign()
