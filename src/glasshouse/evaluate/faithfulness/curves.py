"""Removal curves: how the score changes as parts of an image go, in the order of a map."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glasshouse.core import (
    BadInput,
    Cost,
    Explanation,
    Images,
    Maps,
    Model,
    PerImage,
    Reading,
    Score,
    Target,
    generator,
    registered,
)
from glasshouse.evaluate.engine import Answers, Baseline, Cells, Grid, Ranked, grid_of, keeping, order_of
from glasshouse.evaluate.metric import Metric, Result, answer, flaws


def steps(total: int, n_steps: int) -> list[int]:
    """Numbers of cells removed, from none to all, in `n_steps` steps as equal as whole cells allow."""
    if n_steps < 1:
        raise BadInput(f"n_steps {n_steps} is not at least 1.")
    count = min(n_steps, total)
    return [round(place * total / count) for place in range(count + 1)]


def area(curve: Float[Tensor, "n s"], fraction: Float[Tensor, " s"]) -> PerImage:
    """Area under a curve over 0…1, by trapezoids, both ends included."""
    return torch.trapezoid(curve, fraction.to(curve), dim=1)


def curve_costs(settings: Mapping[str, Any], shape: Sequence[int]) -> Cost:
    return Cost(min(settings.get("n_steps", 224), shape[-1] * shape[-2]) + 1)


def removal_curve(
    name: str, heatmap: Maps, n_steps: int, score: Reading, baseline: Baseline, grid: Grid | None, seed: int
) -> Metric:
    """Plan of `deletion` and `insertion`, which differ in which end of the order stays."""
    order = order_of(heatmap, grid, seed)
    total = order.ranks.shape[1]
    counts, reason = steps(total, n_steps), flaws(heatmap)
    kept = [Ranked(order, k, total) if name == "deletion" else Ranked(order, 0, k) for k in counts]
    fraction = torch.tensor(counts, dtype=torch.float64) / total

    def reduce(curve: Float[Tensor, "n r"]) -> Result:
        value = area(curve, fraction)
        extras = {"curve": curve, "fraction": fraction}
        return Result(value, torch.zeros_like(value), reason, extras)

    settings = {"n_steps": len(counts) - 1, "baseline": baseline, "grid": order.grid, "seed": seed}
    questions = tuple(keeping(keep, baseline) for keep in kept)
    return Metric(name, questions, score, reduce, None, "down" if name == "deletion" else "up", settings)


@registered("evaluate", cost=curve_costs, paper="Petsiuk et al., BMVC 2018", example={"n_steps": 8})
def deletion(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    n_steps: int = 224,
    score: Reading = "prob",
    baseline: Baseline = "mean",
    grid: Grid | None = None,
    target: Target = None,
    seed: int = 0,
    answers: Answers | None = None,
) -> Score:
    """How fast the target's probability falls as pixels are removed, most important first. Lower is better.

        area under f(x with the k most important pixels replaced), over k / d in 0…1

    Petsiuk, Das and Saenko, "RISE", BMVC 2018, sec. 4.2; pixel flipping in Bach et al., 2015. Trapezoids,
    with both the clean and the empty image; `extras["curve"]` holds the curve. A model that was unsure to
    begin with scores low whatever the map: compare maps of the same image only.

    Args:
        n_steps: steps from the clean to the empty image; 224 is 224 pixels per step for an image of 224.
        baseline: what replaces pixels, in the model's input space (see `engine.Baseline`).
        grid: rows and columns of cells to remove instead of pixels.
        target: only needed where the explanation's target was a function or weights.
        seed: of the order of equal values.
    """
    metric = removal_curve("deletion", explanation.heatmap, n_steps, score, baseline, grid, seed)
    return answer(metric, model, inputs, explanation, target, answers)


@registered("evaluate", cost=curve_costs, paper="Petsiuk et al., BMVC 2018", example={"n_steps": 8})
def insertion(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    n_steps: int = 224,
    score: Reading = "prob",
    baseline: Baseline = "blur:5:11",
    grid: Grid | None = None,
    target: Target = None,
    seed: int = 0,
    answers: Answers | None = None,
) -> Score:
    """How fast the target's probability rises as pixels are put into a blurred image, most important first.

        area under f(blurred x with the k most important pixels restored), over k / d in 0…1

    Petsiuk, Das and Saenko, "RISE", BMVC 2018, sec. 4.2: Gaussian blur of 11 taps, sigma 5. Higher is better.
    Arguments as in `deletion`.
    """
    metric = removal_curve("insertion", explanation.heatmap, n_steps, score, baseline, grid, seed)
    return answer(metric, model, inputs, explanation, target, answers)


RANDOM_PAIRS = 8
"""Random rankings that say how far a gain strays by luck; two forward passes per image each, shared by all maps."""


def gain_plan(heatmap: Maps, n_steps: int, score: Reading, baseline: Baseline, grid: Grid | None, seed: int) -> Metric:
    """Plan of `srg`: the two removal curves on one grid, and random rankings to compare them with."""
    if n_steps < 1:
        raise BadInput(f"n_steps {n_steps} is not at least 1.")
    grid = grid or grid_of((heatmap.shape[-2], heatmap.shape[-1]))
    order = order_of(heatmap, grid, seed)
    total = order.ranks.shape[1]
    counts, reason = steps(total, n_steps + 1), flaws(heatmap)
    fraction = torch.tensor(counts, dtype=torch.float64) / total
    first = [keeping(Ranked(order, k, total), baseline) for k in counts]
    last = [keeping(Ranked(order, 0, k), baseline) for k in counts]  # least important gone first, from the end
    luck = [keeping(Cells(grid, kept), baseline) for kept in random_pairs(total, seed)]

    def reduce(table: Float[Tensor, "n r"]) -> Result:
        morf, lerf, drawn = table.split([len(first), len(last), len(luck)], dim=1)
        extras = {"change": morf[:, 0] - morf[:, -1], "most_first": morf, "least_first": lerf.flip(1)}
        value = area(lerf, fraction) - area(morf, fraction)
        return Result(value, spread_of_luck(drawn), reason, extras | {"fraction": fraction})

    settings = {"n_steps": n_steps, "baseline": baseline, "grid": grid, "seed": seed}
    return Metric("srg", (*first, *last, *luck), score, reduce, 0.0, "up", settings)


def random_pairs(total: int, seed: int) -> list[bytes]:
    """For random rankings at fractions spread over 0…1: what stays when the first cells go, and when the last do."""
    draws, kept = generator(seed), list[bytes]()
    for place in range(RANDOM_PAIRS):
        order = torch.randperm(total, generator=draws)
        gone = min(total - 1, max(1, round((place + 0.5) / RANDOM_PAIRS * total)))
        kept += [bytes((order >= gone).byte().numpy()), bytes((order < total - gone).byte().numpy())]
    return kept


def spread_of_luck(drawn: Float[Tensor, "n p"]) -> PerImage:
    """Standard deviation of the gain of a random ranking, on this very image.

    At a fraction u a random ranking has the gain d(u) = f(last removed) - f(first removed), which is 0 in expectation.
    Where the score is a sum over cells, d(u) is B(u) + B(1 - u) for a Brownian bridge B, and then

        var SRG = var of the integral of d = 2/3 of the mean of d² over u

    (1/3 and 1/2 of the variance of a full sum). Elsewhere it is an estimate: at most 1.22 times too small.
    """
    gain = drawn[:, 1::2] - drawn[:, 0::2]
    return (2 / 3 * gain.square().mean(1)).sqrt()


@registered(
    "evaluate",
    cost=lambda settings, shape: Cost(2 * settings.get("n_steps", 16) + 2 + 2 * RANDOM_PAIRS),
    paper="Bluecher et al., 2024",
    example={"n_steps": 4},
)
def srg(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    n_steps: int = 16,
    score: Reading = "prob",
    baseline: Baseline = "blur",
    grid: Grid | None = None,
    target: Target = None,
    seed: int = 0,
    answers: Answers | None = None,
) -> Score:
    """Symmetric relevance gain: how much faster the score falls when important cells go first than last.

        area under the curve, least important removed first - area, most important removed first

    Bluecher, Vielhaben and Strodthoff, "Decoupling pixel flipping and occlusion strategy", TMLR 2024. 0 is
    what a random ranking scores in expectation, so unlike deletion alone it does not reward an unsure model.
    The standard error is how far random rankings of the same image stray from 0 (see `spread_of_luck`); their 16
    forward passes are shared by all maps of the image through `answers`.

    Args:
        n_steps: partly removed images on each curve.
        grid: rows and columns of cells; None takes 7 to 14 along the shorter side.
    """
    metric = gain_plan(explanation.heatmap, n_steps, score, baseline, grid, seed)
    return answer(metric, model, inputs, explanation, target, answers)
