"""Whether classes need the units of what they show."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from glasshouse.core.stats.student import t_limit
from glasshouse.dissect import Ablation, Correlation


def align(found: Ablation, level: float = 0.95) -> Correlation:
    """Correlation, over concepts and classes, of the damage to a class and whether its name holds the concept's.

        r = corr( damage_c(units of concept g),  1[name of g in name of c] )

    over all pairs (g, c) with g named in some class. 1 means that removing a concept's units damages the classes that
    show it and no others; 0 that it makes no difference. The interval is by leaving out one class after the other
    (jackknife, Student's t), as the pairs of one class are not independent. Not-a-number where no class is named after
    a concept, or nothing is damaged.
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
    """Which classes have a concept's name, as whole words, in theirs."""
    classes = [f" {found.class_name(number).lower().replace('_', ' ')} " for number in range(len(found.total))]
    return torch.tensor([[f" {name.lower()} " in words for words in classes] for name in found.names])


def _correlation(shown: Bool[Tensor, "g c"], damage: Float[Tensor, "g c"]) -> float:
    pairs = torch.stack([shown.double().flatten(), damage.flatten()])
    if pairs.shape[1] < 2 or bool((pairs == pairs[:, :1]).all(1).any()):
        return math.nan
    return float(torch.corrcoef(pairs)[0, 1])
