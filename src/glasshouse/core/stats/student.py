"""Student's t distribution: tails and limits."""

import math
from functools import cache

N_TERMS, TINY = 300, 1e-300


def two_sided(t: float, df: float | int) -> float:
    """P(|T| >= |t|) = I_x(df/2, 1/2) with x = df / (df + t²), the regularised incomplete beta function."""
    if math.isnan(t) or math.isnan(df):
        return math.nan
    a, b, rest = df / 2, 0.5, t * t / (df + t * t)  # rest = 1 - x, kept apart for its precision
    x = df / (df + t * t)
    if x <= 0 or rest <= 0:
        return 0.0 if x <= 0 else 1.0
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest))
    if x < (a + 1) / (a + b + 2):
        return front * fraction(x, a, b) / a
    return 1 - front * fraction(rest, b, a) / b


def fraction(x: float, a: float, b: float) -> float:
    """The continued fraction of the incomplete beta function, by Lentz's method (Numerical Recipes, §6.4)."""

    def away(value: float) -> float:
        return value if abs(value) > TINY else TINY

    c, d = 1.0, 1 / away(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, N_TERMS):
        before = value
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for numerator in (even, odd):
            d, c = 1 / away(1 + numerator * d), away(1 + numerator / c)
            value *= c * d
        if abs(value - before) <= 1e-15 * abs(value):
            break
    return value


@cache
def t_limit(level: float, df: float | int) -> float:
    """The t that |T| stays below with probability `level`: 2.093 for 95 % and 19 degrees of freedom."""
    low, high = 0.0, 1.0
    while two_sided(high, df) > 1 - level and high < 1e12:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided(middle, df) > 1 - level else (low, middle)
    return (low + high) / 2
