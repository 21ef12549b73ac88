"""Images in several stages, from blurred or black to clean, and every pixel at a stage of its own."""

from math import ceil
from typing import Literal

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from glasshouse.core import BadInput, Images

LEVELS, WIDEST = 8, 20.0
Perturbation = Literal["blur", "fade"]


def pyramid(images: Images, perturbation: Perturbation) -> Float[Tensor, "n l h w c"]:
    """Eight stages of every image, the last one clean.

    "blur": Gaussians of sigma 20 (1 - l / 7) pixels, with 0 around the image, which is the data set's mean colour
    where images are normalised; "fade": the image times l / 7.
    """
    shares = torch.linspace(0, 1, LEVELS, dtype=torch.float64).tolist()
    if perturbation == "blur":
        stages = [blur_into_zero(images, WIDEST * (1 - share)) for share in shares]
    elif perturbation == "fade":
        stages = [images * share for share in shares]
    else:
        raise BadInput(f"perturbation '{perturbation}' is unknown.", "Use 'blur' or 'fade'.")
    return torch.stack([rearrange(stage, "n c h w -> n h w c") for stage in stages], 1)


def blur_into_zero(images: Images, sigma: float | int) -> Images:
    """Gaussian blur as if all around the image were 0; kernels reach four sigmas."""
    if sigma <= 0:
        return images
    down, across = (band(side, sigma).to(images) for side in images.shape[-2:])
    return einsum(down, images, across, "i h, n c h w, j w -> n c i j")


def band(size: int, sigma: float) -> Float[Tensor, "s s"]:
    """The matrix that blurs `size` values in a row."""
    reach = ceil(4 * sigma)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1).double() / sigma) ** 2)
    place = torch.arange(size)
    offset = place[:, None] - place + reach
    inside = (offset >= 0) & (offset <= 2 * reach)
    return torch.where(inside, (taps / taps.sum())[offset.clamp(0, 2 * reach)], 0.0)


def at_level(
    stages: Float[Tensor, "n l h w c"], image: Int[Tensor, " r"], masks: Float[Tensor, "r h w"]
) -> Float[Tensor, "r c h w"]:
    """For each row its image, every pixel between the two stages next to 7 times the mask: clean at 1, gone at 0."""
    _, levels, h, w, _ = stages.shape
    depth = (levels - 1) * masks
    below = depth.detach().floor().long().clamp(0, levels - 1)
    pixel = torch.arange(h * w, device=masks.device).view(h, w)
    first, table = image[:, None, None] * levels, stages.flatten(0, 3)
    lower = table[(first + below) * (h * w) + pixel]
    upper = table[(first + (below + 1).clamp(max=levels - 1)) * (h * w) + pixel]
    mixed = torch.lerp(lower, upper, (depth - below)[..., None].to(lower.dtype))
    return rearrange(mixed, "r h w c -> r c h w")
