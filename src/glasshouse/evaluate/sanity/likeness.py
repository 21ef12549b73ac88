"""How alike two maps are: ranks, structure, angle, and histograms of oriented gradients."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from glasshouse.core import Maps, PerImage
from glasshouse.evaluate.agreement import cosine, mean_ranks, ssim, standardised


def likeness(first: Maps, second: Maps, absolute: bool) -> dict[str, PerImage]:
    """Further similarities of two maps. SSIM and HOG see what Spearman's correlation is taken of."""
    a, b = (first.abs(), second.abs()) if absolute else (first, second)
    return {
        "ssim": ssim(a, b),
        "cosine": cosine(first, second),
        "spearman_signed": pearson(mean_ranks(first.flatten(1)), mean_ranks(second.flatten(1))),
        "hog": pearson(oriented_gradients(a), oriented_gradients(b)),
    }


def pearson(first: Float[Tensor, "n m"], second: Float[Tensor, "n m"]) -> PerImage:
    """Correlation of each row; NaN where a row does not vary."""
    x, y = standardised(first), standardised(second)
    varies = (x != 0).any(1) & (y != 0).any(1)
    return torch.where(varies, (x * y).mean(1), torch.nan)


def oriented_gradients(maps: Maps) -> Float[Tensor, "n f"]:
    """Histograms of oriented gradients: 9 orientations, cells of 8 pixels, blocks of 3 × 3 cells, L2-Hys norms.

    Dalal and Triggs, "Histograms of oriented gradients for human detection", CVPR 2005. Each map is first divided by
    its largest absolute value; sides below 24 pixels are cut into three cells.
    """
    flat = maps.double()
    largest = flat.abs().amax((1, 2), keepdim=True)
    flat = flat / torch.where(largest > 0, largest, 1.0)
    down, across = torch.zeros_like(flat), torch.zeros_like(flat)
    down[:, 1:-1], across[:, :, 1:-1] = flat[:, 2:] - flat[:, :-2], flat[:, :, 2:] - flat[:, :, :-2]
    angle = torch.rad2deg(torch.atan2(down, across)) % 180
    bins = torch.arange(9, device=maps.device).view(1, 9, 1, 1)
    votes = torch.hypot(down, across)[:, None] * ((angle[:, None] / 20).floor() == bins)
    cell = max(1, min(8, min(maps.shape[1:]) // 3))
    cells = F.avg_pool2d(votes, cell)
    side_i, side_j = (min(3, side) for side in cells.shape[2:])
    blocks = cells.unfold(2, side_i, 1).unfold(3, side_j, 1).permute(0, 2, 3, 4, 5, 1).flatten(3)
    for bound in (0.2, math.inf):
        blocks = (blocks / (blocks.square().sum(3, keepdim=True) + 1e-10).sqrt()).clamp(max=bound)
    return blocks.flatten(1)
