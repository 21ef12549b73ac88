"""Logistic readouts of stored features, one for each concept, trained side by side, each as if it were alone."""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.core import generator, resize, steps

Loss: TypeAlias = Literal["linear", "bce"]
Rows: TypeAlias = Int[Tensor, "c r"]

MOMENTUM = 0.9
AT_ONCE = 2**21  # features held together; larger blocks of memory are slow to come by


@dataclass(frozen=True)
class Recipe:
    """How readouts are trained, by gradient descent with momentum."""

    loss: Loss
    lr: float
    epochs: int
    batch_size: int
    seed: int


@dataclass(frozen=True)
class Problem:
    """What c readouts learn from.

    Args:
        features: of r images for each concept, `c r k i j`.
        targets: of the same images and concepts (the second argument), `c r a b`, true where the concept is.
        there: which of n images each concept is in.
        balanced: whether a concept learns from its images and as many others, or from its own images only.
        weight: of pixels inside and outside of the concept.
        intercept: whether a number is added to the sum over features.
    """

    features: Callable[[Rows], Float[Tensor, "c r k i j"]]
    targets: Callable[[Rows, Int[Tensor, " c"]], Bool[Tensor, "c r a b"]]
    there: Bool[Tensor, "c n"]
    balanced: bool
    weight: Float[Tensor, "c 2"]
    intercept: bool


@dataclass(frozen=True)
class Readout:
    """s readouts for each of c concepts: the logit of a pixel is `weights · features + bias`."""

    weights: Float[Tensor, "s c k"]
    bias: Float[Tensor, "s c"]

    def __call__(self, features: Float[Tensor, "c r k i j"], size: tuple[int, int]) -> Float[Tensor, "s c r a b"]:
        """Logits at `size`. Enlarging is linear, so it comes after the sum, where there is less to enlarge."""
        weights = rearrange(self.weights, "s c k -> c 1 s k")
        small = rearrange(weights @ features.flatten(3), "c r s p -> s c r p") + self.bias[:, :, None, None]
        rows, cols = (enlarging(old, new).to(small) for old, new in zip(features.shape[3:], size, strict=True))
        return rows @ small.unflatten(3, features.shape[3:]) @ cols.T


def enlarging(old: int, new: int) -> Float[Tensor, "new old"]:
    """Bilinear resizing along one axis, as a matrix."""
    return resize(torch.eye(old)[None, None], (new, old))[0, 0]


def fit(problem: Problem, used: Bool[Tensor, "s c k"], recipe: Recipe, at_once: int = AT_ONCE) -> Readout:
    """The readouts that read the features in `used`.

    Every concept goes through its own images in an order that no other concept has a part in, so that it comes out
    as if it were trained alone; concepts that do not fit into memory together are trained one group after another.
    """
    first = problem.features(torch.zeros(1, 1, dtype=torch.long))
    n_together = max(1, at_once // (first.numel() * recipe.batch_size))
    groups = list(torch.arange(used.shape[1]).split(n_together))
    with torch.inference_mode(False), torch.enable_grad():
        fitted = [_fit(problem, groups[place], used[:, groups[place]], recipe) for place in steps(len(groups))]
    return Readout(torch.cat([one.weights for one in fitted], 1), torch.cat([one.bias for one in fitted], 1))


def _fit(problem: Problem, concepts: Int[Tensor, " c"], used: Bool[Tensor, "s c k"], recipe: Recipe) -> Readout:
    draw = generator(recipe.seed)
    n_features, there = used.shape[2], problem.there[concepts]
    start = (2 * torch.rand(n_features, generator=draw) - 1) / sqrt(n_features)
    values = torch.cat([used * start, torch.zeros(*used.shape[:2], 1)], 2)
    free = torch.cat([used, torch.full((*used.shape[:2], 1), problem.intercept)], 2)
    speed = torch.zeros_like(values)
    for _ in steps(recipe.epochs):
        for images in queue(there, problem.balanced, draw).split(recipe.batch_size, 1):
            busy = (images >= 0).any(1).nonzero()[:, 0]
            real, rows, mine = images[busy] >= 0, images[busy].clamp(min=0), concepts[busy]
            current = values[:, busy].requires_grad_()
            features, targets = problem.features(rows), problem.targets(rows, mine)
            logits = Readout(current[..., :-1], current[..., -1])(features, (targets.shape[2], targets.shape[3]))
            image = loss_per_image(logits, targets, problem.weight[mine], recipe.loss)
            mean = (image * real).sum(2) / real.sum(1)
            (gradient,) = torch.autograd.grad(mean.sum(), current)
            speed[:, busy] = MOMENTUM * speed[:, busy] + gradient * free[:, busy]
            values[:, busy] -= recipe.lr * speed[:, busy]
    return Readout(values[..., :-1], values[..., -1])


def loss_per_image(
    logits: Float[Tensor, "s c r a b"], targets: Bool[Tensor, "c r a b"], weight: Float[Tensor, "c 2"], loss: Loss
) -> Float[Tensor, "s c r"]:
    """Of each image, summed over its pixels, with M = sigmoid(logit), L the target and α, β the two weights:

    linear: - sum_p α M L + β (1 - M) (1 - L)
    bce:    - sum_p α L log M + β (1 - L) log(1 - M)
    """
    inside, outside = (part[:, None, None, None] for part in weight.unbind(1))
    there = targets.float()
    likelihood = torch.sigmoid if loss == "linear" else F.logsigmoid
    return -((outside + (inside - outside) * there) * likelihood((2 * there - 1) * logits)).sum((3, 4))


def queue(there: Bool[Tensor, "c n"], balanced: bool, draw: torch.Generator) -> Int[Tensor, "c most"]:
    """The images that each concept learns from in one epoch, shuffled, filled up with -1."""
    order = torch.randperm(there.shape[1], generator=draw)
    mixed = there[:, order]
    chosen = mixed
    if balanced:
        rank = torch.where(mixed, mixed.cumsum(1), (~mixed).cumsum(1))
        chosen = rank <= torch.minimum(mixed.sum(1), (~mixed).sum(1))[:, None]
    first = chosen.int().argsort(dim=1, descending=True, stable=True)
    return torch.where(chosen.gather(1, first), order[first], -1)[:, : int(chosen.sum(1).max())]
