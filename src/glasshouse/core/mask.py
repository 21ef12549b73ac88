"""Masks: which pixels are kept. A mask is 1 where the image stays and 0 where a baseline takes its place."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.core.errors import BadInput


def blend(
    images: Float[Tensor, "#n c h w"], keep: Float[Tensor, "n ..."] | Bool[Tensor, "n ..."], baseline: Tensor
) -> Float[Tensor, "n c h w"]:
    """`keep * image + (1 - keep) * baseline`. The mask is `n h w`, or `n c h w` where channels differ.

    A single image is shown through every mask; the baseline broadcasts against the images. Exact at 0 and 1, if both
    are finite; on processors ten times as fast as `torch.where` with a mask of scattered pixels.
    """
    weight = keep if keep.ndim == 4 else keep[:, None]
    return torch.lerp(baseline.to(images), images, weight.to(images))


def cells(size: tuple[int, int], grid: tuple[int, int]) -> Int[Tensor, "h w"]:
    """Label map that cuts an image into `grid` rows × columns of nearly equal cells, numbered in reading order."""
    if not (1 <= grid[0] <= size[0] and 1 <= grid[1] <= size[1]):
        raise BadInput(f"cannot cut {size[0]}×{size[1]} pixels into {grid[0]}×{grid[1]} cells.")
    rows = torch.arange(size[0]) * grid[0] // size[0]
    cols = torch.arange(size[1]) * grid[1] // size[1]
    return rows[:, None] * grid[1] + cols


def cell_sums(values: Float[Tensor, "n h w"], labels: Int[Tensor, "h w"]) -> Float[Tensor, "n g"]:
    """Sum of `values` within each cell of a label map."""
    n, count = len(values), int(labels.max()) + 1
    sums = values.new_zeros(n, count, dtype=torch.float64)
    return sums.index_add_(1, labels.flatten().to(values.device), values.flatten(1).double()).to(values.dtype)


def ranks(values: Float[Tensor, "n g"], generator: torch.Generator) -> Int[Tensor, "n g"]:
    """Place of each value in descending order, 0 for the largest; ties are broken at random, not by position."""
    order = torch.randperm(values.shape[1], generator=generator).to(values.device)
    descending = values[:, order].argsort(stable=True, dim=1, descending=True)
    places = torch.empty_like(descending)
    counted = torch.arange(values.shape[1], device=values.device).expand_as(descending)
    places.scatter_(1, order[descending], counted.contiguous())
    return places
