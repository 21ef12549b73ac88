"""Does a filter stay on one part? How much its distance to the part varies from image to image."""

from dataclasses import dataclass, field
from math import hypot, nan
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.core import BadInput, Noun, Units, generator
from glasshouse.evaluate.inside.peaks import Place, Size, centres, checked_size, own_images, peaks, strongest


@dataclass(frozen=True, repr=False)
class Instability(Noun):
    """How much the distance of f filters to k landmarks varies, as a share of the image's diagonal: lower is better.

    Args:
        table: standard deviation of the distance, by filter and landmark; NaN with fewer than two images.
        chance: the same for peaks anywhere, each position as likely as the others, on the same images.
        shuffled: the same for the filter's own peaks, each put into another image. What is below `chance` here comes
            from where the filter and the objects usually are, not from following the part.
        dead: filters that are flat in every image: they have no peak, and are left out.
        n_images: that each number comes from.
    """

    table: Float[Tensor, "f k"]
    chance: Float[Tensor, "f k"]
    shuffled: Float[Tensor, "f k"]
    dead: Bool[Tensor, " f"]
    n_images: Int[Tensor, "f k"]
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        return (
            f"Instability({self.value:.3f} ± {self.stderr:.3f}, chance {self.chance_value:.3f}, shuffled "
            f"{self.shuffled_value:.3f}, {int((~self.dead).sum())} filters, {self.n_dead} dead, lower is better)"
        )

    @property
    def per_filter(self) -> Float[Tensor, " f"]:
        """Mean over the landmarks that have a number."""
        return self.table.nanmean(1)

    @property
    def value(self) -> float:
        """Mean over landmarks, then over filters."""
        return float(self.per_filter.nanmean())

    @property
    def stderr(self) -> float:
        """Standard error of `value` over filters, taken as independent."""
        known = self.per_filter[self.per_filter.isfinite()]
        return float(known.std() / len(known) ** 0.5) if len(known) > 1 else nan

    @property
    def chance_value(self) -> float:
        """What `value` would be for peaks anywhere."""
        return float(self.chance.nanmean(1).nanmean())

    @property
    def shuffled_value(self) -> float:
        """What `value` would be for peaks of other images."""
        return float(self.shuffled.nanmean(1).nanmean())

    @property
    def n_dead(self) -> int:
        """How many filters have no peak in any image."""
        return int(self.dead.sum())


def location_instability(
    maps: Units,
    parts: Float[Tensor, "m q 3"],
    *,
    size: Size,
    place: Place = None,
    positions: Float[Tensor, "m f 2"] | None = None,
    categories: Int[Tensor, " m"] | None = None,
    top: int = 100,
    n_chance: int = 20,
    seed: int = 0,
) -> Instability:
    """Whether filters follow parts: how much the distance from a filter's peak to a landmark varies over images.

        d_I = |peak_f(I) - part_k(I)| / sqrt(h² + w²)
        D_fk = standard deviation of d_I over the images in which f peaks highest
        value = mean_f mean_k D_fk

    Zhang, Wu and Zhu, "Interpretable convolutional neural networks", CVPR 2018; Zhang et al., "Interpreting CNN
    knowledge via an explanatory graph", AAAI 2018. A filter at a constant distance from the part scores 0. Peaks
    anywhere score 0.10 on a landmark in the centre of a square and 0.20 on one in a corner, so that `chance` has to be
    read with the value.

    Differs: filters without a peak are left out and counted; the references take position 0 for them.

    Args:
        parts: row, column and visibility of each landmark, as `Scenes.parts`; 0 is not seen.
        size: height and width of the image that the network is given.
        place: how the layer's grid lies on the image, for instance `core.geometry(model, images)[layer]`.
        positions: where each unit is, in pixels, where that is not the peak (nodes of a graph); of `maps` only the
            height of the peak is then used, and chance is anywhere in the image.
        categories: of the images. A filter is then judged on those of the category in which it peaks highest.
        top: images of each filter; the published figures take 100 for filters, 20 for nodes of a graph.
        n_chance: draws behind `chance` and `shuffled`.
    """
    if len(maps) != len(parts) or top < 2 or n_chance < 1:
        raise BadInput(f"{len(maps)} images of maps, {len(parts)} of parts, top={top}, n_chance={n_chance}.")
    grid, known = (maps.shape[2], maps.shape[3]), parts.detach().cpu().double()
    found = peaks(maps, place if positions is None else None, size, seed)
    at, there = found.at, found.there
    axes = centres(place if positions is None else None, grid, size)
    if positions is not None:
        at, there = positions.detach().cpu().double(), positions.cpu().isfinite().all(2)
        axes = torch.arange(size[0]).double(), torch.arange(size[1]).double()
    own, diagonal, draw = own_images(found.height, categories, None), hypot(*checked_size(size)), generator(seed)
    columns = list[Tensor]()
    for k in range(known.shape[1]):
        usable = there & own & (known[:, k, 2] > 0)[:, None]
        chosen, valid = strongest(found.height, usable, top, seed)
        here, mine = known[chosen, k, :2], at.gather(0, chosen[..., None].expand(-1, -1, 2))

        def spread(where: Tensor, here: Tensor = here, valid: Tensor = valid) -> Tensor:
            return deviation((where - here).norm(dim=2) / diagonal, valid)

        drawn, moved = list[Tensor](), list[Tensor]()
        for _ in range(n_chance):
            anywhere = [line[torch.randint(len(line), valid.shape, generator=draw)] for line in axes]
            drawn.append(spread(torch.stack(anywhere, 2)))
            moved.append(spread(shuffled(mine, valid, draw)))
        chance, other = torch.stack(drawn).mean(0), torch.stack(moved).mean(0)
        columns.append(torch.stack([spread(mine), chance, other, valid.sum(0).double()]))
    table, chance, other, count = torch.stack(columns, 2)
    settings = {"size": size, "top": top, "n_chance": n_chance, "seed": seed}
    return Instability(table, chance, other, ~there.any(0), count.long(), settings)


def deviation(values: Float[Tensor, "t f"], valid: Bool[Tensor, "t f"]) -> Float[Tensor, " f"]:
    """Standard deviation (n - 1) of the valid values of each column, 0 exactly where they are equal; NaN of one."""
    count = valid.sum(0)
    first = values.gather(0, valid.int().argmax(0)[None])
    apart = torch.where(valid, values - first, 0.0)  # of equal values no rounding is left
    centred = torch.where(valid, apart - apart.sum(0) / count.clamp(min=1), 0.0)
    return torch.where(count > 1, (centred.square().sum(0) / (count - 1).clamp(min=1)).sqrt(), torch.nan)


def shuffled(at: Float[Tensor, "t f 2"], valid: Bool[Tensor, "t f"], draw: torch.Generator) -> Float[Tensor, "t f 2"]:
    """Every valid peak of a column put in the place of another: a random order, moved on by one."""
    keys = torch.rand(valid.shape, generator=draw).masked_fill(~valid, 2)
    order, count = keys.argsort(0), valid.sum(0)
    turn = torch.arange(len(valid))[:, None]
    after = torch.where(turn + 1 < count, turn + 1, 0)
    source = order.gather(0, after)
    moved = torch.zeros_like(order).scatter_(0, order, source)
    return at.gather(0, moved[..., None].expand_as(at))
