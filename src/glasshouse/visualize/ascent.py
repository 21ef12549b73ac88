"""Gradient ascent on many pictures at once, each with a step of its own."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from glasshouse.core import RELU, RELU6, BadModel, PerImage, Progress
from glasshouse.core.backward import Rule, Rules
from glasshouse.visualize.regularisers import Filter, Moment

REDIRECTED_STEPS = 16
MOST_BAD_STEPS = 10
DECAY, DECAY_OF_SQUARE, EPSILON = 0.9, 0.999, 1e-8


class Redirected(torch.autograd.Function):
    """ReLU that, for a picture to which it passes no gradient at all, lets through what would wake its units.

    Units below 0 then take gradients that raise them, units at the upper bound those that lower them. Lucid,
    `redirected_relu_grad` and `redirected_relu6_grad` (Olah et al., Distill 2017).
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, high: float) -> Tensor:
        ctx.save_for_backward(value)
        ctx.high = high
        return value.clamp(0, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (value,), (gradient,) = ctx.saved_tensors, gradients
        plain = torch.ops.aten.hardtanh_backward(gradient, value, 0, ctx.high)
        asleep = plain.abs().amax(tuple(range(1, plain.ndim)), keepdim=True) == 0
        if not asleep.any():
            return plain, None
        low, high = value <= 0, value >= ctx.high
        waking = gradient * ~(low & (gradient < 0)) * ~(high & (gradient > 0))
        return torch.where(asleep, waking, plain), None


REDIRECT: dict[str, Rule] = {
    RELU: lambda value: Redirected.apply(value, float("inf")),
    RELU6: lambda value: Redirected.apply(value, 6.0),
}


Memory: TypeAlias = tuple[Tensor, ...]
"""What an optimiser keeps of earlier gradients: tensors of their shape."""

Optimiser: TypeAlias = Callable[[Tensor, Memory, Tensor], tuple[Tensor, Memory]]
"""From gradients, what is kept of earlier ones, and how many steps each row has taken with this one, to the direction
to move in and what to keep now. At the first step nothing is kept."""


def adam(gradient: Tensor, memory: Memory, taken: Tensor) -> tuple[Tensor, Memory]:
    """The mean gradient over the root of its mean square, number by number (Kingma & Ba, ICLR 2015)."""
    mean, square = memory or (torch.zeros_like(gradient), torch.zeros_like(gradient))
    mean = torch.lerp(gradient, mean, DECAY)
    square = torch.lerp(gradient.square(), square, DECAY_OF_SQUARE)
    root = (square / (1 - DECAY_OF_SQUARE**taken)).sqrt()
    return mean / (1 - DECAY**taken) / (root + EPSILON), (mean, square)


def plain(momentum: float | int = 0) -> Optimiser:
    """The gradient itself, with this share of the last direction added."""

    def optimiser(gradient: Tensor, memory: Memory, taken: Tensor) -> tuple[Tensor, Memory]:
        velocity = gradient + momentum * memory[0] if memory and momentum else gradient
        return velocity, (velocity,) if momentum else ()

    optimiser.__name__ = f"plain({momentum:g})" if momentum else "plain()"
    return optimiser


def ascend(
    climb: Callable[[Tensor], PerImage],
    theta: Float[Tensor, "n ..."],
    steps: int,
    learning_rate: float | int,
    progress: Progress | None = None,
    *,
    optimiser: Optimiser = adam,
    gradients: Sequence[Filter] = (),
    filters: Sequence[Filter] = (),
) -> tuple[Float[Tensor, "n ..."], Float[Tensor, "n s"], Bool[Tensor, " n"]]:
    """Free numbers after ascent, the value of each picture at each step, and which pictures had any gradient.

    A step at which a value or gradient is not finite is left out for that picture, and its step size halved.

    Args:
        climb: one number per row; its gradient with respect to a row is what that row climbs.
        gradients: what is done to the gradient before the optimiser has it.
        filters: what is done to the free numbers after each step.
    """
    rows = partial(beside, theta)
    taken, bad, drawn = theta.new_zeros(len(theta)), theta.new_zeros(len(theta)), theta.new_zeros(len(theta)).bool()
    rate, memory, history = theta.new_full((len(theta),), learning_rate), Memory(), list[Tensor]()
    for step in range(steps):
        theta = theta.detach().requires_grad_()
        with Rules(REDIRECT) if step < REDIRECTED_STEPS else nullcontext():
            value = climb(theta)
        (gradient,) = torch.autograd.grad(value.sum(), theta)
        value, theta = value.detach(), theta.detach()
        fine = value.isfinite() & gradient.flatten(1).isfinite().all(1)
        gradient = torch.where(rows(fine), gradient, 0)
        drawn = drawn | (gradient != 0).flatten(1).any(1)
        taken, bad = taken + fine, torch.where(fine, 0, bad + 1)
        if (bad >= MOST_BAD_STEPS).any():
            row = int(bad.argmax())
            raise BadModel(
                f"the objective of picture {row} is not finite: {MOST_BAD_STEPS} steps up to {step}.",
                "Try a lower learning_rate, float32 weights, or another layer.",
            )
        moment = Moment(step, steps, gradient)
        uphill = filtered(gradient, gradients, moment)
        direction, kept = optimiser(uphill, memory, rows(taken.clamp(min=1)))
        moved = filtered(theta + rows(rate) * direction, filters, moment)
        theta = torch.where(rows(fine), moved, theta)
        memory = tuple(
            torch.where(rows(fine), new, old)
            for new, old in zip(kept, memory or [torch.zeros_like(theta)] * len(kept), strict=True)
        )
        rate = torch.where(fine, rate, rate / 2)
        history.append(value)
        if progress is not None:
            progress(step + 1, steps)
    return theta, torch.stack(history, 1), drawn


def filtered(values: Tensor, filters: Sequence[Filter], moment: Moment) -> Tensor:
    for filter_ in filters:
        values = filter_(values, moment)
    return values


def beside(theta: Tensor, values: Tensor) -> Tensor:
    """One value per row, in a shape that multiplies the rows of theta."""
    return values.view(-1, *[1] * (theta.ndim - 1))
