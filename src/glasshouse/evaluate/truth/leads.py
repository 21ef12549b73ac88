"""When a lead over several scenes is clear, and how large it must be to be found clear."""

from math import inf, isnan, nan, sqrt

from jaxtyping import Float
from torch import Tensor

CLEAR = 3.0
"""A lead is clear above so many of its standard errors. Without any true lead that happens by luck in 10 % of draws of
2 scenes, 1 % of 8, and 0.3 % of 32: the tail of Student's t."""

FOUND = 0.84
"""The normal quantile of 4 in 5: how often a lead is to be found clear for scenes to count as enough of them."""


def in_errors(gap: Float[Tensor, " n"]) -> float:
    """The mean of some differences in standard errors of that mean; not-a-number for fewer than two.

        mean(gap) / (s / sqrt(n))

    Without spread it is 0, or infinite. Differences that are not finite are left out.
    """
    mean, error = mean_and_error(gap)
    if isnan(error):
        return nan
    return mean / error if error > 0 else 0.0 if mean == 0 else inf * mean


def least_lead(gap: Float[Tensor, " n"]) -> float:
    """The mean difference that would be found clear four times in five, with this spread and as many scenes.

    (3 + 0.84) s / sqrt(n)
    """
    return (CLEAR + FOUND) * mean_and_error(gap)[1]


def scenes_to_tell(errors: float, n: int) -> float:
    """How many scenes would find a lead clear four times in five, if it was so many standard errors over n scenes.

        n ((3 + 0.84) / errors)^2

    A lead grows with the square root of the number of scenes. Infinite where there is none.
    """
    return n * ((CLEAR + FOUND) / errors) ** 2 if errors > 0 else inf


def mean_and_error(gap: Float[Tensor, " n"]) -> tuple[float, float]:
    """The mean of what is finite, and its standard error; not-a-number for fewer than two."""
    gap = gap[gap.isfinite()].double()
    return (float(gap.mean()), float(gap.std()) / sqrt(len(gap))) if len(gap) > 1 else (nan, nan)
