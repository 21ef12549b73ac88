"""How much two lists of numbers, or two maps, agree, with standard errors."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.core import Maps, PerImage, blur, generator
from glasshouse.core.mask import cell_sums, cells

N_RESAMPLES = 200


def correlation(
    first: Float[Tensor, "n m"],
    second: Float[Tensor, "n m"],
    seed: int,
    blocks: Int[Tensor, " m"] | None = None,
) -> tuple[PerImage, PerImage]:
    """Pearson correlation of each row with its bootstrap standard error; NaN where a row does not vary.

    Args:
        blocks: entries that are drawn together, because neighbours are not independent; None: singly.
    """
    products = products_of(first, second)
    if blocks is not None:
        sums = products.new_zeros(*products.shape[:2], int(blocks.max()) + 1)
        products = sums.index_add_(2, blocks.to(products.device), products)
    count = products.shape[2]
    drawn = torch.randint(count, (N_RESAMPLES, count), generator=generator(seed))
    weight = torch.zeros(N_RESAMPLES, count).scatter_add_(1, drawn, torch.ones(N_RESAMPLES, count))
    value = from_sums(products.sum(2))
    resampled = from_sums(products @ weight.T.to(products))
    known = resampled.isfinite()
    centred = torch.where(known, resampled - resampled.nan_to_num().sum(1, True) / known.sum(1, True).clamp(1), 0.0)
    return value, (centred.square().sum(1) / (known.sum(1) - 1).clamp(1)).sqrt()


def pearson(first: Float[Tensor, "n m"], second: Float[Tensor, "n m"]) -> PerImage:
    """Pearson correlation of each row; NaN where a row does not vary."""
    return from_sums(products_of(first, second).sum(2))


def products_of(first: Float[Tensor, "n m"], second: Float[Tensor, "n m"]) -> Float[Tensor, "6 n m"]:
    """1, x, y, x², y² and xy of standardised rows."""
    x, y = standardised(first), standardised(second)
    return torch.stack([torch.ones_like(x), x, y, x * x, y * y, x * y])


def standardised(rows: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """Mean 0 and variance 1, for accuracy; a row that does not vary becomes exactly 0."""
    rows = rows.double()
    centred = rows - rows.mean(1, keepdim=True)
    varies = rows.amax(1, keepdim=True) > rows.amin(1, keepdim=True)
    return torch.where(varies, centred / centred.std(1, correction=0, keepdim=True), 0.0)


def from_sums(sums: Float[Tensor, "6 ..."]) -> Float[Tensor, "..."]:
    """Pearson correlation from the sums of 1, x, y, x², y² and xy."""
    count, x, y, xx, yy, xy = sums
    spread = ((count * xx - x * x).clamp(min=0) * (count * yy - y * y).clamp(min=0)).sqrt()
    r = (count * xy - x * y) / spread
    return torch.where(spread > 1e-9 * count * count, r.clamp(-1, 1), torch.nan)


def mean_ranks(rows: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """Ranks from 0 upwards; equal values share the mean of their ranks."""
    ordered = rows.double().sort(1).values.contiguous()
    values = rows.double().contiguous()
    below = torch.searchsorted(ordered, values)
    return (below + torch.searchsorted(ordered, values, right=True) - 1).double() / 2


def spearman(first: Maps, second: Maps, seed: int, grid: tuple[int, int]) -> tuple[PerImage, PerImage]:
    """Rank correlation of two maps over all pixels; for its error, cells of a grid are drawn, not pixels."""
    labels = cells((first.shape[-2], first.shape[-1]), grid).flatten()
    return correlation(mean_ranks(first.flatten(1)), mean_ranks(second.flatten(1)), seed, labels)


def spearman_over(
    first: Float[Tensor, "n m"], second: Float[Tensor, "n m"], there: Bool[Tensor, "n m"]
) -> tuple[PerImage, PerImage]:
    """Rank correlation of each row over the entries that are there; NaN for fewer than three.

    The error is how far unrelated values stray on m entries, 1 / sqrt(m - 1), which is exact: among so few, drawing
    them again would call the right order certain.
    """
    value = [
        float(pearson(mean_ranks(a[None, seen]), mean_ranks(b[None, seen]))) if int(seen.sum()) > 2 else torch.nan
        for a, b, seen in zip(first, second, there, strict=True)
    ]
    rho = first.new_tensor(value, dtype=torch.float64)
    return rho, (there.sum(1).to(rho) - 1).clamp(min=1).rsqrt()


def cosine(first: Maps, second: Maps) -> PerImage:
    """Cosine of the angle between two maps; 0 for a map of zeros."""
    return torch.cosine_similarity(unit(first).flatten(1), unit(second).flatten(1), dim=1)


def unit(maps: Maps) -> Maps:
    """Each map divided by its largest absolute value, in float64."""
    return maps.double() / maps.abs().flatten(1).amax(1).double().clamp(min=1e-300).view(-1, 1, 1)


def ssim(first: Maps, second: Maps) -> PerImage:
    """Structural similarity of two maps, each divided by its largest absolute value.

    Wang et al., 2004: Gaussian windows of 11 pixels, sigma 1.5, K = (0.01, 0.03); the range is that of both
    maps.
    """
    x, y = unit(first), unit(second)
    both = torch.stack([x, y]).transpose(0, 1).flatten(1)
    extent = (both.amax(1) - both.amin(1)).clamp(min=1e-12).view(-1, 1, 1)
    moments = blur(torch.stack([x, y, x * x, y * y, x * y], 1), 1.5, 11)
    mx, my, xx, yy, xy = moments.unbind(1)
    one, two = (0.01 * extent) ** 2, (0.03 * extent) ** 2
    similar = (2 * mx * my + one) * (2 * (xy - mx * my) + two)
    return (similar / ((mx**2 + my**2 + one) * (xx - mx**2 + yy - my**2 + two))).flatten(1).mean(1)


def grid_mass(maps: Maps, grid: tuple[int, int]) -> Float[Tensor, "n g"]:
    """Sum of a map in each cell, in float64."""
    return cell_sums(maps.double(), cells((maps.shape[-2], maps.shape[-1]), grid))
