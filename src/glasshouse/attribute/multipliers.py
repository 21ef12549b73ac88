"""Multipliers: what a change of an operation's inputs does to its output, taken over the whole way from a baseline.

Each function here computes an operation on two values at once, that of the image and that of the baseline. What it
gives back has the operation's own value, and a gradient that is no derivative but an exact account of the difference:

    out - out0 = sum over the inputs of (gradient * (in - in0))

So a chain of them, with linear operations between, accounts exactly for the difference of two scores.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Pair(NamedTuple):
    """A value for the image, attached to the graph, and the same value for the baseline."""

    image: Tensor
    baseline: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> "Pair":
        """Through an operation that is linear, whose own gradient is exact."""
        return Pair(function(self.image), function(self.baseline))


class Stand(torch.autograd.Function):
    """Takes the value of one tensor and the gradient of another."""

    @staticmethod
    def forward(ctx: Any, line: Tensor, value: Tensor) -> Tensor:
        return value.data  # a returned argument would be a view, which in-place operations refuse

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def chord(function: Callable[[Tensor], Tensor], x: Pair) -> Pair:
    """A function of single numbers: its multiplier is the slope of the line between two points of its graph.

        m = (f(x) - f(x0)) / (x - x0),   f'(x) where the difference is lost in rounding

    Shrikumar et al., ICML 2017, sec. 3.5.1: the rescale rule.
    """
    here, there = x.image.detach(), x.baseline
    out, silent = function(here), function(there)
    run = here - there
    near = run.abs() <= torch.finfo(run.dtype).eps ** 0.5 * (here.abs() + there.abs() + out.abs() + silent.abs())
    slope = (out - silent) / torch.where(near, 1, run)
    if near.any():
        slope = torch.where(near, derivative(function, here), slope)
    return Pair(Stand.apply(slope * x.image, out), silent)


def derivative(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(function(leaf).sum(), leaf)[0]


def midpoint(function: Callable[..., Tensor], *factors: Pair) -> Pair:
    """A product, or anything else of degree two: its multipliers are the derivatives half-way.

        a b - a0 b0 = (b + b0) / 2 (a - a0) + (a + a0) / 2 (b - b0)

    The difference that both factors make together is shared equally, as Shapley values do.
    """
    line = function(*(factor.image + ((factor.baseline - factor.image) / 2).detach() for factor in factors))
    out = function(*(factor.image.detach() for factor in factors))
    return Pair(Stand.apply(line, out), function(*(factor.baseline for factor in factors)))


def softmax(z: Pair, dim: int) -> Pair:
    """Softmax: its derivative, with the logarithmic mean of both probabilities in place of the probability.

        p - p0 = l (d - sum(l d) / sum(l)),   d = z - z0,   l = (p - p0) / (log p - log p0)

    Exact, since log p - log p0 = d - a with one a for all, and all p - p0 sum to 0.
    """
    mean, out = logarithmic_mean(z, dim), z.map(lambda v: F.softmax(v, dim))
    weight = mean / mean.sum(dim, keepdim=True)
    line = mean * (z.image - (weight * z.image).sum(dim, keepdim=True))
    return Pair(Stand.apply(line, out.image.detach()), out.baseline)


def log_softmax(z: Pair, dim: int) -> Pair:
    """Log-softmax, with the same logarithmic means as weights: log p - log p0 = d - sum(l d) / sum(l)."""
    mean, out = logarithmic_mean(z, dim), z.map(lambda v: F.log_softmax(v, dim))
    line = z.image - (mean / mean.sum(dim, keepdim=True) * z.image).sum(dim, keepdim=True)
    return Pair(Stand.apply(line, out.image.detach()), out.baseline)


def logarithmic_mean(z: Pair, dim: int) -> Tensor:
    """`(p - p0) / (log p - log p0)` of two softmaxes, without dividing small differences."""
    log, silent = (F.log_softmax(v.detach(), dim) for v in z)
    ratio = (log - silent).abs().nan_to_num(nan=0.0, posinf=torch.inf)  # both masked: both are minus infinity
    near = ratio < torch.finfo(ratio.dtype).eps ** 0.5
    return torch.maximum(log, silent).exp() * torch.where(near, 1 - ratio / 2, -torch.expm1(-ratio) / ratio)


def quotient(upper: Pair, lower: Pair) -> Pair:
    """A quotient q = a / b, by the account of the product q b: nothing grows where one of both b is small.

        q - q0 = ((a - a0) - (q + q0) / 2 (b - b0)) / ((b + b0) / 2)

    Exact as the product's account is, since q b - q0 b0 = a - a0.
    """
    out, silent = upper.image.detach() / lower.image.detach(), upper.baseline / lower.baseline
    middle = (lower.image.detach() + lower.baseline) / 2
    return Pair(Stand.apply((upper.image - (out + silent) / 2 * lower.image) / middle, out), silent)


def norm(x: Pair, dims: tuple[int, ...], eps: float) -> Pair:
    """Centring, which is linear, and division by the standard deviation, a quotient."""
    centred = x.map(lambda v: v - v.mean(dims, keepdim=True))
    variance = midpoint(lambda c: c.square().mean(dims, keepdim=True), centred)
    return quotient(centred, chord(lambda v: (v + eps).sqrt(), variance))


def attention(query: Pair, key: Pair, value: Pair, mask: Tensor | None, scale: float) -> tuple[Pair, Pair]:
    """`softmax(scale q k^T + mask) v`, and the softmax."""
    scores = midpoint(lambda q, k: scale * q @ k.mT, query, key)
    weights = softmax(scores if mask is None else scores.map(lambda s: s + mask), -1)
    return midpoint(torch.matmul, weights, value), weights


def max_pool(pool: Callable[[Tensor], tuple[Tensor, Tensor]], x: Pair) -> Pair:
    """The largest value of each window: a rise goes to where it is now, a fall to where it was in the baseline.

    There the input has changed at least as much as the maximum has, and in the same direction.
    """
    out, place = pool(x.image.detach())
    silent, old = pool(x.baseline)
    flat, there = x.image.flatten(-2), x.baseline.flatten(-2)
    place = torch.where(out >= silent, place, old).flatten(-2)
    chosen, run = flat.gather(-1, place), out.flatten(-2) - silent.flatten(-2)
    change = chosen.detach() - there.gather(-1, place)
    slope = torch.where(change == 0, 1, run / torch.where(change == 0, 1, change))
    return Pair(Stand.apply((slope * chosen).view_as(out), out), silent)
