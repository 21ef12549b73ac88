"""Mean, variance and covariance in one pass, however the data is split."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from glasshouse.core.stats.protocol import Counted, in_double, reject_nan


def _doubles(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)


@dataclass(eq=False, repr=False)
class Moments(Counted):
    """Count, mean and variance of each column, in float64.

        n = n1 + n2,   gap = m2 - m1,   m = m1 + gap n2 / n,   M = M1 + M2 + gap² n1 n2 / n

    Chan, Golub and LeVeque, "Algorithms for computing the sample variance", The American Statistician 1983.
    """

    count: int = field(init=False, default=0)
    mean: Float[Tensor, " k"] = field(init=False, default_factory=lambda: _doubles(0))
    squares: Float[Tensor, " k"] = field(init=False, default_factory=lambda: _doubles(0))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.mean.shape)

    def update(self, rows: Float[Tensor, "n k"]) -> None:
        """One row per image (or per position), one column per unit."""
        reject_nan(rows)
        if len(rows):
            part, rows = self.fresh(), in_double(rows)
            part.count, part.mean = len(rows), rows.mean(0)
            part.squares = (rows - part.mean).square().sum(0)
            self.merge(part)

    def _join(self, other: "Moments") -> None:
        count, gap = self.count + other.count, other.mean - self.mean
        self.squares = self.squares + other.squares + gap.square() * (self.count * other.count / count)
        self.mean = self.mean + gap * (other.count / count)
        self.count = count

    @property
    def variance(self) -> Float[Tensor, " k"]:
        """Mean squared distance from the mean (divided by n, not n - 1)."""
        return self.squares / self.count

    @property
    def std(self) -> Float[Tensor, " k"]:
        """Root of the variance, in the unit of the data."""
        return self.variance.sqrt()


@dataclass(eq=False, repr=False)
class Covariance(Counted):
    """Count, mean and covariance of all pairs of columns, in float64: `Moments` with an outer product.

    M = M1 + M2 + gap gapᵀ n1 n2 / n
    """

    count: int = field(init=False, default=0)
    mean: Float[Tensor, " k"] = field(init=False, default_factory=lambda: _doubles(0))
    products: Float[Tensor, "k k"] = field(init=False, default_factory=lambda: _doubles(0, 0))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.mean.shape)

    def update(self, rows: Float[Tensor, "n k"]) -> None:
        """One row per image (or per position), one column per unit."""
        reject_nan(rows)
        if len(rows):
            part, rows = self.fresh(), in_double(rows)
            part.count, part.mean = len(rows), rows.mean(0)
            rows = rows - part.mean
            part.products = rows.T @ rows
            self.merge(part)

    def _join(self, other: "Covariance") -> None:
        count, gap = self.count + other.count, other.mean - self.mean
        self.products = self.products + other.products
        self.products.addr_(gap, gap, alpha=self.count * other.count / count)
        self.mean = self.mean + gap * (other.count / count)
        self.count = count

    @property
    def matrix(self) -> Float[Tensor, "k k"]:
        """Mean product of the distances from the two means (divided by n, not n - 1)."""
        return self.products / self.count

    @property
    def correlation(self) -> Float[Tensor, "k k"]:
        """Covariance in units of the two standard deviations, -1…1; 0 where a column is constant."""
        std = self.matrix.diagonal().sqrt()
        scale = torch.outer(std, std)
        return torch.where(scale > 0, self.matrix / scale, 0.0)
