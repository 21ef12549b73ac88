"""What a share counted on a few images says of all images: exact limits, tails, and resampling."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import lgamma, log, log1p, nan
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glasshouse.core import BadInput, Noun, generator

N_RESAMPLES = 1000
N_HALVINGS = 200


@dataclass(frozen=True, repr=False)
class Rate(Noun):
    """A share that was counted, and the limits between which the true one lies.

    Args:
        hits, total: how often it was so, of how many.
        level: of the confidence interval.
    """

    hits: int
    total: int
    level: float = 0.95

    def __repr__(self) -> str:
        if not self.total:
            return "Rate(of nothing)"
        low, high = self.interval
        return f"Rate({self.share:.3f}, {low:.3f}…{high:.3f}, {self.hits} of {self.total})"

    @property
    def share(self) -> float:
        """The share counted; not-a-number of nothing."""
        return self.hits / self.total if self.total else nan

    @property
    def interval(self) -> tuple[float, float]:
        """Exact limits, see `clopper_pearson`."""
        return clopper_pearson(self.hits, self.total, self.level)

    def at(self, level: float) -> "Rate":
        """The same count with limits at another level."""
        return Rate(self.hits, self.total, level)


@cache
def clopper_pearson(hits: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """The shares at which as many hits, or as few, would still be seen with a probability of (1 - level) / 2.

        P(X >= hits | low) = P(X <= hits | high) = (1 - level) / 2,   X binomial

    Clopper and Pearson, Biometrika 1934. Covers the true share with probability `level` at least, whatever it is.
    """
    if not 0 <= hits <= total:
        raise BadInput(f"{hits} of {total} is no share.", "Use 0 <= hits <= total.")
    rest = (1 - checked_level(level)) / 2
    return lowest_share(hits, total, rest), 1 - lowest_share(total - hits, total, rest)


def lowest_share(hits: int, total: int, rest: float) -> float:
    """The share p with P(X >= hits | p) = rest, by halving; 0 without hits."""
    if hits == 0:
        return 0.0
    terms, low, high = Terms.of(hits, total), 0.0, hits / total
    for _ in range(N_HALVINGS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if terms.tail(middle) < rest else (low, middle)
    return (low + high) / 2


def binomial_tail(hits: int, total: int, share: float) -> float:
    """P(X >= hits) of a binomial X."""
    if hits <= 0 or share >= 1:
        return float(hits <= total)
    return 0.0 if hits > total or share <= 0 else Terms.of(hits, total).tail(share)


class Terms(NamedTuple):
    """What the terms of a binomial tail have in common: ln of "total choose i", i and total - i for i = hits…total."""

    choices: Float[Tensor, " m"]
    hits: Float[Tensor, " m"]
    misses: Float[Tensor, " m"]

    @classmethod
    def of(cls, hits: int, total: int) -> "Terms":
        i = torch.arange(hits, total + 1, dtype=torch.float64)
        return cls(lgamma(total + 1) - torch.lgamma(i + 1) - torch.lgamma(total - i + 1), i, total - i)

    def tail(self, share: float) -> float:
        """Their sum at a share between 0 and 1."""
        return float((self.choices + self.hits * log(share) + self.misses * log1p(-share)).exp().sum())


def limits(draws: Float[Tensor, " r"], level: float) -> tuple[float, float]:
    """Between which the middle `level` of some draws lies."""
    low, high = draws.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=draws.dtype)).tolist()
    return low, high


def checked_level(level: float) -> float:
    """The level of a confidence interval."""
    if not 0 < level < 1:
        raise BadInput(f"level={level} is no confidence level.", "Use a number between 0 and 1, such as 0.95.")
    return level


def bootstrap(
    statistic: Callable[[Int[Tensor, " n"]], float], n: int, seed: int, n_resamples: int = N_RESAMPLES
) -> Float[Tensor, " r"]:
    """The statistic on `n` rows drawn with replacement, again and again (Efron, 1979)."""
    draw = generator(seed)
    return torch.tensor(
        [statistic(torch.randint(n, (n,), generator=draw)) for _ in range(n_resamples)], dtype=torch.float64
    )
