"""The small scene that glass-box generators draw: six classes, from far to near, in plain differentiable operations.

A class's outline depends on its own factors only. Lengths are fractions of the image's side, y points down.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from glasshouse.core.types import Images
from glasshouse.data.world.factors import Factor

CLASSES = ("sky", "sun", "ground", "house", "roof", "tree")
"""From far to near: where two meet, the later one is seen."""

PAINT = ((0.55, 0.75, 0.95), (1.0, 0.9, 0.2), (0.35, 0.6, 0.3), (0.85, 0.8, 0.7), (0.7, 0.2, 0.15), (0.1, 0.35, 0.15))
VOID, BLOTCH = (0.5, 0.5, 0.5), (1.0, 0.0, 1.0)

FACTORS = (
    Factor("horizon", low=0.5, high=0.65, group="layout"),
    Factor("sun_x", low=0.15, high=0.85, group="sun"),
    Factor("sun_y", low=0.12, high=0.28, group="sun"),
    Factor("sun_size", low=0.06, high=0.12, group="sun"),
    Factor("house_x", low=0.22, high=0.5, group="house"),
    Factor("house_size", low=0.1, high=0.17, group="house"),
    Factor("tree_x", low=0.45, high=0.85, group="tree"),
    Factor("tree_size", low=0.08, high=0.15, group="tree"),
)
GROUPS = {"layout": ("sky", "ground"), "sun": ("sun",), "house": ("house", "roof"), "tree": ("tree",)}
FLOOR = 0.8  # what house and tree stand on


def factor_values(share: Float[Tensor, "n f"]) -> Float[Tensor, "n f"]:
    """The factors' values, from where each lies in its range (0…1)."""
    low, high = (share.new_tensor([getattr(factor, end) for factor in FACTORS]) for end in ("low", "high"))
    return low + (high - low) * share


def group_covers(
    group: str, values: Float[Tensor, "n g"], resolution: int, sharpness: float
) -> Float[Tensor, "n k h w"]:
    """How far each pixel is covered by a group's classes, as if nothing were in front.

    clamp(1/2 - sharpness · d, 0, 1)      d: distance to the outline in pixels, negative inside
    """
    at = (torch.arange(resolution, dtype=values.dtype, device=values.device) + 0.5) / resolution
    x, y = at[None, None, :], at[None, :, None]
    own = values[:, :, None, None].unbind(1)
    if group == "layout":
        distances = [(x + y) * 0 - 1, own[0] - y + 0 * x]
    elif group == "sun":
        distances = [_disc(x - own[0], y - own[1], own[2])]
    elif group == "house":
        u, half = x - own[0], own[1]
        eaves = FLOOR - 2 * half
        walls = torch.maximum(u.abs() - half, (y - FLOOR + half).abs() - half)
        slope = (u.abs() - 1.3 * half + 1.3 * (eaves - y)) / (1 + 1.3**2) ** 0.5
        distances = [walls, torch.maximum(slope, y - eaves)]
    else:
        u, size = x - own[0], own[1]
        trunk = torch.maximum(u.abs() - size / 4, (y - FLOOR + size).abs() - size)
        distances = [torch.minimum(trunk, _disc(u, y - FLOOR + 2.4 * size, size))]
    full = torch.stack([d.expand(len(values), resolution, resolution) for d in distances], 1)
    return (0.5 - sharpness * resolution * full).clamp(0, 1)


def _disc(u: Tensor, v: Tensor, radius: Tensor) -> Tensor:
    return (u * u + v * v + 1e-12).sqrt() - radius


def scene_covers(values: Float[Tensor, "n f"], resolution: int, sharpness: float) -> Float[Tensor, "n k h w"]:
    """`group_covers` of all classes, in their order."""
    found = dict[str, Tensor]()
    for group, names in GROUPS.items():
        columns = [i for i, factor in enumerate(FACTORS) if factor.group == group]
        covers = group_covers(group, values[:, columns], resolution, sharpness)
        found.update(zip(names, covers.unbind(1), strict=True))
    return torch.stack([found[name] for name in CLASSES], 1)


def visible(covers: Float[Tensor, "n k h w"]) -> Float[Tensor, "n k h w"]:
    """What is seen of each class, from far to near: o_k = a_k Π_nearer (1 - a_j). Sums to 1 where the sky is whole."""
    open_ = 1 - covers.clamp(0, 1)
    behind = torch.cat([open_[:, 1:], torch.ones_like(open_[:, :1])], 1).flip(1).cumprod(1).flip(1)
    return covers.clamp(0, 1) * behind


def painted(
    occupancy: Float[Tensor, "n k h w"], paint: Sequence[Sequence[float]], void: Sequence[float] = VOID
) -> Images:
    """An image in -1…1: each pixel is shared out to the classes, the nearest (last) first, and what is left is grey.

    With occupancies that sum to 1 this is their paints' weighted mean. Where an edit makes the sum larger the far
    ones give way; where it makes it smaller a hole is seen.
    """
    left, image = torch.ones_like(occupancy[:, :1]), torch.zeros_like(occupancy[:, :1])
    for k in reversed(range(occupancy.shape[1])):
        taken = torch.minimum(occupancy[:, k : k + 1].clamp(min=0), left)
        image = image + taken * occupancy.new_tensor(paint[k])[:, None, None]
        left = left - taken
    return 2 * (image + left * occupancy.new_tensor(void)[:, None, None]) - 1


def nearest_paint(images: Images) -> Tensor:
    """Each pixel's label by its colour: place in CLASSES + 1, or 0 for a hole and for a blotch."""
    known = images.new_tensor([VOID, *PAINT, BLOTCH])
    gaps = (images[:, None] / 2 + 0.5 - known[:, :, None, None]).square().sum(2)
    label = gaps.argmin(1)
    return label.where(label <= len(CLASSES), 0)
