"""Removal curves: how the score changes as parts of an image go, in the order of a map."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from glasshouse.core import (
    BadInput,
    Cost,
    Explanation,
    Images,
    Model,
    PerImage,
    Reading,
    Score,
    Target,
    generator,
    registered,
)
from glasshouse.evaluate.baselines import Baseline
from glasshouse.evaluate.engine import Answers
from glasshouse.evaluate.faithfulness.features import faults_of, values_on
from glasshouse.evaluate.metric import Metric, Result, answer
from glasshouse.evaluate.questions import (
    Cells,
    Features,
    Keep,
    Order,
    Ranked,
    Segments,
    fingerprint,
    grid_of,
    keeping,
    ranking,
    sums_over,
    total_of,
)


def area(curve: Float[Tensor, "n s"], fraction: Float[Tensor, "... s"]) -> PerImage:
    """Area under a curve over 0…1, by trapezoids, both ends included."""
    return torch.trapezoid(curve, fraction.to(curve), dim=1)


def ordered(values: Float[Tensor, "n ..."], features: Features | None, seed: int) -> tuple[Order, tuple[str, ...]]:
    """Features (pixels for None) by the sum of the values in them, and why these cannot be ranked, per image."""
    features = features or (values.shape[-2], values.shape[-1])
    return ranking(sums_over(values, features), features, seed), faults_of(values)


def own_counts(order: Order) -> Int[Tensor, " n"]:
    """How many features each image has."""
    if isinstance(order.grid, Segments):
        return order.grid.counts.to(order.ranks.device)
    return torch.full((len(order.ranks),), order.ranks.shape[1], device=order.ranks.device)


def chosen(features: Features, stays: Bool[Tensor, "n g"], note: str = "") -> Ranked:
    """Sets that differ from image to image, as a question can hold them. A `note` sets equal ones apart."""
    return Ranked(Order(features, -stays.int(), f"{fingerprint(stays)}{note}"), -1, 0)


def between(order: Order, low: Int[Tensor, " n"], high: Int[Tensor, " n"]) -> Ranked:
    """The features of rank `low … high - 1`, numbers of each image's own, of a `ranking`."""
    own, total = own_counts(order), order.ranks.shape[1]
    low, high = (torch.where(bound >= own, total, bound) for bound in (low, high))
    if (low == low[0]).all() and (high == high[0]).all():
        return Ranked(order, int(low[0]), int(high[0]))
    return chosen(order.grid, (order.ranks >= low[:, None]) & (order.ranks < high[:, None]))


def removals(order: Order, n_steps: int) -> Int[Tensor, "n s"]:
    """Numbers of features removed, from none to all of an image's own, in steps as equal as whole features allow."""
    if n_steps < 1:
        raise BadInput(f"n_steps {n_steps} is not at least 1.")
    count = min(n_steps, order.ranks.shape[1])
    own = own_counts(order).double()
    return (torch.arange(count + 1, dtype=torch.float64, device=own.device) * own[:, None] / count).round().long()


def shares_of(order: Order, removed: Int[Tensor, "n s"]) -> Float[Tensor, "... s"]:
    """Numbers of features as parts of all: `s`, or `n s` where images differ."""
    fraction = removed.double() / own_counts(order)[:, None]
    return fraction[0] if (fraction == fraction[:1]).all() else fraction


def features_in(settings: Mapping[str, Any], shape: Sequence[int]) -> int:
    """How many features a call removes one by one: of `grid`, or pixels."""
    return total_of(settings.get("grid") or (shape[-2], shape[-1]))


def curve_costs(settings: Mapping[str, Any], shape: Sequence[int]) -> Cost:
    return Cost(min(settings.get("n_steps", 224), features_in(settings, shape)) + 1)


def removal_curve(
    name: str, order: Order, reason: tuple[str, ...], n_steps: int, score: Reading, baseline: Baseline, seed: int
) -> Metric:
    """Plan of all single curves. `insertion` begins at the empty image: the other end of the order stays."""
    removed, own, insert = removals(order, n_steps), own_counts(order), name == "insertion"
    fraction = shares_of(order, removed)
    bounds = [(torch.zeros_like(k), k) if insert else (k, own) for k in removed.unbind(1)]

    def reduce(curve: Float[Tensor, "n r"]) -> Result:
        value, clean = area(curve, fraction), curve[:, -1] if insert else curve[:, 0]
        normalised = torch.where(clean > 0, value / clean, torch.nan)
        extras = {"curve": curve, "fraction": fraction, "normalised": normalised}
        return Result(value, torch.zeros_like(value), reason, extras)

    settings = {"n_steps": removed.shape[1] - 1, "baseline": baseline, "grid": order.grid, "seed": seed}
    questions = tuple(keeping(between(order, low, high), baseline) for low, high in bounds)
    return Metric(name, questions, score, reduce, None, "up" if insert else "down", settings)


@registered("evaluate", cost=curve_costs, paper="Petsiuk et al., BMVC 2018", example={"n_steps": 8})
def deletion(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    n_steps: int = 224,
    score: Reading = "prob",
    baseline: Baseline = "mean",
    grid: Features | None = None,
    target: Target = None,
    seed: int = 0,
    answers: Answers | None = None,
) -> Score:
    """How fast the target's probability falls as pixels are removed, most important first. Lower is better.

        area under f(x with the k most important pixels replaced), over k / d in 0…1

    Petsiuk, Das and Saenko, "RISE", BMVC 2018, sec. 4.2; pixel flipping in Bach et al., 2015. Trapezoids,
    with both the clean and the empty image; `extras["curve"]` holds the curve. A model that was unsure to
    begin with scores low whatever the map; `extras["normalised"]` is divided by f(x), and compares images (NaN where
    f(x) is not above 0, as a logit may be).

    Args:
        n_steps: steps from the clean to the empty image; 224 is 224 pixels per step for an image of 224.
        baseline: what replaces pixels, in the model's input space (see `baselines.Baseline`).
        grid: what to remove instead of pixels: rows and columns of cells, `Segments.of(labels)`, or `Elements(shape)`
            for every channel's values by themselves, ranked by `explanation.native`.
        target: only needed where the explanation's target was a function or weights.
        seed: of the order of equal values.
    """
    order, faults = ordered(values_on(explanation, grid), grid, seed)
    metric = removal_curve("deletion", order, faults, n_steps, score, baseline, seed)
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
    grid: Features | None = None,
    target: Target = None,
    seed: int = 0,
    answers: Answers | None = None,
) -> Score:
    """How fast the target's probability rises as pixels are put into a blurred image, most important first.

        area under f(blurred x with the k most important pixels restored), over k / d in 0…1

    Petsiuk, Das and Saenko, "RISE", BMVC 2018, sec. 4.2: Gaussian blur of 11 taps, sigma 5. Higher is better.
    Arguments as in `deletion`.
    """
    order, faults = ordered(values_on(explanation, grid), grid, seed)
    metric = removal_curve("insertion", order, faults, n_steps, score, baseline, seed)
    return answer(metric, model, inputs, explanation, target, answers)


RANDOM_PAIRS = 8
"""Random rankings that say how far a gain strays by luck; two forward passes per image each, shared by all maps."""


def gain_plan(
    values: Float[Tensor, "n ..."], n_steps: int, score: Reading, baseline: Baseline, grid: Features | None, seed: int
) -> Metric:
    """Plan of `srg`: the two removal curves on one grid, and random rankings to compare them with."""
    if n_steps < 1:
        raise BadInput(f"n_steps {n_steps} is not at least 1.")
    order, reason = ordered(values, grid or grid_of((values.shape[-2], values.shape[-1])), seed)
    removed, own = removals(order, n_steps + 1), own_counts(order)
    fraction, counts = shares_of(order, removed), removed.unbind(1)
    first = [keeping(between(order, k, own), baseline) for k in counts]
    # least important gone first, from the end
    last = [keeping(between(order, torch.zeros_like(k), k), baseline) for k in counts]
    luck = [keeping(kept, baseline) for kept in random_pairs(order.grid, len(values), seed)]

    def reduce(table: Float[Tensor, "n r"]) -> Result:
        morf, lerf, drawn = table.split([len(first), len(last), len(luck)], dim=1)
        extras = {"change": morf[:, 0] - morf[:, -1], "most_first": morf, "least_first": lerf.flip(1)}
        value = area(lerf, fraction) - area(morf, fraction)
        return Result(value, spread_of_luck(drawn), reason, extras | {"fraction": fraction})

    settings = {"n_steps": n_steps, "baseline": baseline, "grid": order.grid, "seed": seed}
    return Metric("srg", (*first, *last, *luck), score, reduce, 0.0, "up", settings)


def random_pairs(features: Features, n: int, seed: int) -> list[Keep]:
    """For random rankings at fractions spread over 0…1: what stays when the first go, and when the last do."""
    draws, total, kept = generator(seed), total_of(features), list[Keep]()
    if isinstance(features, Segments):  # what a segment draws must not depend on how many other images have
        drawn = torch.rand(total, RANDOM_PAIRS, generator=draws, dtype=torch.float64).T
        for place, row in enumerate(drawn):
            order = ranking(row.expand(n, -1), features, seed)
            own = own_counts(order)
            gone = ((place + 0.5) / RANDOM_PAIRS * own.double()).round().long().clamp(min=1).minimum(own - 1)
            kept += [between(order, gone, own), between(order, torch.zeros_like(own), own - gone)]
        return kept
    for place in range(RANDOM_PAIRS):
        order = torch.randperm(total, generator=draws)
        gone = min(total - 1, max(1, round((place + 0.5) / RANDOM_PAIRS * total)))
        for stays in (order >= gone, order < total - gone):
            kept.append(Cells(features, bytes(stays.byte().numpy())))
    return kept


def spread_of_luck(drawn: Float[Tensor, "n p"], part: float = 2 / 3) -> PerImage:
    """Standard deviation of the gain of a random ranking, on this very image.

    At a fraction u a random ranking has the gain d(u) = f(last removed) - f(first removed), which is 0 in expectation.
    Where the score is a sum over cells, d(u) is B(u) + B(1 - u) for a Brownian bridge B, and then

        var SRG = var of the integral of d = 2/3 of the mean of d² over u

    (1/3 and 1/2 of the variance of a full sum). Elsewhere it is an estimate: at most 1.22 times too small.

    Args:
        part: 2/3, or what takes its place where the gain is another mean of d.
    """
    gain = drawn[:, 1::2] - drawn[:, 0::2]
    return (part * gain.square().mean(1)).sqrt()


def gain_costs(settings: Mapping[str, Any], shape: Sequence[int]) -> Cost:
    total = total_of(settings.get("grid") or grid_of((shape[-2], shape[-1])))
    return Cost(2 * min(settings.get("n_steps", 16) + 1, total) + 2 * RANDOM_PAIRS)


@registered("evaluate", cost=gain_costs, paper="Bluecher et al., 2024", example={"n_steps": 4})
def srg(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    n_steps: int = 16,
    score: Reading = "prob",
    baseline: Baseline = "blur",
    grid: Features | None = None,
    target: Target = None,
    seed: int = 0,
    answers: Answers | None = None,
) -> Score:
    """Symmetric relevance gain: how much faster the score falls when important cells go first than last.

        area under the curve, least important removed first - area, most important removed first

    Bluecher, Vielhaben and Strodthoff, "Decoupling pixel flipping and occlusion strategy", TMLR 2024. 0 is
    what a random ranking scores in expectation, so unlike deletion alone it does not reward an unsure model. Cells are
    ranked by sums: where they differ in size, positive values without any order put the large ones first.
    The standard error is how far random rankings of the same image stray from 0 (see `spread_of_luck`); their 16
    forward passes are shared by all maps of the image through `answers`.

    Args:
        n_steps: partly removed images on each curve.
        grid: rows and columns of cells; None takes 7 to 14 along the shorter side. Or as in `deletion`.
    """
    values = values_on(explanation, grid)
    return answer(gain_plan(values, n_steps, score, baseline, grid, seed), model, inputs, explanation, target, answers)
