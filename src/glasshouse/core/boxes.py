"""The box of an activation that a patch of the image can reach; outside it everything is as in the clean pass.

A chunk of patches has one box each: all of one size, so that they stack to a batch, each at a place of its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Int
from torch import Tensor

Axes = tuple[int, int]


@dataclass(frozen=True)
class Taps:
    """A window along one axis: `kernel` taps, `dilation` apart, moved by `stride`, from `before` the first position."""

    kernel: int
    stride: int = 1
    before: int = 0
    dilation: int = 1

    @property
    def reach(self) -> int:
        return (self.kernel - 1) * self.dilation


@dataclass(frozen=True)
class Span:
    """`size` positions of an axis from `first` on, for each patch."""

    first: Int[Tensor, " p"]
    size: int

    def through(self, taps: Taps, out: int) -> "Span":
        """The positions of the output, `out` in all, whose window meets these; one at least."""
        low = (self.first + taps.before - taps.reach + taps.stride - 1).div(taps.stride, rounding_mode="floor")
        high = (self.first + self.size - 1 + taps.before).div(taps.stride, rounding_mode="floor")
        return between(low.clamp(min=0), high.clamp(max=out - 1) + 1, out)

    def read_by(self, taps: Taps) -> "Span":
        """What windows at these positions read, counted from the first position of the padding."""
        return Span(self.first * taps.stride, (self.size - 1) * taps.stride + taps.reach + 1)

    def shifted(self, by: int) -> "Span":
        return Span(self.first + by, self.size)

    def joined(self, other: "Span", out: int) -> "Span":
        """Both, and what lies between."""
        if other is self:
            return self
        last = torch.maximum(self.first + self.size, other.first + other.size)
        return between(torch.minimum(self.first, other.first), last, out)

    def positions(self) -> Int[Tensor, "p s"]:
        return self.first[:, None] + torch.arange(self.size)

    def same(self, other: "Span") -> bool:
        return self.size == other.size and torch.equal(self.first, other.first)


def between(first: Int[Tensor, " p"], stop: Int[Tensor, " p"], out: int) -> Span:
    """From `first` to before `stop`, all made as long as the longest, inside an axis of `out` positions."""
    size = min(out, max(1, int((stop - first).max())))
    return Span(first.clamp(max=out - size), size)


@dataclass(frozen=True)
class Box:
    """An activation of `p` images that differ from a clean one in a box each.

    Args:
        clean: the clean activation, a batch of one.
        values: the boxes' values, `p` rows, whatever axes the activation has.
        axes: which of them are rows and columns.
    """

    clean: Tensor
    values: Tensor
    rows: Span
    cols: Span
    axes: Axes

    @property
    def grid(self) -> tuple[int, int]:
        return self.clean.shape[self.axes[0]], self.clean.shape[self.axes[1]]

    def whole(self) -> Tensor:
        """The activation of all `p` images."""
        shape, strides = (len(self.values), *self.clean.shape[1:]), (self.clean[0].numel(), *self.clean.stride()[1:])
        out = torch.empty_strided(shape, strides, dtype=self.clean.dtype, device=self.clean.device).copy_(self.clean)
        paste(self, out, torch.zeros_like(self.rows.first), torch.zeros_like(self.cols.first))
        return out

    def within(self, rows: Span, cols: Span) -> Tensor:
        """The activation at other spans: these values where they lie inside, clean ones elsewhere."""
        if rows.same(self.rows) and cols.same(self.cols):
            return self.values
        out = windows(self.clean, rows, cols, self.axes)
        paste(self, out, rows.first, cols.first)
        return out


def windows(whole: Tensor, rows: Span, cols: Span, axes: Axes) -> Tensor:
    """`p` windows of one activation, a batch of one."""
    flat = whole.movedim(axes, (1, 2))[0]
    place = rows.positions()[:, :, None] * flat.shape[1] + cols.positions()[:, None, :]
    picked = flat.flatten(0, 1).index_select(0, place.flatten().to(whole.device))
    return picked.unflatten(0, place.shape).movedim((1, 2), axes)


def paste(box: Box, into: Tensor, top: Int[Tensor, " p"], left: Int[Tensor, " p"]) -> None:
    """Write each box into its row of `into`, whose first row and column are `top` and `left`; the rest is cut off."""
    target, source = into.movedim(box.axes, (1, 2)), box.values.movedim(box.axes, (1, 2))
    offsets = torch.stack([box.rows.first - top, box.cols.first - left], 1).tolist()
    for patches, (i, j) in runs(offsets):
        rows, from_rows = overlap(i, box.rows.size, target.shape[1])
        cols, from_cols = overlap(j, box.cols.size, target.shape[2])
        target[patches, rows, cols] = source[patches, from_rows, from_cols]


def runs(values: Sequence[list[int]]) -> Iterator[tuple[slice, list[int]]]:
    """Stretches of equal neighbours."""
    starts = [place for place in range(len(values)) if not place or values[place] != values[place - 1]]
    for start, stop in pairwise([*starts, len(values)]):
        yield slice(start, stop), values[start]


def overlap(offset: int, size: int, room: int) -> tuple[slice, slice]:
    """Where `size` positions land that are put at `offset` into a room, and which of them do."""
    first = max(0, offset)
    stop = max(first, min(room, offset + size))
    return slice(first, stop), slice(first - offset, stop - offset)
