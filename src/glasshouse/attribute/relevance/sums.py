"""Weighted sums: what they are made of, how one share of relevance is dealt out, and what is kept back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from glasshouse.attribute.relevance.kinds import KINDS
from glasshouse.attribute.relevance.ledger import Entry, total
from glasshouse.attribute.relevance.rules import Rule, Share
from glasshouse.core.flow import Kept, Operation, vector_jacobian

Linear: TypeAlias = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True, eq=False)
class Weighted:
    """A weighted sum that has run. `source` is its input in the graph, as it was then.

    Args:
        apply: from (input, weight, bias) to the sum.
    """

    operation: Operation
    source: Tensor
    kept: Kept
    apply: Linear
    weight: Tensor
    bias: Tensor | None
    rule: Rule


def taken_apart(operation: Operation, signals: tuple[Tensor, ...]) -> tuple[Linear, Tensor, Tensor | None] | None:
    """A weighted sum as (function of input, weight and bias; weight; bias); None if more than its input is a signal."""
    args, kwargs = operation.arguments(signals)
    function: Callable[..., Tensor] = operation.function
    if KINDS[operation.name] == "product":
        factors = [each for each in args if isinstance(each, Tensor)]
        if len(factors) != 2 or kwargs:
            return None
        left, right = factors
        equation: tuple[Any, ...] = args[:-2]
        if left is signals[0]:
            return lambda a, w, b: function(*equation, a, w), right, None
        return lambda a, w, b: function(*equation, w, a), left, None
    given: dict[str, Any] = dict(zip(("input", "weight", "bias"), args, strict=False))
    given |= {name: kwargs.pop(name) for name in ("input", "weight", "bias") if name in kwargs}
    rest: tuple[Any, ...] = args[3:]
    if len(signals) != 1 or given["input"] is not signals[0]:
        return None

    def linear(a: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return function(a, w, b, *rest, **kwargs)

    return linear, given["weight"], given.get("bias")


def shared(share: Share, apply: Linear, arriving: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """One share's denominator, the ratio of relevance to it, and what each input gets."""

    def contributions(*inputs: Tensor) -> Tensor:
        z = apply(inputs[0], share.parts[0][1], share.bias)
        for value, (_, weight) in zip(inputs[1:], share.parts[1:], strict=True):
            z = z + apply(value, weight, None)
        return z

    inputs = [value for value, _ in share.parts]
    z, pull = vector_jacobian(contributions, inputs)
    ratio = divide(arriving, z, epsilon)
    given = [value * part for value, part in zip(inputs, pull(ratio), strict=True)]
    return z, ratio, sum(given[1:], given[0])


def divide(arriving: Tensor, z: Tensor, epsilon: float) -> Tensor:
    """`R / (z + epsilon sign z)` with sign(0) = 1, at least in single precision; with epsilon 0, 0 where z is 0."""
    wide = torch.promote_types(z.dtype, torch.float32)
    arriving, z = arriving.to(wide), z.to(wide)
    if epsilon:
        return arriving / (z + torch.full((), epsilon, dtype=wide, device=z.device).copysign(z))
    return (arriving / z).masked_fill_(z == 0, 0)


def book(entry: Entry, share: Share, apply: Linear, arriving: Tensor, z: Tensor, ratio: Tensor, epsilon: float) -> None:
    """Write down what bias and stabiliser keep of a share."""
    if share.bias is not None:
        nothing, weight = share.parts[0]
        entry.bias += total(apply(torch.zeros_like(nothing), weight, share.bias) * ratio)
    entry.stabiliser += kept_back(arriving, z, ratio, epsilon)


def kept_back(arriving: Tensor, z: Tensor, ratio: Tensor, epsilon: float) -> float:
    """What the stabiliser absorbs: `epsilon sign z * ratio`; without one, all where nothing contributed."""
    return epsilon * total(torch.where(z < 0, -ratio, ratio)) if epsilon else total(arriving * (z == 0))
