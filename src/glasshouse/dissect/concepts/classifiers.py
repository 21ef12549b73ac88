"""Linear classifiers, many at once: which way in a layer something lies, and how well that tells it apart."""

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

Solver: TypeAlias = Literal["logistic", "ridge", "svm", "mean_difference"]
Loss: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""From margins to the loss and its first and second derivative."""

N_STEPS, N_HALVINGS, N_CONJUGATE = 50, 30, 200
SMALL_GRADIENT, SUFFICIENT_FALL = 1e-7, 1e-4


def fit(
    x: Float[Tensor, "s n d"],
    positive: Bool[Tensor, "b n"],
    used: Bool[Tensor, "b n"],
    solver: Solver,
    l2: float | int = 0.01,
) -> tuple[Float[Tensor, "b d"], Float[Tensor, " b"]]:
    """Weights and bias of b classifiers, positive on their positives.

        min_w,b  1/2 mean_P loss(w·x + b) + 1/2 mean_N loss(-w·x - b) + l2/2 |w|²

    Both sides weigh the same, however many samples each has. Samples are centred and brought to a mean squared length
    of 1 first, so that `l2` means the same for every layer; a rotation of the units rotates the weights.

    Args:
        x: samples in float64, of each classifier (s = b) or the same for all (s = 1).
        used: samples to learn from.
    """
    centre = x.mean(1, keepdim=True)
    centred = x - centre
    scale = centred.square().sum(2).mean(1).sqrt().clamp(min=torch.finfo(x.dtype).tiny)
    weight = balanced(positive, used)
    sign = torch.where(positive, 1.0, -1.0).to(x)
    if solver == "mean_difference":
        w = pull(centred, 2 * weight * sign)
        bias = -(weight * apply(centred, w)).sum(1)  # half way between the means
    else:
        scaled = centred / scale[:, None, None]
        w = newton(torch.cat([scaled, torch.ones_like(scaled[:, :, :1])], 2), sign, weight, LOSSES[solver], float(l2))
        w, bias = w[:, :-1] / scale[:, None], w[:, -1]
    return w, bias - (w * centre[:, 0]).sum(1)


def balanced(positive: Bool[Tensor, "b n"], used: Bool[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """Weights of the samples, 1/2 in all for the positives and for the negatives; NaN where there are none."""
    sides = (positive & used, ~positive & used)
    one, other = (side.double() / (2 * side.sum(1, keepdim=True)) for side in sides)
    return one + other


def apply(x: Float[Tensor, "s n d"], w: Float[Tensor, "b d"]) -> Float[Tensor, "b n"]:
    """w·x of every sample."""
    return w @ x[0].T if len(x) == 1 else (x @ w[:, :, None])[:, :, 0]


def pull(x: Float[Tensor, "s n d"], values: Float[Tensor, "b n"]) -> Float[Tensor, "b d"]:
    """The samples, summed with these weights."""
    return values @ x[0] if len(x) == 1 else (values[:, None] @ x)[:, 0]


def logistic(margin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log(1 + exp(-m))."""
    wrong = torch.sigmoid(-margin)
    return F.softplus(-margin), -wrong, wrong * (1 - wrong)


def squared(margin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(1 - m)² / 2: least squares on labels of ±1."""
    gap = 1 - margin
    return gap.square() / 2, -gap, torch.ones_like(gap)


def squared_hinge(margin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """max(0, 1 - m)² / 2."""
    gap = (1 - margin).clamp(min=0)
    return gap.square() / 2, -gap, (gap > 0).to(gap)


LOSSES: dict[str, Loss] = {"logistic": logistic, "ridge": squared, "svm": squared_hinge}


def newton(
    x: Float[Tensor, "s n d"], sign: Float[Tensor, "b n"], weight: Float[Tensor, "b n"], loss: Loss, l2: float
) -> Float[Tensor, "b d"]:
    """The minimum for each classifier, by Newton's method with conjugate gradients; the last weight is not penalised.

    All classifiers share two matrix products per conjugate step, and each halves its own steps where it must.
    """
    penalty = torch.full_like(x[0, 0], l2)
    penalty[-1] = 0
    spread = x.square().mean(1)
    w, margin = x.new_zeros(len(sign), x.shape[2]), torch.zeros_like(sign)
    for _ in range(N_STEPS):
        value, slope, bend = loss(sign * margin)
        gradient = pull(x, weight * sign * slope) + penalty * w
        if not (gradient.norm(dim=1) > SMALL_GRADIENT).any():
            break

        def turn(v: Tensor, bend: Tensor = weight * bend) -> Tensor:
            return pull(x, bend * apply(x, v)) + penalty * v

        steepness = (weight * bend).sum(1)[:, None] * spread + penalty
        step = conjugate_gradients(turn, -gradient, steepness)
        along, expected = apply(x, step), (gradient * step).sum(1)
        before = (weight * value).sum(1) + (penalty * w.square()).sum(1) / 2
        length = torch.ones_like(before)
        for _ in range(N_HALVINGS):
            tried = w + length[:, None] * step
            after = (weight * loss(sign * (margin + length[:, None] * along))[0]).sum(1)
            after = after + (penalty * tried.square()).sum(1) / 2
            poor = after > before + SUFFICIENT_FALL * length * expected + torch.finfo(x.dtype).eps
            if not poor.any():
                break
            length = torch.where(poor, length / 2, length)
        w, margin = w + length[:, None] * step, margin + length[:, None] * along
    return w


def conjugate_gradients(
    turn: Callable[[Tensor], Tensor], goal: Float[Tensor, "b d"], steepness: Float[Tensor, "b d"]
) -> Float[Tensor, "b d"]:
    """Solve `turn(step) = goal` for each row, to a relative residual that shrinks with the goal.

    Args:
        steepness: about the diagonal of `turn`. On principal axes that is most of it, and few steps are needed.
    """
    step, residual, eased = torch.zeros_like(goal), goal, goal / steepness
    direction, size = eased, (goal * eased).sum(1)
    enough = size * goal.norm(dim=1).clamp(max=1e-2).square()
    for _ in range(N_CONJUGATE):
        going = size > enough
        if not going.any():
            break
        turned = turn(direction)
        length = torch.where(going, size / (direction * turned).sum(1), 0.0)[:, None]
        step, residual = step + length * direction, residual - length * turned
        eased = residual / steepness
        after = (residual * eased).sum(1)
        direction = eased + torch.where(going, after / size, 0.0)[:, None] * direction
        size = torch.where(going, after, size)
    return step


def principal(x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n r"], Float[Tensor, "r d"]]:
    """Samples on the principal axes that they span, in float64, and these axes: what the samples are made of.

    Weights `w` there are `w @ axes` on the old ones.
    """
    x = x.double()
    centred = x - x.mean(0)
    if x.shape[1] <= len(x):
        axes = torch.linalg.eigh(centred.T @ centred).eigenvectors.T
        return centred @ axes.T, axes
    z, back = coordinates((centred @ centred.T)[None])
    return z[0], back[0].T @ centred


def coordinates(gram: Float[Tensor, "b n n"]) -> tuple[Float[Tensor, "b n n"], Float[Tensor, "b n n"]]:
    """Samples of these inner products in n dimensions, and what makes coefficients of the samples of weights there.

    With Z Zᵀ = K, weights w on Z are those on the samples' own axes that are `Xᵀ (back w)`.
    """
    values, vectors = torch.linalg.eigh(gram)
    least = values.shape[-1] * torch.finfo(gram.dtype).eps * values[:, -1:].clamp(min=0)
    there = values > least
    root = torch.where(there, values, 1.0).sqrt() * there
    inverse = torch.where(there, 1 / root, 0.0)
    return vectors * root[:, None], vectors * inverse[:, None]


def balanced_accuracy(
    score: Float[Tensor, "b n"], positive: Bool[Tensor, "b n"], used: Bool[Tensor, "b n"]
) -> Float[Tensor, " b"]:
    """Mean of the shares of positives above 0 and of negatives at most 0; NaN where either are missing."""
    return (balanced(positive, used) * ((score > 0) == positive)).sum(1)


def ranking(score: Float[Tensor, " n"], positive: Bool[Tensor, " n"]) -> tuple[float, float]:
    """Area under the ROC curve and average precision; samples of equal score count as one step. NaN without positives.

    AUC = P(positive above negative) + P(equal)/2,   AP = sum_t (R_t - R_t-1) P_t
    """
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return float("nan"), float("nan")
    order = score.argsort(descending=True)
    _, group = score[order].unique_consecutive(return_inverse=True)
    hits = torch.zeros(int(group[-1]) + 1, dtype=torch.float64).index_add_(0, group, positive[order].double())
    sizes = group.bincount().double()
    found, seen = hits.cumsum(0), sizes.cumsum(0)
    misses = sizes - hits
    above = found - hits / 2
    auc = float((misses * above).sum() / (n_positive * n_negative))
    return auc, float((hits * found / seen).sum() / n_positive)
