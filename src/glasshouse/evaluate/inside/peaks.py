"""Where in the image a unit points: the pixel that the strongest position of its map looks at."""

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.core import BadInput, LayerGeometry, Units, generator

Place: TypeAlias = LayerGeometry | tuple[float | int, float | int] | None
"""How a layer's grid lies on the image: its geometry; the pixel that position 0 looks at and the step to the next, the
same for rows and columns; or None where the grid tiles the image evenly. Pixel centres are whole numbers from 0."""
Size: TypeAlias = tuple[int, int]
AT_ONCE = 2**24  # values of enlarged maps
IMAGE_PX, HALF_PX = 224, 36  # the image that the papers' boxes belong to, and what they reach to each side of a peak


class Peaks(NamedTuple):
    """Row and column of the peak of f maps in n images, its height, and whether there is one: a flat map has none."""

    at: Float[Tensor, "n f 2"]
    height: Float[Tensor, "n f"]
    there: Bool[Tensor, "n f"]


def checked_size(size: Size) -> Size:
    """Height and width of the image that the network is given."""
    if min(size) < 1:
        raise BadInput(f"size={size} is no image.", "Give height and width in pixels.")
    return size


def centres(place: Place, grid: Size, size: Size) -> tuple[Float[Tensor, " i"], Float[Tensor, " j"]]:
    """The pixel row that each row of a grid looks at, and the same for columns."""
    if isinstance(place, LayerGeometry):
        if place.grid != grid:
            raise BadInput(f"maps of {grid} positions are not those of '{place.name}', which has {place.grid}.")
        lines = [(extent.start, extent.jump) for extent in (place.rows, place.cols)]
    elif place is None:
        lines = [((pixels / points - 1) / 2, pixels / points) for pixels, points in zip(size, grid, strict=True)]
    else:
        lines = [place, place]
    rows, cols = (
        start + jump * torch.arange(points, dtype=torch.float64)
        for (start, jump), points in zip(lines, grid, strict=True)
    )
    return rows, cols


def peaks(maps: Units, place: Place, size: Size, seed: int) -> Peaks:
    """The peak of every map; among equal positions one is drawn."""
    flat = maps.detach().cpu().flatten(2)
    if not flat.isfinite().all():
        raise BadInput(f"{int((~flat.isfinite()).any(2).any(1).sum())} images have activations that are not finite.")
    height, lowest = flat.amax(2), flat.amin(2)
    best = flat == height[..., None]
    keys = torch.rand(best.shape, generator=generator(seed)) if bool((best.sum(2) > 1).any()) else best.float()
    where = keys.masked_fill(~best, -1).argmax(2)
    rows, cols = centres(place, (maps.shape[2], maps.shape[3]), checked_size(size))
    at = torch.stack([rows[where // maps.shape[3]], cols[where % maps.shape[3]]], 2)
    return Peaks(at, height, height > lowest)


def enlarged_peaks(maps: Units, own: Bool[Tensor, "n f"], size: Size, seed: int) -> Peaks:
    """The peak of a unit's map in each of its own images, enlarged to the image by bicubic interpolation.

    Elsewhere there is none, and nothing is enlarged. A map that is flat stays without a peak, whatever rounding does.
    """
    coarse = peaks(maps, None, size, seed)
    there = own & coarse.there
    chosen = maps.detach().cpu()[there][:, None]
    at, height = torch.zeros_like(coarse.at), coarse.height.double()
    if tuple(maps.shape[2:]) != size:
        chosen = chosen.to(torch.promote_types(chosen.dtype, torch.float32))
    found = list[Peaks]()
    for part in chosen.split(max(1, AT_ONCE // (size[0] * size[1]))):
        same = tuple(part.shape[2:]) == size
        large = part if same else F.interpolate(part, size, mode="bicubic", align_corners=False)
        found.append(peaks(large, (0, 1), size, seed + len(found)))
    at[there] = torch.cat([part.at[:, 0] for part in found])
    height[there] = torch.cat([part.height[:, 0] for part in found]).double()
    return Peaks(at, height, there)


def strongest(
    height: Float[Tensor, "n f"], usable: Bool[Tensor, "n f"], top: int, seed: int
) -> tuple[Int[Tensor, "t f"], Bool[Tensor, "t f"]]:
    """The `top` usable images of each unit by the height of its peak, and which of these rows hold one.

    Where several are as high, it is drawn which come first.
    """
    shuffled = torch.randperm(len(height), generator=generator(seed))
    ordered = height.double().masked_fill(~usable, -torch.inf)[shuffled]
    chosen = shuffled[ordered.sort(dim=0, descending=True, stable=True).indices[:top]]
    return chosen, usable.gather(0, chosen)


def own_images(
    strength: Float[Tensor, "n f"], categories: Int[Tensor, " m"] | None, of_units: Int[Tensor, " u"] | None
) -> Bool[Tensor, "n f"]:
    """The images a unit is judged on: those of its category; all where there are none.

    Args:
        of_units: the category of each unit; None takes the one whose images it peaks highest in, on average.
    """
    known, own = categories_of(strength, categories, of_units)
    return known[:, None] == own


def categories_of(
    strength: Float[Tensor, "n f"], categories: Int[Tensor, " m"] | None, of_units: Int[Tensor, " u"] | None
) -> tuple[Int[Tensor, " n"], Int[Tensor, " f"]]:
    """The category of each image, and of each unit; all the same where there are none."""
    n, f = strength.shape
    if categories is None:
        if of_units is not None:
            raise BadInput("units have categories and images have none.", "Give the category of each image too.")
        return torch.zeros(n).long(), torch.zeros(f).long()
    if len(categories) != n or (of_units is not None and len(of_units) != f):
        raise BadInput(f"{len(categories)} categories for {n} images, or not one for each of {f} units.")
    known = categories.cpu()
    if of_units is not None:
        return known, of_units.cpu()
    values = known.unique()
    mean = torch.stack([strength[known == value].double().mean(0) for value in values])
    return known, values[mean.argmax(0)]


def half_of(half_px: float | int | None, size: Size) -> float:
    """Half the side of the box around a peak."""
    return HALF_PX / IMAGE_PX * min(size) if half_px is None else float(half_px)


def contains(at: Float[Tensor, "n p 2"], parts: Float[Tensor, "n #p k 3"], half: float) -> Bool[Tensor, "n p k"]:
    """Whether the box around a peak contains the middle of a part that is seen."""
    return ((at[:, :, None] - parts[..., :2]).abs() <= half).all(3) & (parts[..., 2] > 0)


def share_of(hits: Bool[Tensor, "n ..."], usable: Bool[Tensor, "n ..."]) -> Float[Tensor, "..."]:
    """Share of the usable rows that are hits; NaN without any."""
    return (hits & usable).sum(0).double() / usable.expand_as(hits).sum(0)


def anywhere(at: Float[Tensor, "n p 2"], size: Size, count: int, seed: int) -> Iterator[Tensor]:
    """Peaks on any pixel, each as likely as the others, `count` times."""
    draw, sides = generator(seed), torch.tensor(size)
    return ((torch.rand(at.shape, generator=draw, dtype=torch.float64) * sides).floor() for _ in range(count))
