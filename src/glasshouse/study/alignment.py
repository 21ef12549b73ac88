"""Whether classes need the units of what they show."""

import math
import re

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from glasshouse.core.stats.student import t_limit
from glasshouse.dissect import Ablation, Correlation


def align(found: Ablation, level: float = 0.95) -> Correlation:
    """Correlation, over concepts and classes, of the damage to a class and whether it is named for the concept.

        r = corr( damage_c(units of concept g),  1[c is named for g] )

    over all pairs (g, c) with some class named for g: `church` names the class *church and tree*, not *church mouse*.
    1 means that removing a concept's units damages the classes that show it and no others; 0 that it makes no
    difference. The interval is by leaving out one class after the other (jackknife, Student's t), as the pairs of one
    class are not independent. Not-a-number where no class is named for a concept, or nothing is damaged.
    """
    shown = named_after(found)
    rows = shown.any(1)
    seen = ~found.damage[0].isnan()
    shown, damage = shown[rows][:, seen], found.damage[rows][:, seen].double()
    whole = _correlation(shown, damage)
    n_classes = shown.shape[1]
    if math.isnan(whole) or n_classes < 3:
        return Correlation("pearson", whole, math.nan, math.nan, shown.numel())
    keep = ~torch.eye(n_classes, dtype=torch.bool)
    left = torch.tensor([_correlation(shown[:, those], damage[:, those]) for those in keep], dtype=torch.float64)
    spread = float(((n_classes - 1) / n_classes * (left - left.mean()).square().sum()).sqrt())
    reach = t_limit(level, n_classes - 1) * spread
    return Correlation("pearson", whole, max(whole - reach, -1.0), min(whole + reach, 1.0), shown.numel())


def named_after(found: Ablation) -> Bool[Tensor, "g c"]:
    """Which classes are named for each concept."""
    parts = [class_parts(found.class_name(number)) for number in range(len(found.total))]
    return torch.tensor([[plain_name(name) in those for those in parts] for name in found.names])


def class_parts(name: str) -> set[str]:
    """What a class is named for: its name, and the parts of it between commas and "and"."""
    whole = plain_name(name)
    return {whole, *(part.strip() for part in re.split(r"[,;]|\band\b|&", whole))} - {""}


def plain_name(name: str) -> str:
    """In small letters, with spaces."""
    return " ".join(name.replace("_", " ").lower().split())


def _correlation(shown: Bool[Tensor, "g c"], damage: Float[Tensor, "g c"]) -> float:
    pairs = torch.stack([shown.double().flatten(), damage.flatten()])
    if pairs.shape[1] < 2 or bool((pairs == pairs[:, :1]).all(1).any()):
        return math.nan
    return float(torch.corrcoef(pairs)[0, 1])
