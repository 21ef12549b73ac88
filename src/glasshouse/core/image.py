"""Operations on images and maps: resize, blur, grids."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from glasshouse.core.errors import BadInput


def resize(images: Float[Tensor, "n c h w"], size: tuple[int, int]) -> Float[Tensor, "n c ..."]:
    """Bilinear, pixel centres at half integers (`align_corners=False`), antialiased when shrinking."""
    if tuple(images.shape[-2:]) == size:
        return images
    smaller = size[0] < images.shape[-2] or size[1] < images.shape[-1]
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=smaller)


def gaussian_kernel(sigma: float, size: int | None = None) -> Float[Tensor, " s"]:
    """Taps of a Gaussian, summing to 1. `size` is odd; None takes three standard deviations on each side."""
    if sigma <= 0:
        raise BadInput(f"blur sigma {sigma} is not above 0.")
    if size is not None and size % 2 == 0:
        raise BadInput(f"a blur of {size} taps has no middle.", f"Use an odd number, such as {size + 1}.")
    size = size or 2 * max(1, round(3 * sigma)) + 1
    offset = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    taps = torch.exp(-0.5 * (offset / sigma) ** 2)
    return taps / taps.sum()


def blur(images: Float[Tensor, "n c h w"], sigma: float, size: int | None = None) -> Float[Tensor, "n c h w"]:
    """Gaussian blur, each channel by itself; the border repeats.

    Args:
        sigma: standard deviation in pixels.
        size: number of taps, odd; None takes three standard deviations on each side.
    """
    taps = gaussian_kernel(sigma, size).to(images)
    reach, c = len(taps) // 2, images.shape[1]
    padded = F.pad(images, (reach, reach, reach, reach), mode="replicate")
    rows = F.conv2d(padded, taps.view(1, 1, -1, 1).expand(c, 1, -1, 1), groups=c)
    return F.conv2d(rows, taps.view(1, 1, 1, -1).expand(c, 1, 1, -1), groups=c)
