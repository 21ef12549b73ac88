"""What is done where, as one value."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from glasshouse.attribute.relevance.kinds import GATE
from glasshouse.attribute.relevance.rules import Rule

Norm: TypeAlias = Literal["eps", "pass"]
Others: TypeAlias = Literal["error", "gradient"]
Residual: TypeAlias = Literal["positive", "signed"]


@dataclass(frozen=True)
class Policy:
    """What is done where.

    Args:
        rules: for weighted sums: by name of layer (with wildcards), `first`, or kind (`convolution`, `linear`).
        epsilon: added to denominators, away from 0.
        bn: a batch norm that follows no convolution is an affine operation, or passes relevance as it is.
        others: whether operations without a rule are an error or pass the gradient.
        gates: functions whose results weigh other signals, and get no relevance.
        excitation: only positive inputs count, and constants get nothing.
        residual: under `excitation`, whether additions split by positive values, or by values with their sign.
    """

    rules: Mapping[str, Rule]
    epsilon: float = 1e-6
    bn: Norm = "eps"
    others: Others = "error"
    gates: frozenset[str] = GATE
    excitation: bool = False
    residual: Residual = "positive"
