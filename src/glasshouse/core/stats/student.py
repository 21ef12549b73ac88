"""Student's t distribution, as far as intervals need it."""

import math
from functools import cache

import torch


def t_within(t: float, freedom: int) -> float:
    """P(|T| <= t) for `freedom` degrees: ∫ cos^(v-1) from 0 to atan(t / √v), over that up to π/2."""
    angle = torch.tensor([math.atan(t / math.sqrt(freedom)), math.pi / 2], dtype=torch.float64)
    points = torch.linspace(0, 1, 4001, dtype=torch.float64)[:, None] * angle
    parts = torch.trapezoid(points.cos().clamp(min=0) ** (freedom - 1), points, dim=0)
    return float(parts[0] / parts[1])


@cache
def t_limit(level: float, freedom: int) -> float:
    """The t that |T| stays below with probability `level`: 2.093 for 95 % and 19 degrees of freedom."""
    low, high = 0.0, 1.0
    while t_within(high, freedom) < level and high < 1e6:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_within(middle, freedom) < level else (low, middle)
    return (low + high) / 2
