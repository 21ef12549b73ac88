"""Pixels that were taken away, filled in from the ones around them: the noisy linear imputation of ROAD.

Each missing pixel is the weighted mean of its neighbours. Together these are the equations of a soap film that hangs
on the pixels left: symmetric, positive definite, and so within reach of conjugate gradients, all images and channels
at once. Films over large holes settle slowly one pixel at a time; a multigrid cycle as preconditioner settles all
sizes alike.
"""

import warnings
from dataclasses import dataclass
from math import inf

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from glasshouse.core import BadInput, Images, Masks, generator


@torch.no_grad()
def impute(
    images: Images,
    keep: Masks,
    *,
    noise: float | int = 0.0,
    seed: int = 0,
    tolerance: float = 1e-4,
    max_iterations: int = 500,
) -> Images:
    """The images with every removed pixel replaced by what its neighbours suggest.

        v_p = sum_q w_pq v_q / sum_q w_pq,   q the 8 neighbours inside the image,   w = 1/6 beside, 1/12 diagonal

    with known values where `keep` is true. Rong et al., "A consistent and efficient evaluation strategy for attribution
    methods", ICML 2022 (ROAD). Without noise this is harmonic inpainting, Laplace's equation on the pixel grid: nothing
    leaves the range of the pixels that stay. Where not one pixel of an image stays, each channel becomes its mean over
    the whole image. Images do not influence each other.

    Differs: solved by conjugate gradients until the error is below `tolerance`, where the paper factorises a matrix.

    Args:
        keep: true where a pixel stays.
        noise: standard deviation of the Gaussian noise added to imputed pixels, in the model's input space. The
            field is drawn once for `seed` and is the same for every image.
        tolerance: largest error of a pixel, as estimated, in parts of the range of the channel's known pixels.
        max_iterations: a dozen is usual, whatever the size of the holes. Images one pixel wide need hundreds, and
            there the estimate of the error is far too low.
    """
    if keep.shape != (len(images), *images.shape[2:]):
        raise BadInput(
            f"the masks {tuple(keep.shape)} are not of these images {tuple(images.shape)}.", "Pass one `h w` per image."
        )
    if not (0 <= noise < inf and tolerance > 0 and max_iterations >= 1):
        raise BadInput(
            f"noise={noise}, tolerance={tolerance} or max_iterations={max_iterations} is too small, or not finite.",
            "noise is at least 0, tolerance above 0, max_iterations at least 1.",
        )
    hole = ~keep[:, None]
    exact = images if images.dtype == torch.float64 else images.float()
    low = torch.where(hole, torch.inf, exact).amin((2, 3), keepdim=True)
    high = torch.where(hole, -torch.inf, exact).amax((2, 3), keepdim=True)
    some = ~hole.all(3).all(2)[..., None, None]
    centre = torch.where(some, low + (high - low) / 2, exact.mean((2, 3), keepdim=True))
    half = torch.where(some & (high > low), (high - low) / 2, 1.0)
    known = torch.where(hole, 0.0, (exact - centre) / half)
    levels = levels_of(hole & some, known.dtype)
    filled = centre + half * settled(known, levels, tolerance, max_iterations)
    if noise:
        field = torch.randn(images.shape[1:], generator=generator(seed), dtype=torch.float32)
        filled = filled + noise * field.to(filled)
    return torch.where(hole, filled.to(images.dtype), images)


@dataclass(frozen=True)
class Level:
    """A grid of some resolution: where a value is sought, and what the neighbours of each place weigh together."""

    hole: Float[Tensor, "n 1 h w"]
    degree: Float[Tensor, "1 1 h w"]


def spread(values: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Each place and its neighbours summed with weights [1 2 1] by [1 2 1]; 0 outside.

    Sums of shifted tensors, because convolutions on accelerators may round to ten bits.
    """
    down = 2 * values
    down[..., 1:, :] += values[..., :-1, :]
    down[..., :-1, :] += values[..., 1:, :]
    across = 2 * down
    across[..., 1:] += down[..., :-1]
    across[..., :-1] += down[..., 1:]
    return across


def tension(values: Float[Tensor, "n c h w"], level: Level) -> Float[Tensor, "n c h w"]:
    """How far each place is above its neighbours: sum_q w_pq (v_p - v_q).

    The weights 1/6 and 1/12 are those of `spread` over 12, the middle left out.
    """
    return torch.addcmul(spread(values) / -12, level.degree + 1 / 3, values)


def levels_of(hole: Bool[Tensor, "n 1 h w"], dtype: torch.dtype) -> list[Level]:
    """The image's own grid and coarser ones, up to one without holes: a coarse place is in one if all its pixels are.

    A side of odd length is continued by one row or column, which belongs to no image.
    """
    levels = list[Level]()
    while True:
        everywhere = torch.ones(1, 1, *hole.shape[2:], dtype=dtype, device=hole.device)
        levels.append(Level(hole.to(dtype), spread(everywhere) / 12 - 1 / 3))
        if max(hole.shape[2:]) < 4 or not hole.any():
            return levels
        hole = F.max_pool2d((~hole).to(dtype), 2, ceil_mode=True) == 0


def coarser(values: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c i j"]:
    """Sums over squares of 2 by 2; what is missing at an odd end counts as 0."""
    return F.avg_pool2d(values, 2, ceil_mode=True, divisor_override=1)


def finer(values: Float[Tensor, "n c i j"], level: Level) -> Float[Tensor, "n c h w"]:
    """Each place repeated 2 by 2: the transpose of `coarser`."""
    rows, cols = level.hole.shape[2:]
    return values.repeat_interleave(2, 2).repeat_interleave(2, 3)[..., :rows, :cols]


def smooth(values: Float[Tensor, "n c h w"], level: Level) -> Float[Tensor, "n c h w"]:
    """Symmetric averaging with weights [1 2 1] / 4 by [1 2 1] / 4, changed at the border so that constants stay."""
    return values - 0.75 * tension(values, level)


def cycle(load: Float[Tensor, "n c h w"], levels: list[Level]) -> Float[Tensor, "n c h w"]:
    """Roughly the film under this load: one symmetric V of Jacobi steps, from fine to coarse and back.

    Smoothed aggregation (Vanek et al., 1996): values go up through `finer` and then `smooth`, which is bilinear
    interpolation, and loads down through the transpose. The equations keep their form on all levels.
    """
    level, rest = levels[0], levels[1:]
    step = level.hole / level.degree.clamp(min=1 / 6)  # the least, but for an image of one pixel: 0
    film = step * load
    if rest:
        excess = level.hole * (load - tension(film, level))
        film = film + level.hole * smooth(finer(cycle(coarser(smooth(excess, level)), rest), level), level)
    return film + step * (load - tension(film, level))


def guess(known: Float[Tensor, "n c h w"], levels: list[Level]) -> Float[Tensor, "n c h w"]:
    """Pull-push: the mean of the known pixels at the finest level that has some, smoothed on the way back."""
    values, weight = [known], [1 - levels[0].hole]
    for _ in levels[1:]:
        total, count = coarser(values[-1] * weight[-1]), coarser(weight[-1])
        values.append(total / count.clamp(min=1))
        weight.append((count > 0).to(known))
    film = values[-1]
    for place in range(len(levels) - 2, -1, -1):
        film = torch.where(weight[place] > 0, values[place], smooth(finer(film, levels[place]), levels[place]))
    return film


def settled(
    known: Float[Tensor, "n c h w"], levels: list[Level], tolerance: float, max_iterations: int
) -> Float[Tensor, "n c h w"]:
    """The film that hangs on `known`: preconditioned conjugate gradients, each channel with steps of its own.

    The preconditioner is so close to the inverse that what it makes of a residual is about the error: where that
    is below `tolerance` at every pixel, a channel is done and does not move any more.
    """
    hole = levels[0].hole
    film = guess(known, levels)
    residual = -hole * tension(film, levels[0])
    direction, before = torch.zeros_like(film), torch.ones_like(film[..., :1, :1])
    active = before > 0
    for _ in range(max_iterations):
        error = cycle(residual, levels)
        active = error.abs().amax((2, 3), keepdim=True) > tolerance
        if not active.any():
            return film
        now = (residual * error).sum((2, 3), keepdim=True)
        direction = error + torch.where(active, now / before, 0.0) * direction
        pull = hole * tension(direction, levels[0])
        step = torch.where(active, now / (direction * pull).sum((2, 3), keepdim=True), 0.0)
        film, residual, before = film + step * direction, residual - step * pull, now
    warnings.warn(
        f"{int(active.sum())} channels are not imputed to {tolerance} after {max_iterations} iterations; "
        "raise `tolerance`, or pass images in float64.",
        stacklevel=4,
    )
    return film
