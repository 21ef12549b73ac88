"""The value that a given fraction of a unit's activations lie below: of all of them, or near the top."""

from dataclasses import dataclass, field
from itertools import zip_longest
from math import ceil, floor

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.core.errors import BadInput
from glasshouse.core.stats.hashing import scramble
from glasshouse.core.stats.protocol import Counted, check_count, check_level, in_single, reject_nan


@dataclass(eq=False, repr=False)
class Quantiles(Counted):
    """Every quantile of each unit, to a stated rank error, in memory that does not grow with the data.

    Level l keeps values that stand for 2^l each. A level with more than `width (2/3)^(depth - 1 - l)` of
    them is sorted, and every other one is promoted to the next; whether the odd or the even ones is a bit
    scrambled from the values themselves, so that a unit's reading is a function of its own values and
    `seed`, and the errors of shards are independent. Until the first promotion it is exact.
    Smallest, largest and exact zeros (a ReLU's resting state) are counted apart, and are always exact.

    Karnin, Lang and Liberty, "Optimal quantile approximation in streams", FOCS 2016.
    """

    width: int = 4096
    seed: int = 0
    count: int = field(init=False, default=0)
    zeros: Int[Tensor, " k"] = field(init=False, default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    lowest: Float[Tensor, " k"] = field(init=False, default_factory=lambda: torch.zeros(0))
    highest: Float[Tensor, " k"] = field(init=False, default_factory=lambda: torch.zeros(0))
    # The levels side by side; each is as wide as its longest unit, the others are filled up with infinity.
    values: Float[Tensor, "k m"] = field(init=False, default_factory=lambda: torch.zeros(0, 0))
    sizes: Int[Tensor, "k levels"] = field(init=False, default_factory=lambda: torch.zeros(0, 0, dtype=torch.int64))

    def __post_init__(self) -> None:
        check_count("width", self.width, 8)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.zeros.shape)

    @property
    def rank_error(self) -> float:
        """The true rank of `at(level)` differs from `level` by no more than this, in 99 of 100 readings.

        The promotions of one level shift a rank by ±2^l each, with independent signs; their squares add up
        to at most 6 (n / width)², and Hoeffding's inequality does the rest. Typical errors are a tenth of it.
        """
        return 8 / self.width

    def update(self, values: Float[Tensor, "n k *grid"]) -> None:
        """Every image and position counts as one value."""
        reject_nan(values)
        if values.isinf().any():
            raise BadInput("an activation is infinite.", "Run the model in float32.")
        rows = rearrange(in_single(values), "n k ... -> k (n ...)")
        if not rows.numel():
            return
        part, zero = self.fresh(), rows == 0
        part.count, part.zeros = rows.shape[1], zero.sum(1)
        part.lowest, part.highest = rows.aminmax(dim=1)
        part._settle([rows.masked_fill(zero, torch.inf)], [part.count - part.zeros])
        self.merge(part)

    def _join(self, other: "Quantiles") -> None:
        self.count += other.count
        self.zeros = self.zeros + other.zeros
        self.lowest = torch.minimum(self.lowest, other.lowest)
        self.highest = torch.maximum(self.highest, other.highest)
        none = self.values[:, :0]
        levels = zip_longest(self._levels(), other._levels(), fillvalue=none)
        sizes = zip_longest(self.sizes.T, other.sizes.T, fillvalue=torch.zeros_like(self.zeros))
        self._settle([torch.cat(pair, 1) for pair in levels], [ours + theirs for ours, theirs in sizes])

    def _levels(self) -> tuple[Tensor, ...]:
        return torch.split(self.values, [int(width) for width in self.sizes.amax(0)], 1)

    def _settle(self, levels: list[Tensor], sizes: list[Tensor]) -> None:
        """Promote half of every level that has outgrown its room, from the finest up."""
        for level, _ in enumerate(levels):  # grows while it runs
            depth = _depth(sizes)
            room = (self.width * (2 / 3) ** (depth - 1 - level).double()).ceil().clamp(min=2)
            n_out = torch.where(sizes[level] > room, sizes[level] // 2 * 2, 0)
            if n_out.any():
                if level + 1 == len(levels):
                    levels.append(levels[level][:, :0])
                    sizes.append(torch.zeros_like(self.zeros))
                rest, promoted = _halve(levels[level], n_out, self.seed + level)
                sizes[level] = sizes[level] - n_out
                sizes[level + 1] = sizes[level + 1] + n_out // 2
                levels[level] = rest
                levels[level + 1] = torch.cat([levels[level + 1], promoted], 1)
            levels[level] = _pack(levels[level], sizes[level])
        self.values, self.sizes = torch.cat(levels, 1), torch.stack(sizes, 1)

    def at(self, level: float) -> Float[Tensor, " k"]:
        """The value of each unit with the fraction `level` of its activations below it.

        Linear between mid-ranks, where the i-th of n sorted values has level (i - 1/2) / n (Hazen 1914).
        """
        check_level(level)
        if not self.count:
            return self.lowest
        values, ranks = self._knots()
        place = torch.full_like(ranks[:, :1], level * self.count)
        right = torch.searchsorted(ranks, place).clamp(min=1)
        (r0, r1), (v0, v1) = ((x.gather(1, right - 1), x.gather(1, right)) for x in (ranks, values))
        share = (place - r0) / (r1 - r0).clamp(min=torch.finfo(torch.float64).tiny)
        return (v0 + share * (v1 - v0)).squeeze(1).to(self.values.dtype)

    def _knots(self) -> tuple[Tensor, Tensor]:
        """Values of each unit with their mid-ranks, both ascending."""
        values, order = self.values.double().sort(1)
        weight = self._weights()[order] * values.isfinite()
        ranks = weight.cumsum(1) - weight / 2 + (values > 0) * self.zeros[:, None]
        ranks = ranks.masked_fill(values.isinf(), torch.inf)
        first, last = self._atom()
        none = self.zeros == 0
        atom = torch.stack([first, last], 1).masked_fill(none[:, None], torch.inf)
        ends = torch.stack([self.lowest, self.highest], 1).double()
        end_ranks = torch.tensor([0, self.count], dtype=torch.float64, device=ends.device).expand_as(ends)
        values = torch.cat([values, torch.where(atom.isinf(), torch.inf, 0.0), ends], 1)
        # Values rise with ranks, so that sorting each on its own keeps the pairs.
        return values.sort(1).values, torch.cat([ranks, atom, end_ranks], 1).sort(1).values

    def _weights(self) -> Tensor:
        widths = self.sizes.amax(0)
        weight = 2.0 ** torch.arange(len(widths), dtype=torch.float64, device=widths.device)
        return weight.repeat_interleave(widths)

    def _atom(self) -> tuple[Tensor, Tensor]:
        """Mid-ranks of the first and the last exact zero."""
        below = ((self.values < 0) * self._weights()).sum(1)
        return below + 0.5, below + self.zeros - 0.5

    def dense_zero(self, level: float) -> Bool[Tensor, " k"]:
        """Units whose quantile lies among their exact zeros: more than `level` of them are at rest."""
        check_level(level)
        first, last = self._atom()
        rank = min(max(level * self.count, 0.5), self.count - 0.5)
        return (first <= rank) & (rank <= last)


def _depth(sizes: list[Tensor]) -> Tensor:
    """How many levels each unit uses."""
    return torch.stack([(size > 0).long() * (i + 1) for i, size in enumerate(sizes)]).amax(0)


def _halve(values: Tensor, n_out: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """What stays of a level when the `n_out` smallest of each unit leave, and every other one of those."""
    values = values.sort(1).values
    places = torch.arange(values.shape[1], device=values.device)
    leaving = places < n_out[:, None]
    bits = values.view(torch.int64 if values.dtype == torch.float64 else torch.int32)
    odd = scramble(torch.where(leaving, bits, 0).sum(1), seed) & 1
    pairs = values.masked_fill(~leaving, torch.inf)[:, : int(n_out.max())]
    pairs = rearrange(pairs, "k (m two) -> k m two", two=2)
    promoted = torch.where(odd[:, None] == 1, pairs[..., 1], pairs[..., 0])
    return values.masked_fill(leaving, torch.inf), promoted


def _pack(values: Tensor, size: Tensor) -> Tensor:
    """The same level without columns in which no unit has a value."""
    width = int(size.max())
    return values if values.shape[1] == width else values.sort(1).values[:, :width]


@dataclass(eq=False, repr=False)
class UpperTail(Counted):
    """Every quantile of each unit from `level` up, exactly, out of at most `n_max` values per unit.

    Keeps the `(1 - level) n_max` largest. For dissection (level 0.995 or so) this is cheaper than a sketch:
    only values above the smallest kept one are looked at.
    """

    level: float
    n_max: int
    count: int = field(init=False, default=0)
    # The first `n_kept` columns, if there are as many, are descending; the others wait to be sorted in.
    tail: Float[Tensor, "k m"] = field(init=False, default_factory=lambda: torch.zeros(0, 0))

    def __post_init__(self) -> None:
        check_level(self.level)
        check_count("n_max", self.n_max)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tail.shape[:1])

    @property
    def n_kept(self) -> int:
        """Values kept per unit: the tail, and one more to interpolate towards."""
        return min(ceil((1 - self.level) * self.n_max) + 1, self.n_max)

    def update(self, values: Float[Tensor, "n k *grid"]) -> None:
        """Every image and position counts as one value."""
        reject_nan(values)
        part = self.fresh()
        part.tail = rearrange(in_single(values), "n k ... -> k (n ...)")
        part.count = part.tail.shape[1]
        part._sort()
        self.merge(part)

    def _sort(self) -> None:
        self.tail = self.tail.topk(min(self.n_kept, self.tail.shape[1]), 1).values

    def _join(self, other: "UpperTail") -> None:
        self.count += other.count
        before, new = self.tail.shape[1], other.tail
        if before >= self.n_kept:
            n_new = (new > self.tail[:, self.n_kept - 1 : self.n_kept]).sum(1).max()
            new = new.topk(int(n_new), 1).values
        self.tail = torch.cat([self.tail, new], 1)
        width = self.tail.shape[1]
        if before < self.n_kept <= width or width > 2 * self.n_kept:
            self._sort()

    def state(self) -> dict[str, Tensor]:
        """What it counted, as a copy on the CPU."""
        self._sort()
        return super().state()

    def at(self, level: float) -> Float[Tensor, " k"]:
        """As `Quantiles.at`: the value of each unit with the fraction `level` of its activations below it."""
        check_level(level)
        if not self.count:
            return self.tail.sum(1)
        self._sort()
        place = min(max(level * self.count - 0.5, 0.0), self.count - 1.0)
        above = self.count - 1 - floor(place)
        if above >= self.tail.shape[1]:
            kept = self.tail.shape[1]
            raise BadInput(
                f"level {level} of {self.count} values needs the {above + 1} largest, but {kept} are kept.",
                f"Use UpperTail(level={min(level, self.level)}, n_max={max(self.count, self.n_max)}).",
            )
        upper, lower = self.tail[:, max(above - 1, 0)].double(), self.tail[:, above].double()
        return (lower + (place - floor(place)) * (upper - lower)).to(self.tail.dtype)
