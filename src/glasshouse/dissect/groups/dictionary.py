"""What a layer says at each position, in its own words: the units that are most active there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.core import (
    Aim,
    BadInput,
    Images,
    Model,
    Noun,
    PerImage,
    Reading,
    Target,
    borrow,
    geometry,
    in_chunks,
    probe,
    registered,
    resize,
    unit_maps,
)
from glasshouse.core.gradient import gradient
from glasshouse.core.lift import checked_images

CHUNK = 32  # images run together
GAP_PX = 4  # between icons


class Word(NamedTuple):
    """One unit at one position: its activation, the share of all activation there, what it adds to the score."""

    unit: int
    value: float
    share: float
    attribution: float


@dataclass(frozen=True, eq=False, repr=False)
class SemanticDictionary(Noun):
    """The k units that are most active at each position of a layer, the strongest first.

    Args:
        units: their numbers in the layer.
        values: their activation.
        shares: that divided by the sum of the sizes of all activations at the position.
        attribution: value times the derivative of the score by it: what the unit adds there, to first order.
        target: the class whose score it is, one per image; empty where the target was a function or a weighting.
        score: the model's score for that target.
        boxes: pixels that each position sees, as (top, left, bottom, right), the last two exclusive.
        image_size: height and width of the inputs in pixels.
    """

    layer: str
    units: Int[Tensor, "n k i j"]
    values: Float[Tensor, "n k i j"]
    shares: Float[Tensor, "n k i j"]
    attribution: Float[Tensor, "n k i j"]
    target: tuple[int, ...]
    score: PerImage
    boxes: Int[Tensor, "i j 4"]
    image_size: tuple[int, int]
    settings: dict[str, Any]

    def __repr__(self) -> str:
        n, k, i, j = self.units.shape
        return f"SemanticDictionary({self.layer}, {k} units at each of {i}×{j} positions, {n} images)"

    def __len__(self) -> int:
        return len(self.units)

    def at(self, image: int, row: int, column: int) -> tuple[Word, ...]:
        """What the layer says at one position of its grid."""
        n, _, i, j = self.units.shape
        if not (0 <= image < n and 0 <= row < i and 0 <= column < j):
            raise BadInput(
                f"no position ({row}, {column}) of image {image}.", f"There are {n} images of {i}×{j} positions."
            )
        place = (image, slice(None), row, column)
        columns = (part[place].tolist() for part in (self.units, self.values, self.shares, self.attribution))
        return tuple(Word(*entries) for entries in zip(*columns, strict=True))

    def vocabulary(self, places: Sequence[tuple[int, int, int]] | None = None) -> tuple[int, ...]:
        """The units that occur at (image, row, column), or anywhere: those that pictures are wanted of."""
        if places is None:
            return tuple(self.units.unique().tolist())
        return tuple(sorted({word.unit for place in places for word in self.at(*place)}))

    def strip(
        self, place: tuple[int, int, int], icons: Mapping[int, Float[Tensor, "c p p"]], size: int = 64
    ) -> Float[Tensor, "c s w"]:
        """Pictures of the units at (image, row, column) on white: areas are in proportion to their activation.

        Args:
            icons: a picture of each unit in 0…1: its strongest patches, or what was drawn for it.
            size: side of the largest in pixels.
        """
        words = self.at(*place)
        if missing := [word.unit for word in words if word.unit not in icons]:
            raise BadInput(f"there is no icon of unit {missing[0]}.", "Make one of each in `vocabulary([place])`.")
        most, cells = max(word.value for word in words), list[Tensor]()
        for word in words:
            icon, side = icons[word.unit], round(size * (max(word.value, 0) / most) ** 0.5) if most > 0 else 0
            cell, edge = torch.ones(len(icon), size, size + GAP_PX), (size - side) // 2
            if side:
                cell[:, edge : edge + side, edge : edge + side] = resize(icon[None].float().cpu(), (side, side))[0]
            cells.append(cell)
        return torch.cat(cells, 2)[:, :, :-GAP_PX]


@registered(
    "dissect",
    paper="Olah et al., Distill 2018",
    warning="a unit's place in the list says how active it is, not how much it matters; read the attribution too.",
    example={"k": 3},
)
def semantic_dictionary(
    model: Model | nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    layer: str | None = None,
    k: int = 5,
    score: Reading = "logit",
) -> SemanticDictionary:
    """At each position of each image the k units that are most active, and what each adds to a class score.

        value A_u,ij      share A_u,ij / sum_v |A_v,ij|      attribution A_u,ij dy / dA_u,ij

    Olah et al., "The building blocks of interpretability", Distill 2018. Put beside pictures of the units, such as
    their strongest patches or what is drawn for them, it reads like a dictionary. Equal activations are ordered by
    unit.

    Args:
        layer: None takes the last one with positions.
        k: all units of the layer where it has fewer.
    """
    images, aim = checked_images(inputs), Aim.of(target)
    if k < 1:
        raise BadInput(f"k={k} units at each position.", "Ask for 1 or more.")
    if layer is None:
        with borrow(model, images) as network:
            layer = geometry(network, images).usual()
    with borrow(model, images, [layer]) as network:
        place = unit_maps(network, images, layer)

        def look(rows: Int[Tensor, " r"]) -> tuple[Aim, Tensor, Tensor, Tensor, Tensor]:
            part = aim.part(rows) if len(rows) < len(images) else aim
            with probe(network, layer) as seen:
                reading = part.read(network(images[rows].detach().requires_grad_()), score)
            maps, slopes = (place.maps(value) for value in (seen[layer], gradient(reading, seen[layer])))
            return part, *strongest(maps.detach(), slopes, k)

        parts = [found for _, found in in_chunks(look, len(images), CHUNK, images.device)]
    aims, *columns = zip(*parts, strict=True)
    if len(parts) > 1:
        aim.join(aims)
    units, values, shares, attribution = (torch.cat(column).cpu() for column in columns)
    assert aim.clean is not None
    i, j = place.grid
    return SemanticDictionary(
        layer,
        units,
        values,
        shares,
        attribution,
        target=tuple(aim.indices.tolist()) if aim.indices is not None else (),
        score=aim.clean.cpu(),
        boxes=rearrange(place.boxes(torch.arange(i * j)), "(i j) sides -> i j sides", i=i),
        image_size=place.image,
        settings={"k": k, "score": score},
    )


def strongest(
    maps: Float[Tensor, "n u i j"], slopes: Float[Tensor, "n u i j"], k: int
) -> tuple[Int[Tensor, "n k i j"], Float[Tensor, "n k i j"], Float[Tensor, "n k i j"], Float[Tensor, "n k i j"]]:
    """Numbers, values, shares and attributions of the k largest units at each position."""
    order = maps.argsort(dim=1, descending=True, stable=True)[:, :k]
    values, slope = maps.gather(1, order), slopes.gather(1, order)
    whole = maps.abs().sum(1, keepdim=True)
    return order, values, values / whole.clamp(min=torch.finfo(maps.dtype).tiny), values * slope
