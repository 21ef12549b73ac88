"""Which pixels a unit marks: its map enlarged bilinearly and cut at a threshold, without making the large map.

An enlarged value lies between those of the four grid points around it, so it can be above the threshold only in a
cell that has a corner above it. Only the pixels of such cells are computed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import nan
from typing import Literal, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from glasshouse.core.field import Extent
from glasshouse.core.layers import LayerGeometry
from glasshouse.core.types import Units

Enlarging: TypeAlias = Literal["centers", "half_pixel", "zero"]
"""Where the grid lies on the pixels, and what is beyond it:

- centers: positions lie at the middles of their receptive fields, and the border goes on (Network Dissection, 2017)
- half_pixel: the grid is stretched over the image, `align_corners=False` (Net2Vec), and the border goes on
- zero: as centers, with zeros beyond (Bau et al. 2020); a layer without positions fills the image all the same
"""
AT_ONCE = 2**22  # pixels computed together


class Hits(NamedTuple):
    """Pixels that units mark, one entry each: row in the batch, place among the units, and flat index of the pixel."""

    image: Int[Tensor, " hits"]
    unit: Int[Tensor, " hits"]
    pixel: Int[Tensor, " hits"]


@dataclass(frozen=True)
class Axis:
    """The pixels along one axis of the image, by the cell of the grid (with a border of one around it) they lie in.

    Args:
        share: of the way from the cell's first grid point to the next; not-a-number where the cell has no more pixels.
        first: pixel of each cell.
    """

    share: Float[Tensor, "cells most"]
    first: Int[Tensor, " cells"]

    @classmethod
    def of(cls, n_points: int, positions: Float[Tensor, " p"]) -> "Axis":
        """From the place of each pixel on the grid, whose points lie at 0 … n_points - 1."""
        place = (positions + 1).clamp(0, n_points + 1)
        cell = place.floor().clamp(max=n_points).long()
        count = torch.bincount(cell, minlength=n_points + 1)
        first = count.cumsum(0) - count
        share = torch.full((n_points + 1, int(count.max())), nan, dtype=place.dtype)
        share[cell, torch.arange(len(cell)) - first[cell]] = place - cell
        return cls(share, first)


@dataclass(frozen=True)
class Enlargement:
    """How a layer's grid is enlarged to `size` pixels."""

    rows: Axis
    cols: Axis
    size: tuple[int, int]
    border: Literal["replicate", "constant"]

    @classmethod
    def of(cls, place: LayerGeometry, size: tuple[int, int], how: Enlarging) -> "Enlargement":
        """For label maps of this size over the whole image."""
        rows, cols = (
            Axis.of(n_points, _positions(extent, n_points, n_image, n_pixels, how))
            for extent, n_points, n_image, n_pixels in zip(
                (place.rows, place.cols), place.grid, place.image, size, strict=True
            )
        )
        return cls(rows, cols, size, "constant" if how == "zero" and place.spatial else "replicate")

    def whole(self, maps: Units) -> Float[Tensor, "n u h w"]:
        """Every map, enlarged in full."""
        padded = F.pad(maps, (1, 1, 1, 1), mode=self.border)
        for dim, axis in ((2, self.rows), (3, self.cols)):
            cell, slot = (~axis.share.isnan()).nonzero(as_tuple=True)
            order = (axis.first[cell] + slot).argsort()
            low, share = cell[order].to(maps.device), axis.share[cell, slot][order].to(maps)
            share = share.view(-1, 1) if dim == 2 else share
            start = padded.index_select(dim, low)
            padded = start + share * (padded.index_select(dim, low + 1) - start)
        return padded

    def hits(self, maps: Units, thresholds: Float[Tensor, " u"]) -> Iterator[Hits]:
        """The pixels at which each enlarged map is above its unit's threshold, some at a time."""
        above = thresholds.to(maps.device)
        peak = maps.amax((2, 3))
        if self.border == "constant":
            peak = peak.clamp(min=0)
        image, unit = (peak > above).nonzero(as_tuple=True)
        padded = F.pad(maps[image, unit][:, None], (1, 1, 1, 1), mode=self.border)[:, 0]
        highest = F.max_pool2d(padded[:, None], 2, 1)[:, 0]
        pair, row, col = (highest > above[unit][:, None, None]).nonzero(as_tuple=True)
        rows, cols = self.rows.share.to(maps), self.cols.share.to(maps)
        first = self.rows.first.to(maps.device), self.cols.first.to(maps.device)
        step = max(1, AT_ONCE // (rows.shape[1] * cols.shape[1]))
        for start in range(0, len(pair), step):
            p, r, c = (index[start : start + step] for index in (pair, row, col))
            across = cols[c]
            top, bottom = (
                torch.lerp(padded[p, edge, c, None], padded[p, edge, c + 1, None], across) for edge in (r, r + 1)
            )
            values = torch.lerp(top[:, None], bottom[:, None], rows[r][:, :, None])
            cell, down, right = (values > above[unit[p]][:, None, None]).nonzero(as_tuple=True)
            pixel = (first[0][r[cell]] + down) * self.size[1] + first[1][c[cell]] + right
            yield Hits(image[p[cell]], unit[p[cell]], pixel)


def _positions(extent: Extent, n_points: int, n_image: int, n_pixels: int, how: Enlarging) -> Float[Tensor, " p"]:
    """The place of each pixel of a label map on the grid."""
    pixels = torch.arange(n_pixels, dtype=torch.float64)
    if how == "half_pixel":
        return (pixels + 0.5) * n_points / n_pixels - 0.5
    ratio = n_image / n_pixels
    step = round(ratio) if ratio >= 1 and abs(ratio - round(ratio)) < 0.05 else ratio  # 113 label pixels of 227: by 2
    return (pixels * step - extent.start) / extent.jump
