"""Connected parts of masks, many masks at once: which pixels hang together, how many they are, and their boxes."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from glasshouse.core import Masks


class Components(NamedTuple):
    """All connected parts of a batch of masks: the image each is in, its pixels, its tight box.

    Boxes are top, left, bottom, right; the last two are one past the end.
    """

    image: Int[Tensor, " k"]
    size: Int[Tensor, " k"]
    box: Int[Tensor, "k 4"]


def highest_around(labels: Int[Tensor, "n h w"]) -> Int[Tensor, "n h w"]:
    """The highest label among a pixel and its eight neighbours."""
    wide = F.pad(labels, (1, 1, 1, 1))
    rows = torch.maximum(torch.maximum(wide[:, :-2], wide[:, 1:-1]), wide[:, 2:])
    return torch.maximum(torch.maximum(rows[..., :-2], rows[..., 1:-1]), rows[..., 2:])


def labelled(masks: Masks) -> Int[Tensor, "n h w"]:
    """The same number for pixels that are connected, over edges or corners; 0 outside.

    Each pixel starts with a number of its own. A label then points to the highest one that touches it anywhere, and all
    pixels take the label at the end of that chain, until no two labels touch. Labels that touch a higher one vanish, so
    few rounds are needed whatever the shape.
    """
    n, h, w = masks.shape
    own = torch.arange(1, h * w + 1, device=masks.device).view(h, w)
    labels = torch.where(masks, own, 0)
    while True:
        touching = torch.where(masks, highest_around(labels), 0)
        if touching.equal(labels):
            return labels
        points_to = torch.arange(h * w + 1, device=masks.device).repeat(n, 1)
        points_to.scatter_reduce_(1, labels.flatten(1), touching.flatten(1), "amax")
        while not (further := points_to.gather(1, points_to)).equal(points_to):
            points_to = further
        labels = points_to.gather(1, labels.flatten(1)).view(n, h, w)


def components(masks: Masks) -> Components:
    """The connected parts of each mask."""
    h, w = masks.shape[1:]
    labels = labelled(masks).flatten(1)
    root = labels == torch.arange(1, h * w + 1, device=masks.device)
    number = torch.empty_like(labels)
    number[root] = torch.arange(int(root.sum()), device=masks.device)
    image, pixel = masks.flatten(1).nonzero().unbind(1)
    part = number[image, labels[image, pixel] - 1]
    row, col = pixel.div(w, rounding_mode="floor"), pixel % w
    count = int(root.sum())
    lowest = torch.full((2, count), max(h, w), device=masks.device)
    lowest.scatter_reduce_(1, part.expand(2, -1), torch.stack([row, col]), "amin")
    highest = torch.zeros(2, count, dtype=torch.int64, device=masks.device)
    highest.scatter_reduce_(1, part.expand(2, -1), torch.stack([row, col]) + 1, "amax")
    return Components(root.nonzero()[:, 0], part.bincount(minlength=count), torch.cat([lowest, highest]).T)


def box_overlap(one: Int[Tensor, "k 4"], others: Int[Tensor, "k b 4"]) -> Float[Tensor, "k b"]:
    """Intersection over union of each box with several; an empty box overlaps nothing."""
    first = one[:, None].double()
    second = others.double()
    shared = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])
    common = shared.clamp(min=0).prod(-1)
    area = (first[..., 2:] - first[..., :2]).clamp(min=0).prod(-1)
    other = (second[..., 2:] - second[..., :2]).clamp(min=0).prod(-1)
    return common / (area + other - common).clamp(min=1)
