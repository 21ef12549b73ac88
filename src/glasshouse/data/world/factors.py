"""The factors of a scene: what may differ between two images, and how it is drawn."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glasshouse.core.errors import BadInput, not_found
from glasshouse.data.world.chance import choice, uniform

Factors: TypeAlias = Mapping[str, Tensor]
"""Every factor's value in every image: int64 places in `values`, or float64 numbers."""

Setting: TypeAlias = str | int | float | Tensor


@dataclass(frozen=True)
class Factor:
    """One thing that varies from scene to scene, independently of the others unless it is asked otherwise.

    Attributes:
        values: names of what it can be; empty for a number.
        low, high: range of a number; drawn uniformly.
        weights: how often each value comes; all equally often when empty.
        group: what it belongs to, such as `layout`, `geometry`, `appearance`.
    """

    name: str
    values: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 1.0
    weights: tuple[float, ...] = ()
    group: str = ""

    @property
    def kind(self) -> str:
        return "categorical" if self.values else "continuous"

    def middle(self) -> int | float:
        """The value that stands for it where it is not varied: the first one, or the middle of the range."""
        return 0 if self.values else (self.low + self.high) / 2

    def shares(self) -> Tensor:
        """The probability of each value."""
        weights = torch.tensor(self.weights or (1.0,) * len(self.values), dtype=torch.float64)
        return weights / weights.sum()

    def quantile(self, share: Float[Tensor, " n"]) -> Tensor:
        """The values below which the given shares of all draws lie."""
        if self.values:
            return torch.bucketize(share, self.shares().cumsum(0)[:-1], right=True)
        return self.low + (self.high - self.low) * share

    def encode(self, setting: Setting, n: int) -> Tensor:
        """`setting` for n images, as it is kept in `factors`: a name, a number, or a tensor with one each."""
        if isinstance(setting, str):
            if setting not in self.values:
                raise not_found(f"value of '{self.name}'", setting, self.values)
            setting = self.values.index(setting)
        given = torch.as_tensor(setting, dtype=torch.float64)
        if given.ndim > 1 or given.numel() not in (1, n):
            raise BadInput(
                f"'{self.name}' has shape {tuple(given.shape)} for {n} scenes.", "Give one value, or one each."
            )
        top = len(self.values) - 1 if self.values else sys.float_info.max
        low = 0 if self.values else -sys.float_info.max
        if not bool(((given >= low) & (given <= top)).all()) or (self.values and not torch.equal(given, given.floor())):
            known = f"has {len(self.values)} values, 0…{top}" if self.values else "is a finite number"
            raise BadInput(f"'{self.name}' {known}, and {given.tolist()} was asked for.")
        return given.to(torch.long if self.values else torch.float64).expand(n).clone()


@dataclass(frozen=True)
class Grid:
    """Every combination of some factors' levels, numbered: index = Σ level_f · Π(sizes of the factors after f).

    A number is taken at the middles of `n` equal parts of its range.
    """

    factors: tuple[Factor, ...]
    sizes: tuple[int, ...]

    def __len__(self) -> int:
        return math.prod(self.sizes)

    def levels(self, index: Int[Tensor, " n"]) -> Int[Tensor, "n f"]:
        """The level of each factor in the images of these numbers."""
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < len(self):
            raise BadInput(f"the grid has the scenes 0…{len(self) - 1}; {index.min()}…{index.max()} was asked for.")
        columns: list[Tensor] = []
        for size in reversed(self.sizes):
            columns.append(index % size)
            index = index // size
        return torch.stack(columns[::-1], 1) if columns else index.new_zeros(len(index), 0)

    def index(self, levels: Int[Tensor, "n f"]) -> Int[Tensor, " n"]:
        """The numbers of the images with these levels: the inverse of `levels`."""
        total = torch.zeros(len(levels), dtype=torch.long)
        for column, size in enumerate(self.sizes):
            total = total * size + levels[:, column]
        return total

    def values(self, index: Int[Tensor, " n"]) -> dict[str, Tensor]:
        """The factors' values in the images of these numbers."""
        levels = self.levels(index)
        return {
            factor.name: level if factor.values else factor.quantile((level.double() + 0.5) / size)
            for factor, size, level in zip(self.factors, self.sizes, levels.unbind(1), strict=True)
        }


@dataclass(frozen=True)
class Joint:
    """Two or more named values drawn together, from a table of their probabilities.

    `Joint(("main", "ground"), table)`: `table[i, j]` is proportional to how often the i-th main comes with the
    j-th ground.
    """

    names: tuple[str, ...]
    table: Float[Tensor, "..."]

    def draw(self, index: Int[Tensor, " n"], seed: int, schema: Mapping[str, Factor]) -> dict[str, Tensor]:
        shape = tuple(len(find(schema, name).values) for name in self.names)
        if self.table.shape != shape or not bool((self.table >= 0).all()) or not float(self.table.sum()) > 0:
            raise BadInput(
                f"the joint table of {self.names} has shape {tuple(self.table.shape)}; their values need {shape}, "
                "with no negative entry and a positive sum.",
            )
        cell = choice(index, seed, "/".join(self.names), self.table.flatten())
        return dict(zip(self.names, torch.unravel_index(cell, shape), strict=True))


@dataclass(frozen=True)
class Copula:
    """Factors whose ranks are correlated: normal scores with the given correlation matrix, own distributions kept."""

    names: tuple[str, ...]
    correlation: Float[Tensor, "f f"]

    def draw(self, index: Int[Tensor, " n"], seed: int, schema: Mapping[str, Factor]) -> dict[str, Tensor]:
        matrix = self.correlation.double()
        fits = matrix.shape == (len(self.names),) * 2 and torch.equal(matrix, matrix.mT)
        unit = fits and bool((matrix.diagonal() - 1).abs().max() < 1e-6)
        root, failed = torch.linalg.cholesky_ex(matrix if unit else -torch.ones(1, 1))
        if int(failed):
            raise BadInput(
                f"the correlations of {self.names} are no correlation matrix: {self.correlation.tolist()}.",
                "Give a symmetric, positive definite matrix with ones on its diagonal.",
            )
        shares = torch.stack([uniform(index, seed, name) for name in self.names], 1)
        scores = torch.special.ndtri(shares.clamp(1e-12, 1 - 1e-12)) @ root.mT
        ranks = torch.special.ndtr(scores)
        return {name: find(schema, name).quantile(ranks[:, i].contiguous()) for i, name in enumerate(self.names)}


def find(schema: Mapping[str, Factor], name: str) -> Factor:
    """The factor of that name, or an error that lists the nearest ones."""
    if name not in schema:
        raise not_found("factor", name, schema)
    return schema[name]


def grid_of(schema: Mapping[str, Factor], wanted: Mapping[str, int] | Sequence[str]) -> Grid:
    """The grid over some factors: by default all values of a named one, five levels of a number."""
    sizes = dict(wanted) if isinstance(wanted, Mapping) else dict.fromkeys(wanted, 0)
    factors = tuple(find(schema, name) for name in sizes)
    levels = tuple(size or len(factor.values) or 5 for factor, size in zip(factors, sizes.values(), strict=True))
    for factor, size in zip(factors, levels, strict=True):
        if size < 1 or (factor.values and size > len(factor.values)):
            raise BadInput(f"'{factor.name}' has {len(factor.values) or 'no'} values; {size} levels were asked for.")
    return Grid(factors, levels)


def draw_factors(
    schema: Mapping[str, Factor],
    index: Int[Tensor, " n"],
    seed: int,
    *,
    fixed: Mapping[str, Setting] | None = None,
    together: Sequence[Joint | Copula] = (),
) -> dict[str, Tensor]:
    """Every factor's value for the images of these numbers.

    Args:
        fixed: factors that are not drawn, with their values.
        together: factors that are drawn jointly; the others are independent.
    """
    values = {name: factor.quantile(uniform(index, seed, name)) for name, factor in schema.items()}
    for group in together:
        values |= group.draw(index, seed, schema)
    for name, setting in (fixed or {}).items():
        values[name] = find(schema, name).encode(setting, len(index))
    return values
