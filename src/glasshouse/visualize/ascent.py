"""Gradient ascent on many pictures at once, each with a step of its own."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from glasshouse.core import RELU, RELU6, BadModel, PerImage, Progress
from glasshouse.core.backward import Rule, Rules

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
        low, high = value <= 0, value >= ctx.high
        plain = gradient * ~(low | high)
        asleep = plain.flatten(1).abs().amax(1) == 0
        waking = gradient * ~(low & (gradient < 0)) * ~(high & (gradient > 0))
        return torch.where(asleep.view(-1, *[1] * (value.ndim - 1)), waking, plain), None


REDIRECT: dict[str, Rule] = {
    RELU: lambda value: Redirected.apply(value, float("inf")),
    RELU6: lambda value: Redirected.apply(value, 6.0),
}


class Momentum(NamedTuple):
    """Adam's memory, and for each picture its step count and step size."""

    mean: Tensor
    square: Tensor
    taken: PerImage
    rate: PerImage


def ascend(
    climb: Callable[[Tensor], PerImage],
    theta: Float[Tensor, "n ..."],
    steps: int,
    learning_rate: float,
    progress: Progress | None = None,
) -> tuple[Float[Tensor, "n ..."], Float[Tensor, "n s"], Bool[Tensor, " n"]]:
    """Free numbers after ascent, the value of each picture at each step, and which pictures had any gradient.

    A step at which a value or gradient is not finite is left out for that picture, and its step size halved.

    Args:
        climb: one number per row; its gradient with respect to a row is what that row climbs.
    """
    zeros, ones = torch.zeros_like(theta), theta.new_ones(len(theta))
    memory = Momentum(zeros, zeros, 0 * ones, learning_rate * ones)
    history: list[Tensor] = []
    bad, drawn = 0 * ones, ones < 0
    for step in range(steps):
        theta = theta.detach().requires_grad_()
        with Rules(REDIRECT) if step < REDIRECTED_STEPS else nullcontext():
            value = climb(theta)
        (gradient,) = torch.autograd.grad(value.sum(), theta)
        rows = gradient.flatten(1)
        fine = value.detach().isfinite() & rows.isfinite().all(1)
        drawn = drawn | (fine & (rows != 0).any(1))
        theta, memory = adam(theta.detach(), gradient, memory, fine)
        bad = torch.where(fine, 0, bad + 1)
        if (bad >= MOST_BAD_STEPS).any():
            row = int(bad.argmax())
            raise BadModel(
                f"the objective of picture {row} is not finite: {MOST_BAD_STEPS} steps up to {step}.",
                "Try a lower learning_rate, float32 weights, or another layer.",
            )
        history.append(value.detach())
        if progress is not None:
            progress(step + 1, steps)
    return theta, torch.stack(history, 1), drawn


def adam(theta: Tensor, gradient: Tensor, memory: Momentum, fine: Bool[Tensor, " n"]) -> tuple[Tensor, Momentum]:
    """One step uphill for the rows that are fine; others halve their step (Kingma & Ba, ICLR 2015)."""

    def rows(values: Tensor) -> Tensor:
        return values.view(-1, *[1] * (theta.ndim - 1))

    gradient = torch.where(rows(fine), gradient, 0)
    taken = memory.taken + fine
    mean = torch.where(rows(fine), torch.lerp(gradient, memory.mean, DECAY), memory.mean)
    square = torch.where(rows(fine), torch.lerp(gradient.square(), memory.square, DECAY_OF_SQUARE), memory.square)
    power = taken.clamp(min=1)
    step = mean / rows(1 - DECAY**power) / ((square / rows(1 - DECAY_OF_SQUARE**power)).sqrt() + EPSILON)
    moved = torch.where(rows(fine), theta + rows(memory.rate) * step, theta)
    return moved, Momentum(mean, square, taken, torch.where(fine, memory.rate, memory.rate / 2))
