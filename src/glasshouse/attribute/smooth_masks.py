"""Smooth masks: the soft maximum of one bump per cell of a lattice, so that every mask is as smooth as its bumps."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from glasshouse.core import BadInput, Images

SHARPNESS = 20.0  # of the soft maximum


@dataclass(frozen=True)
class Lattice:
    """Where the cells of a mask lie, and how far each of them reaches.

    A pixel belongs to the block of `step` × `step` pixels that holds it; within every block the same distances to the
    same neighbouring cells occur, so weights are kept for one block only.

    Args:
        size: height and width of the image in pixels; the mask goes on around it for `margin` pixels.
        step: pixels from one cell to the next.
        cells: rows and columns of cells on the image.
        blocks: rows and columns of blocks, margin included.
        padding: rows of empty cells above the first.
        reach: the cells that a pixel sees lie up to so many rows from its own.
        margin: first row and column of the image within the mask.
        weights: what a cell adds at a pixel, by neighbour of a block and by pixel in the block.
    """

    size: tuple[int, int]
    step: int
    cells: tuple[int, int]
    blocks: tuple[int, int]
    padding: int
    reach: int
    margin: int
    weights: Float[Tensor, "t s"]

    @property
    def whole(self) -> tuple[int, int]:
        """Height and width of a mask, margins included."""
        return self.step * (self.blocks[0] - 1) + 1, self.step * (self.blocks[1] - 1) + 1


def lattice(images: Images, step: int, sigma: float | int) -> Lattice:
    """A lattice for images, with weights `k(z) = exp(-2 max(0, z - 1/2)^2)` at a distance of z sigmas.

    Fong, Patrick and Vedaldi, ICCV 2019, sec. 3.2, in the geometry of the authors' code: margins of one sigma.
    """
    if step < 1 or sigma <= 0:
        raise BadInput(f"cells every {step} pixels that reach {sigma} are no lattice.", "Use step=7, sigma=21.")
    size = (images.shape[2], images.shape[3])
    margin, reach, padding = round(sigma), 1 + ceil(sigma / step), 1 + ceil(2 * sigma / step)
    rows, cols = (ceil(side / step) for side in size)
    blocks = [
        max(count + 2 * (padding - reach), 1 + ceil((margin + side - 1) / step))
        for count, side in zip((rows, cols), size, strict=True)
    ]
    neighbour, pixel = torch.arange(2 * reach + 1).double(), torch.arange(step).double()
    along = pixel - sigma + step * (padding - neighbour[:, None])  # pixels from the neighbour to the pixel
    square = rearrange(along**2, "y p -> y 1 p 1") + rearrange(along**2, "x q -> 1 x 1 q")
    precision = torch.promote_types(images.dtype, torch.float32)
    weights = torch.exp(-2 * (square.sqrt() / sigma - 0.5).clamp(min=0) ** 2)
    return Lattice(
        size,
        step,
        (rows, cols),
        (blocks[0], blocks[1]),
        padding,
        reach,
        margin,
        rearrange(weights, "y x p q -> (y x) (p q)").to(images.device, precision),
    )


def draw_masks(cells: Float[Tensor, "r y x"], on: Lattice) -> Float[Tensor, "r fh fw"]:
    """The masks that cells (0…1) draw, margins included: `m(u) = smax_i k(|u - u_i| / sigma) p_i`.

    smax(v) = sum_i v_i e^{20 v_i} / sum_i e^{20 v_i} stays a little below the maximum where several cells meet.
    """
    below, right = (n + 2 * on.reach - on.padding - c for n, c in zip(on.blocks, on.cells, strict=True))
    padded = F.pad(cells, (on.padding, right, on.padding, below))
    mask = SoftMaximum.apply(padded, on.weights, 2 * on.reach + 1)
    pixels = rearrange(mask, "r (p q) (y x) -> r (y p) (x q)", p=on.step, y=on.blocks[0])
    return pixels[:, : on.whole[0], : on.whole[1]].clamp(0, 1)


def inside(masks: Float[Tensor, "r fh fw"], on: Lattice) -> Float[Tensor, "r h w"]:
    """The part of whole masks that lies on the image."""
    h, w = on.size
    return masks[:, on.margin : on.margin + h, on.margin : on.margin + w]


def neighbours(cells: Float[Tensor, "r y x"], side: int) -> Iterator[Float[Tensor, "r i j"]]:
    """Views of `cells`: for every block its first neighbour, then its second, and so on."""
    rows, cols = cells.shape[1] - side + 1, cells.shape[2] - side + 1
    return (cells[:, y : y + rows, x : x + cols] for y in range(side) for x in range(side))


class SoftMaximum(torch.autograd.Function):
    """smax over the neighbours of every block, as `r s b`: rows, pixels in the block, blocks.

    Neighbours are added one by one in both directions, and their exponentials computed anew on the way back, so that
    memory holds a mask rather than all the values behind each of its pixels.

        d m / d v_i = e^{20 v_i} (1 + 20 (v_i - m)) / sum_j e^{20 v_j}
    """

    @staticmethod
    def forward(ctx: Any, cells: Tensor, weights: Tensor, side: int) -> Tensor:
        """Cells are padded; `side` neighbours in each direction."""
        blocks = next(neighbours(cells, side))[0].numel()
        total = weights.new_zeros(len(cells), weights.shape[1], blocks)
        power, value, count = torch.empty_like(total), torch.empty_like(total), torch.zeros_like(total)
        for near, weight in zip(neighbours(cells, side), SHARPNESS * weights[:, :, None], strict=True):
            torch.mul(near.flatten(1)[:, None], weight, out=value)
            count += torch.exp(value, out=power)
            total.addcmul_(power, value)
        mask = total.div_(count).div_(SHARPNESS)
        ctx.save_for_backward(cells, weights, mask, count)
        ctx.side = side
        return mask

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cells, weights, mask, count = ctx.saved_tensors
        slope = gradients[0] / count
        offset = slope * (1 - SHARPNESS * mask)
        power, value, result = torch.empty_like(mask), torch.empty_like(mask), torch.zeros_like(cells)
        pairs = zip(neighbours(cells, ctx.side), neighbours(result, ctx.side), weights[:, :, None], strict=True)
        for near, change, weight in pairs:
            torch.mul(near.flatten(1)[:, None], SHARPNESS * weight, out=value)
            torch.exp(value, out=power)
            torch.addcmul(offset, slope, value, out=value)
            change += value.mul_(power).mul_(weight).sum(1).view_as(change)
        return result, None, None
