"""Masks of a given area: ascent on a reward while the area is held to what was asked for, ever more firmly."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.core import BadInput, PerImage, in_chunks, steps
from glasshouse.core.gradient import gradient

MOMENTUM = 0.9
EQUAL = 1e-5  # rounding of single precision stays below
FLAT = 50  # steps over which a reward must stand still

Play = Callable[[Tensor, Tensor, int], PerImage]
"""From numbers of rows, their masks and the step to what the masks are worth."""


class Game(NamedTuple):
    """What is searched for. No row of masks may influence another.

    Args:
        draw: from the free numbers of some masks to the masks.
        play: what the masks of some rows are worth at a step.
        counts: how many values of each mask may be 1.
        force: how much a difference in area counts at a step.
    """

    draw: Callable[[Tensor], Tensor]
    play: Play
    counts: Int[Tensor, " r"]
    force: Callable[[int], float]


class Climb(NamedTuple):
    """What a search found for each row: free numbers, mask, its reward, and the reward at every step."""

    cells: Float[Tensor, "r ..."]
    masks: Float[Tensor, "r ..."]
    reward: Float[Tensor, " r"]
    history: Float[Tensor, "r t"]


def area_counts(areas: Sequence[float | int], size: int) -> Int[Tensor, " a"]:
    """How many of `size` values may be 1: areas are shares in 0…1, or ints, which count."""
    if not areas or not all(0 < area <= (size if isinstance(area, int) else 1) for area in areas):
        raise BadInput(f"areas {tuple(areas)} are not all above 0 and at most 1.", "Use shares such as (0.05, 0.1).")
    counts = [area if isinstance(area, int) else size - int(size * (1 - area)) for area in areas]
    return torch.tensor(counts).clamp(min=1)


def template(values: Float[Tensor, "r p"], counts: Int[Tensor, " r"]) -> Float[Tensor, "r p"]:
    """What masks of the right area would be: 1 at the `counts` largest values of each row, 0 elsewhere.

    Equal values share what is left for them: all are equal at the start, and whichever were preferred would stay so.
    """
    first = (values.shape[1] + 1 - counts).tolist()
    least = torch.stack([row.kthvalue(place).values for row, place in zip(values, first, strict=True)])[:, None]
    above, equal = values > least + EQUAL, (values - least).abs() <= EQUAL
    share = (counts[:, None] - above.sum(1, keepdim=True)) / equal.sum(1, keepdim=True)
    return torch.where(equal, share.to(values), above.to(values))


def climb(
    game: Game,
    cells: Float[Tensor, "r ..."],
    n_steps: int,
    learning_rate: float,
    chunk: int,
    tolerance: float = 0.0,
) -> Climb:
    """Masks of high reward in which `counts` values are 1 and all others 0, or nearly.

        ascend   reward(m) - lambda_t mean_u (vecsort(m)_u - r_u)^2

    where the template r is 0 up to its last `counts` entries, which are 1. Fong, Patrick and Vedaldi, ICCV 2019,
    sec. 3.1; momentum and dampening 0.9 as in the authors' code. The last of the steps only looks, so that the rewards
    belong to the masks.

    Differs: values that are equal share their place in the order, which sorting gives to any of them.

    Args:
        tolerance: above 0, a mask rests once it is within that of its template (mean square) and its reward, as a
            mean of 50 steps, has moved by less than that share of its range.
    """
    cells, speed = cells.clone(), torch.zeros_like(cells)
    history = cells.new_full((len(cells), n_steps), torch.nan)
    moving = every = torch.arange(len(cells), device=cells.device)
    for step in steps(n_steps - 1):
        parts = list(in_chunks(partial(uphill, game, cells, moving, step), len(moving), chunk, cells.device))
        if len(parts) > 1:
            chunk = max(len(part) for part, _ in parts)  # what memory allowed
        reward, gap, slope = (torch.cat(found) for found in zip(*(found for _, found in parts), strict=True))
        speed[moving] = MOMENTUM * speed[moving] + (1 - MOMENTUM) * slope if step else slope
        cells[moving] = (cells[moving] + learning_rate * speed[moving]).clamp(0, 1)
        history[moving, step] = reward
        if tolerance > 0:
            moving = moving[~settled(history[moving, : step + 1], gap, tolerance)]
        if not len(moving):
            break
    looks = [found for _, found in in_chunks(partial(look, game, cells, n_steps - 1), len(every), chunk, cells.device)]
    masks, reward = (torch.cat(found) for found in zip(*looks, strict=True))
    return Climb(cells, masks, reward, torch.where(history.isnan(), reward[:, None], history))


def uphill(game: Game, cells: Tensor, moving: Tensor, step: int, part: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For some of the rows that move: their reward, how far they are from their area, and where to go."""
    rows = moving[part]
    free = cells[rows].requires_grad_()
    drawn = game.draw(free)
    masks = drawn.detach().requires_grad_()
    reward = game.play(rows, masks, step)
    values = masks.detach().flatten(1)
    off = values - template(values, game.counts[rows])
    hold = 2 * game.force(step) / off.shape[1] * off
    (slope,) = torch.autograd.grad(drawn, free, gradient(reward, masks) - hold.view_as(masks))
    return reward.detach(), off.square().mean(1), slope


@torch.no_grad()
def look(game: Game, cells: Tensor, step: int, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The masks of some rows, and their reward."""
    masks = game.draw(cells[rows])
    return masks, game.play(rows, masks, step)


def settled(history: Float[Tensor, "r t"], gap: Float[Tensor, " r"], tolerance: float) -> Bool[Tensor, " r"]:
    """Which masks have their area and gain nothing any more."""
    if history.shape[1] < 2 * FLAT:
        return torch.zeros_like(gap, dtype=torch.bool)
    now, before = history[:, -FLAT:].mean(1), history[:, -2 * FLAT : -FLAT].mean(1)
    return (gap <= tolerance) & ((now - before).abs() <= tolerance * (history.amax(1) - history.amin(1)))
