"""Regions of an image: cells of a grid, superpixels, or a label map that is given."""

from math import sqrt
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glasshouse.core.errors import BadInput
from glasshouse.core.mask import cells
from glasshouse.core.types import Images

Kind: TypeAlias = Literal["slic", "grid"]
Labels: TypeAlias = Int[Tensor, "n h w"]
COMPACTNESS = 0.6
N_ROUNDS = 10


def regions(images: Images, *, kind: Kind = "slic", count: int = 50, compactness: float = COMPACTNESS) -> Labels:
    """Cut each image into about `count` connected regions, numbered from 0 in reading order.

    `"grid"` gives cells of a grid. `"slic"` gives superpixels: pixels of similar colour that lie together,

        D² = |Δcolour|² + compactness² |Δplace|² / area,      area = pixels per superpixel

    Achanta et al., "SLIC superpixels compared to state-of-the-art superpixel methods", TPAMI 2012, alg. 1 and eq. 3.

    Differs: colours are the image's own channels, any number of them, divided by their standard deviation over the
    image, instead of CIELAB; the centres start as the means of the cells of a grid, and a pixel looks at the centres
    that started in its own cell and the eight around it.

    Args:
        count: the grid nearest to it is used; superpixels may be fewer or more, as parts below a quarter of the usual
            area join a neighbour.
        compactness: high values give squares, low ones follow colours closely.
    """
    n, _, h, w = images.shape
    rows, cols = grid_of(count, (h, w))
    if kind == "grid":
        return cells((h, w), (rows, cols)).to(images.device).expand(n, h, w)
    if kind != "slic":
        raise BadInput(f"regions of kind '{kind}' are unknown.", "Use 'slic', 'grid', or give a label map.")
    if compactness <= 0:
        raise BadInput(f"compactness {compactness} is not above 0.")
    # Rounded to 8 bits and summed on the CPU: neither the type of number nor the device may move a border.
    rounded = images.detach().cpu().bfloat16().double()
    return torch.stack([superpixels(image, (rows, cols), compactness) for image in rounded]).to(images.device)


def label_maps(images: Images, feature_mask: Kind | Int[Tensor, "..."], n_regions: int) -> Labels:
    """The regions that a method was asked to use, numbered from 0 without gaps in each image."""
    if isinstance(feature_mask, str):
        return regions(images, kind=feature_mask, count=n_regions)
    n, (h, w) = len(images), images.shape[-2:]
    given = feature_mask.to(images.device)
    if given.ndim == 4 and given.shape[1] == 1:
        given = given[:, 0]
    if given.ndim not in (2, 3) or given.shape[-2:] != (h, w) or (given.ndim == 3 and len(given) not in (1, n)):
        raise BadInput(
            f"a feature_mask of shape {tuple(feature_mask.shape)} does not belong to images {tuple(images.shape)}.",
            "Give whole numbers of shape (h, w), or (n, h, w) with one map per image.",
        )
    return torch.stack([labels.unique(return_inverse=True)[1] for labels in given.expand(n, h, w)])


def grid_of(count: int, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of about `count` cells that are nearly square."""
    h, w = size
    if not 1 <= count <= h * w:
        raise BadInput(f"cannot cut {h}×{w} pixels into {count} regions.")
    rows = min(h, max(1, round(sqrt(count * h / w))))
    return rows, min(w, max(1, round(count / rows)))


def superpixels(
    image: Float[Tensor, "c h w"], grid: tuple[int, int], compactness: float = COMPACTNESS
) -> Int[Tensor, "h w"]:
    """SLIC: k-means over colour and place, each pixel among the centres near it; then connected parts."""
    _, h, w = image.shape
    rows, cols = grid
    area, home = h * w / (rows * cols), cells((h, w), grid)
    colour = image - image.mean((1, 2), keepdim=True)
    spread = colour.square().sum(0).mean().sqrt()
    place = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"))
    points = torch.cat([colour / spread.clamp(min=1e-12), place.to(image) * compactness / sqrt(area)]).flatten(1).T
    labels, nearby = home.flatten(), neighbours(home.flatten(), rows, cols)
    for _ in range(N_ROUNDS):
        centres = means(points, labels, rows * cols)
        gaps = [(points - centres[centre.clamp(min=0)]).square().sum(1) for centre in nearby]
        best = torch.stack(gaps).masked_fill(nearby < 0, torch.inf).argmin(0)
        labels = nearby.gather(0, best[None])[0]
    return joined(components(labels.view(h, w)), area / 4)


def neighbours(home: Int[Tensor, " p"], rows: int, cols: int) -> Int[Tensor, "9 p"]:
    """For each pixel its own cell of a grid and the eight around it; -1 outside."""
    steps = torch.cartesian_prod(torch.tensor([0, -1, 1]), torch.tensor([0, -1, 1]))
    row, col = home // cols + steps[:, :1], home % cols + steps[:, 1:]
    inside = (row >= 0) & (row < rows) & (col >= 0) & (col < cols)
    return torch.where(inside, row * cols + col, -1)


def means(points: Float[Tensor, "p d"], labels: Int[Tensor, " p"], count: int) -> Float[Tensor, "m d"]:
    """The mean of the points of each label; 0 for a label without points."""
    sums = points.new_zeros(count, points.shape[1]).index_add_(0, labels, points)
    return sums / labels.bincount(minlength=count).clamp(min=1)[:, None]


def components(labels: Int[Tensor, "h w"]) -> Int[Tensor, "h w"]:
    """Connected parts of equal label, numbered from 0 by their first pixel in reading order.

    Every pixel takes the smallest number among itself and its neighbours of the same label, and then the number that
    this pixel has, until nothing changes.
    """
    number = torch.arange(labels.numel()).view(labels.shape)
    down, right = labels[1:] == labels[:-1], labels[:, 1:] == labels[:, :-1]
    while True:
        least = number.clone()
        for one, other, same in (
            (least[1:], number[:-1], down),
            (least[:-1], number[1:], down),
            (least[:, 1:], number[:, :-1], right),
            (least[:, :-1], number[:, 1:], right),
        ):
            one.copy_(torch.where(same, torch.minimum(one, other), one))
        least = least.flatten()[least]
        if torch.equal(least, number):
            return number.unique(return_inverse=True)[1]
        number = least


def joined(labels: Int[Tensor, "h w"], least: float) -> Int[Tensor, "h w"]:
    """Parts of fewer than `least` pixels join the larger neighbour with which they share the longest border."""
    while True:
        size = labels.flatten().bincount()
        count, numbers = len(size), torch.arange(len(size))
        if count == 1 or not (size < least).any():
            return labels
        one = torch.cat([labels[1:], labels[:-1]]).flatten(), torch.cat([labels[:, 1:], labels[:, :-1]]).flatten()
        two = torch.cat([labels[:-1], labels[1:]]).flatten(), torch.cat([labels[:, :-1], labels[:, 1:]]).flatten()
        part, other = torch.cat(one), torch.cat(two)
        rank = size * count + numbers  # larger first, and no two alike: no part joins another in a circle
        pairs, border = (part * count + other)[(size[part] < least) & (rank[other] > rank[part])].unique(
            return_counts=True
        )
        part, other = pairs // count, pairs % count
        longest = border == torch.zeros_like(size).scatter_reduce_(0, part, border, "amax")[part]
        goal = numbers.scatter_reduce(0, part[longest], other[longest], "amin", include_self=False)
        settled = goal[goal] == goal  # who wants to join a part that moves itself waits for the next round
        labels = components(torch.where(settled, goal, numbers)[labels])
