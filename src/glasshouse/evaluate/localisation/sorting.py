"""The pixels of a map in order, each with whether it lies in the mask: one sort for everything that looks at ranks."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from glasshouse.core import BadInput, Explanation, Images, Maps, Masks, PerImage
from glasshouse.evaluate.localisation.masks import CHUNK, beside, fitting, in_parts

LARGEST = 2**31 - 1
"""All bits of a float32 but the sign: the size of the number, as steps from 0."""


@dataclass(frozen=True, eq=False)
class Ordering:
    """Each map's values in ascending order. Hand the same one to several metrics: they then share the sort.

    Args:
        values: ascending, in the maps' precision (at least float32).
        upto: how many of the first 0…d pixels in this order lie in the mask. Within equal values the order means
            nothing.
    """

    heatmap: Maps
    masks: Masks
    values: Float[Tensor, "n d"]
    upto: Int[Tensor, "n e"]

    @property
    def inside(self) -> Int[Tensor, " n"]:
        """Pixels of each mask."""
        return self.upto[:, -1].long()

    @property
    def area(self) -> PerImage:
        """Each mask's share of the image."""
        return self.inside.double() / self.values.shape[1]

    @property
    def faults(self) -> dict[str, Bool[Tensor, " n"]]:
        """Where a map cannot be compared with a mask; what is not finite has been sorted to an end."""
        return {"not_finite": ~self.values[:, [0, -1]].isfinite().all(1), "empty_mask": self.inside == 0}

    @cached_property
    def curve_areas(self) -> Float[Tensor, "n 2"]:
        """Areas under the ROC curve (by trapezoids) and under the precision-recall curve (by steps)."""
        return in_parts(areas_of, self.values, self.upto)


def ordering(explanation: Explanation, masks: Masks) -> Ordering:
    """Sort the maps of an explanation, once for all metrics that are handed the result as `order`."""
    masks, flat = beside(masks, explanation.heatmap), explanation.heatmap.detach().flatten(1)
    n, d = flat.shape
    values = flat.new_empty(n, d, dtype=torch.promote_types(flat.dtype, torch.float32))
    upto = torch.zeros(n, d + 1, dtype=torch.int32, device=flat.device)
    step = max(1, CHUNK // d)
    for start in range(0, n, step):
        rows = slice(start, start + step)
        values[rows], upto[rows, 1:] = sorted_with(flat[rows], masks[rows].flatten(1))
    return Ordering(explanation.heatmap, masks, values, upto)


def sorted_with(
    flat: Float[Tensor, "r d"], inside: Bool[Tensor, "r d"]
) -> tuple[Float[Tensor, "r d"], Int[Tensor, "r d"]]:
    """Rows in ascending order, and how many pixels up to each place lie inside.

    The last bit of each number tells whether the pixel is inside, so that a plain sort of numbers carries it along: on
    a processor that is much faster than to sort indices. Float64 gives its own last bit for that. Float32 has a bit to
    spare: the sizes of a row's numbers are counted from the smallest, and are less than 2³⁰ steps apart unless their
    ratio is above 2¹²⁸; only then they are sorted as float64. So no float32 loses anything.
    """
    bits = flat.float().view(torch.int32)
    size = bits.bitwise_and(LARGEST)
    below = (size - 1).bitwise_and_(LARGEST).amin(1, keepdim=True)  # the smallest size but 0, less 1
    steps = size.sub_(below).clamp_(min=0)
    if flat.dtype == torch.float64 or int(steps.max()) >= 2**30:
        wide = sort_in_place(flat.double().view(torch.int64).bitwise_and(-2).bitwise_or_(inside).view(torch.float64))
        found = wide.view(torch.int64).bitwise_and(1).cumsum(1, dtype=torch.int32)
        return wide.view(torch.int64).bitwise_and_(-2).view(torch.float64), found
    negative = bits.bitwise_right_shift(31)  # -1 or 0: steps ^ -1 - -1 is -steps
    keys = sort_in_place(steps.bitwise_xor_(negative).sub_(negative).mul_(2).add_(inside))
    found = keys.bitwise_and(1).cumsum(1, dtype=torch.int32)
    negative = keys.bitwise_right_shift_(1).bitwise_right_shift(31)
    steps = keys.bitwise_xor_(negative).sub_(negative)
    size = steps.addcmul_(steps.sign(), below)
    return size.bitwise_or_(negative.bitwise_left_shift_(31)).view(torch.float32), found


def sort_in_place(rows: Shaped[Tensor, "r d"]) -> Shaped[Tensor, "r d"]:
    """Each row in ascending order; on a processor by numpy, which is more than ten times as fast as torch."""
    if rows.device.type != "cpu":
        return rows.sort(1).values
    rows.numpy().sort(axis=1)
    return rows


def ordered(order: Ordering | None, explanation: Explanation, masks: Masks, inputs: Images) -> Ordering:
    """The ordering given, if it is of these maps and masks, else a new one."""
    masks = fitting(masks, explanation, inputs)
    if order is None:
        return ordering(explanation, masks)
    same_maps = order.heatmap is explanation.heatmap or order.heatmap.equal(explanation.heatmap)
    if not (same_maps and (order.masks is masks or order.masks.equal(masks))):
        raise BadInput("the ordering given is of other maps or masks.", "Make ordering(explanation, masks).")
    return order


def at_or_above(order: Ordering, cuts: Float[Tensor, "n t"]) -> tuple[Int[Tensor, "n t"], Int[Tensor, "n t"]]:
    """For each cut, the pixels whose value is no smaller: all of them, and those in the mask."""
    below = torch.searchsorted(order.values, cuts.to(order.values).contiguous())
    return order.values.shape[1] - below, order.inside[:, None] - order.upto.gather(1, below)


def in_top(order: Ordering, k: Int[Tensor, " n"]) -> PerImage:
    """How many of each map's `k` highest pixels lie in the mask. Of equal values that do not all fit, a share counts:
    what a random order of them would find on average."""
    place = (order.values.shape[1] - k)[:, None]
    cut = order.values.gather(1, place)
    every, inside = at_or_above(order, torch.cat([cut, cut.nextafter(torch.full_like(cut, torch.inf))], 1))
    (reached, above), (found, sure) = every.double().unbind(1), inside.double().unbind(1)
    return sure + (found - sure) * (k - above) / (reached - above)


def areas_of(values: Float[Tensor, "r d"], upto: Int[Tensor, "r e"]) -> Float[Tensor, "r 2"]:
    """`Ordering.curve_areas` of a few rows: from each place whose value is alone, and from each block of equal values.

    A pixel inside at place j leads d - j - 1 others, so the ROC's sum of ranks is a sum of `upto`. In a block of m
    places with f pixels inside, `upto` is taken to rise evenly, and precision is that of the whole block.
    """
    d, total = values.shape[1], upto[:, -1].double()
    new = torch.ones_like(upto, dtype=torch.bool)
    torch.ne(values[:, 1:], values[:, :-1], out=new[:, 1:-1])
    first, last = new[:, :-1], new[:, 1:]
    alone = first & last
    at_least = upto[:, -1:] - upto  # pixels inside from each place on
    from_place = 1 / torch.arange(d, 0, -1, dtype=torch.float64, device=values.device)
    rising = (upto[:, 1:] * alone).sum(1).double()
    precision = (at_least[:, :-1] * upto.diff(dim=1) * alone).double() @ from_place
    row, edge = (first ^ last).nonzero().unbind(1)  # where a block starts, where it ends, in turn
    row, start, end = row[::2], edge[::2], edge[1::2] + 1
    before, found = upto[row, start], upto[row, end] - upto[row, start]
    rising.index_add_(0, row, (end - start) * before + found * (end - start + 1).double() / 2)
    precision.index_add_(0, row, found * at_least[row, start] * from_place[start])
    ranks = d * total - rising  # of the pixels inside, from 0; equal values share their mean
    return torch.stack([(ranks - total * (total - 1) / 2) / (total * (d - total)), precision / total], 1)
