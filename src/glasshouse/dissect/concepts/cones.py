"""Vectors as sums of a few others with coefficients that are not negative."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

TOLERANCE = 1e-12
DEPENDENT = 1e-8  # squared distance of a unit vector from the span of those chosen, below which it adds nothing


def nnls(gram: Float[Tensor, "b s s"], target: Float[Tensor, "b s"]) -> Float[Tensor, "b s"]:
    """The coefficients s >= 0 that minimise |w - Q s|², from `gram` = Qᵀ Q and `target` = Qᵀ w.

        s >= 0,   Qᵀ (w - Q s) <= 0,   s · Qᵀ (w - Q s) = 0

    Starts from all coefficients, and moves the last one that breaks a condition between free and 0, which ends at the
    solution for independent columns: Murty, Opsearch 1974.
    """
    size = target.shape[1]
    free = torch.ones_like(target, dtype=torch.bool)
    while True:
        both = free[:, :, None] & free[:, None]
        system = torch.where(both, gram, 0.0) + torch.diag_embed((~free).to(gram))
        found = torch.linalg.solve(system, torch.where(free, target, 0.0))
        pull = target - (gram @ found[:, :, None])[:, :, 0]
        wrong = (free & (found < -TOLERANCE)) | (~free & (pull > TOLERANCE))
        if not wrong.any():
            return torch.where(free, found.clamp(min=0), 0.0)
        last = size - 1 - wrong.flip(1).int().argmax(1)
        free ^= torch.nn.functional.one_hot(last, size).bool() & wrong


@dataclass(frozen=True)
class Choice:
    """Which of c vectors make up each of k others.

    Args:
        chosen: their numbers, in the order of choice; -1 where nothing was left that helps.
        coefficients: of the chosen ones.
        errors: length of what is left after each choice.
    """

    chosen: Int[Tensor, "k s"]
    coefficients: Float[Tensor, "k s"]
    errors: Float[Tensor, "k s"]


def greedy_nnls(goals: Float[Tensor, "k d"], vectors: Float[Tensor, "c d"], n: int) -> Choice:
    """At each step, for each goal, the vector with which nonnegative coefficients come closest to it.

    For a candidate c beside the chosen S, unconstrained least squares leave at least

        |w - Q_S s|² - (q_c · (w - Q_S s))² / (1 - g' G_SS⁻¹ g),   g = Q_S' q_c

    in closed form for all candidates of all goals. Where its coefficients are not negative, that is the answer; else
    it is a bound. The best candidate is solved exactly if it is only a bound, and so on until the best is exact.
    """
    gram, target, whole = vectors @ vectors.T, goals @ vectors.T, goals.square().sum(1)
    chosen, errors = torch.empty(len(goals), 0, dtype=torch.long, device=goals.device), list[Tensor]()
    coefficients, left = target.new_zeros(len(goals), 0), whole
    for _ in range(n):
        pull = target - torch.einsum("ks,ksc->kc", coefficients, rows_of(gram, chosen))
        value, exact = bounds(gram, target, whole, chosen)
        value = torch.where(pull > TOLERANCE, value, torch.inf)
        best, value = exact_best(gram, target, whole, chosen, value, exact)
        chosen = torch.cat([chosen, torch.where(value < left, best, -1)[:, None]], 1)
        coefficients, left = solved(gram, target, whole, chosen)
        errors.append(left.clamp(min=0).sqrt())
    return Choice(chosen, coefficients, torch.stack(errors, 1))


def rows_of(gram: Float[Tensor, "c c"], chosen: Int[Tensor, "k s"]) -> Float[Tensor, "k s c"]:
    """Inner products of the chosen vectors with all; 0 where none was chosen."""
    return torch.where((chosen >= 0)[:, :, None], gram[chosen], 0.0)


def among(
    gram: Float[Tensor, "c c"], target: Float[Tensor, "k c"], chosen: Int[Tensor, "k s"]
) -> tuple[Float[Tensor, "k s s"], Float[Tensor, "k s"]]:
    """Inner products of the chosen vectors with each other and with the goal; where none was chosen, of an axis that
    has nothing to do with the rest."""
    there = chosen >= 0
    index = chosen.clamp(min=0)
    inner = torch.where(there[:, :, None] & there[:, None], gram[index[:, :, None], index[:, None]], 0.0)
    return inner + torch.diag_embed((~there).to(gram)), torch.where(there, target.gather(1, index), 0.0)


def bounds(
    gram: Float[Tensor, "c c"], target: Float[Tensor, "k c"], whole: Float[Tensor, " k"], chosen: Int[Tensor, "k s"]
) -> tuple[Float[Tensor, "k c"], Bool[Tensor, "k c"]]:
    """What least squares of any sign leave with each further vector, squared, and whether no sign is negative."""
    inner, goal = among(gram, target, chosen)
    beside = rows_of(gram, chosen)
    solution = torch.linalg.solve(inner, torch.cat([beside, goal[:, :, None]], 2))
    across, alone = solution[:, :, :-1], solution[:, :, -1]
    gap = target - torch.einsum("ks,ksc->kc", alone, beside)
    height = gram.diagonal() - (beside * across).sum(1)
    new = gap / height
    old = alone[:, :, None] - across * new[:, None]
    left = (whole - (goal * alone).sum(1))[:, None] - gap * new
    exact = (new >= 0) & (old >= 0).all(1)
    return torch.where(height > DEPENDENT, left, torch.inf), exact


def exact_best(
    gram: Float[Tensor, "c c"],
    target: Float[Tensor, "k c"],
    whole: Float[Tensor, " k"],
    chosen: Int[Tensor, "k s"],
    value: Float[Tensor, "k c"],
    exact: Bool[Tensor, "k c"],
) -> tuple[Int[Tensor, " k"], Float[Tensor, " k"]]:
    """The vector that leaves least, and how much, where some values are lower bounds only."""
    value, exact = value.clone(), exact | value.isinf()
    while True:
        best = value.argmin(1)
        rows = (~exact.gather(1, best[:, None])[:, 0]).nonzero()[:, 0]
        if not len(rows):
            return best, value.gather(1, best[:, None])[:, 0]
        tried = torch.cat([chosen[rows], best[rows, None]], 1)
        _, value[rows, best[rows]] = solved(gram, target[rows], whole[rows], tried)
        exact[rows, best[rows]] = True


def solved(
    gram: Float[Tensor, "c c"], target: Float[Tensor, "k c"], whole: Float[Tensor, " k"], chosen: Int[Tensor, "k s"]
) -> tuple[Float[Tensor, "k s"], Float[Tensor, " k"]]:
    """Nonnegative coefficients of the chosen vectors, and what they leave, squared."""
    inner, goal = among(gram, target, chosen)
    coefficients = nnls(inner, goal)
    return coefficients, whole - (goal * coefficients).sum(1)


def gram_schmidt(goals: Float[Tensor, "k d"], vectors: Float[Tensor, "c d"], n: int) -> Choice:
    """The first published code's choice: at each step, the vector whose part orthogonal to those chosen points most
    along the goal; coefficients are least squares on the chosen and the positive and negative part of what is left.

    The sum of the chosen is closest to the goal only together with those two parts, and coefficients can be negative.
    """
    rows = [_orthogonal(goal, vectors, n) for goal in goals]
    return Choice(*(torch.stack(part) for part in zip(*rows, strict=True)))


def _orthogonal(goal: Float[Tensor, " d"], vectors: Float[Tensor, "c d"], n: int) -> tuple[Tensor, Tensor, Tensor]:
    apart, left = vectors.clone(), goal.clone()
    chosen, errors = list[int](), list[Tensor]()
    for _ in range(n):
        length = apart.norm(dim=1, keepdim=True)
        axes = torch.where(length.square() > DEPENDENT, apart / length, 0.0)
        along = axes @ goal
        best = int(along.argmax())
        helps = bool(along[best] > TOLERANCE)
        chosen.append(best if helps else -1)
        axis = axes[best] * helps
        apart, left = apart - (apart @ axis)[:, None] * axis, left - (left @ axis) * axis
        errors.append(left.norm())
    parts = [part / part.norm() for part in (left.clamp(min=0), left.clamp(max=0).neg()) if part.norm() > TOLERANCE]
    used = [number for number in chosen if number >= 0]
    coefficients = torch.zeros(n, dtype=goal.dtype)
    coefficients[: len(used)] = (torch.linalg.pinv(torch.stack([*vectors[used], *parts], 1)) @ goal)[: len(used)]
    return torch.tensor(chosen), coefficients, torch.stack(errors)
