"""Curves over regions: patches, superpixels, and pixels filled in from what is left around them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.core import BadInput, Cost, Explanation, Images, Model, Reading, Score, Target, registered
from glasshouse.core.superpixels import regions
from glasshouse.evaluate.baselines import Baseline
from glasshouse.evaluate.engine import Answers
from glasshouse.evaluate.faithfulness.curves import (
    RANDOM_PAIRS,
    between,
    features_in,
    ordered,
    own_counts,
    random_pairs,
    removal_curve,
    spread_of_luck,
)
from glasshouse.evaluate.faithfulness.features import values_on
from glasshouse.evaluate.metric import Metric, Result, answer, flaws
from glasshouse.evaluate.questions import (
    Features,
    Grid,
    Segments,
    keeping,
    ranking,
    sums_over,
    total_of,
)

RemovalOrder: TypeAlias = Literal["gain", "morf", "lerf"]
SUPERPIXELS = 100
TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def patches(size: tuple[int, int], side_px: int) -> Grid:
    """Rows and columns of patches of at most `side_px` pixels a side."""
    if side_px < 1:
        raise BadInput(f"patch_px {side_px} is not at least 1.")
    return -(-size[0] // side_px), -(-size[1] // side_px)


def n_patches(settings: Mapping[str, Any], shape: Sequence[int], side_px: int) -> int:
    size = (shape[-2], shape[-1])
    return total_of(settings.get("grid") or patches(size, settings.get("patch_px", side_px)))


@registered(
    "evaluate",
    cost=lambda settings, shape: Cost(min(settings.get("n_regions", 100), n_patches(settings, shape, 9)) + 1),
    paper="Samek et al., TNNLS 2017",
    example={"patch_px": 4, "n_regions": 5},
)
def region_perturbation(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    patch_px: int = 9,
    n_regions: int = 100,
    score: Reading = "prob",
    baseline: Baseline = "noise",
    grid: Features | None = None,
    target: Target = None,
    seed: int = 0,
    answers: Answers | None = None,
) -> Score:
    """How far the score has fallen, on average, while the most important patches are overwritten. Higher is better.

        AOPC = 1/(L + 1) sum_{k = 0…L} (f(x) - f(x without its k most important patches))

    Samek et al., "Evaluating the visualization of what a deep neural network has learned", TNNLS 2017.
    `extras["curve"]` holds f after each patch. Only the first L patches count, and f(x) bounds the score: compare maps
    of the same image.

    Differs: patches are as equal as the image allows and no larger than `patch_px`; noise is uniform between each
    channel's least and largest value in the image.

    Args:
        patch_px: side of a patch; n_regions: L, at most all patches.
        grid: other regions than patches, as in `deletion`.
    """
    if n_regions < 1:
        raise BadInput(f"n_regions {n_regions} is not at least 1.")
    features = grid or patches((inputs.shape[-2], inputs.shape[-1]), patch_px)
    order, reason = ordered(values_on(explanation, features), features, seed)
    own, last = own_counts(order), min(n_regions, order.ranks.shape[1])
    counts = [own.clamp(max=k) for k in range(last + 1)]

    def reduce(curve: Float[Tensor, "n r"]) -> Result:
        there = torch.arange(last + 1, device=curve.device) <= own[:, None].to(curve.device)
        drop = torch.where(there, curve[:, :1] - curve, 0.0)
        value = drop.sum(1) / there.sum(1)
        return Result(value, torch.zeros_like(value), reason, {"curve": curve})

    settings = {"n_regions": last, "baseline": baseline, "grid": features, "seed": seed}
    questions = tuple(keeping(between(order, k, own), baseline) for k in counts)
    metric = Metric("region_perturbation", questions, score, reduce, None, "up", settings)
    return answer(metric, model, inputs, explanation, target, answers)


@registered(
    "evaluate",
    cost=lambda settings, shape: Cost(n_patches(settings, shape, 8) + 1),
    paper="Montavon et al., DSP 2018",
    example={"patch_px": 5},
)
def selectivity(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    patch_px: int = 8,
    score: Reading = "prob",
    baseline: Baseline = "mean",
    grid: Features | None = None,
    target: Target = None,
    seed: int = 0,
    answers: Answers | None = None,
) -> Score:
    """How fast the score falls as whole patches are removed, most important first. Lower is better.

        area under f(x without its k most important patches), over k / n in 0…1, for all n patches

    Montavon, Samek and Müller, "Methods for interpreting and understanding deep neural networks", Digital Signal
    Processing 2018, sec. 7.2. `deletion` patch by patch; an unsure model scores low whatever the map, and
    `extras["normalised"]` is divided by f(x).

    Args:
        patch_px: largest side of a patch.
        grid: other regions than patches, as in `deletion`.
    """
    features = grid or patches((inputs.shape[-2], inputs.shape[-1]), patch_px)
    order, faults = ordered(values_on(explanation, features), features, seed)
    metric = removal_curve("selectivity", order, faults, order.ranks.shape[1], score, baseline, seed)
    return answer(metric, model, inputs, explanation, target, answers)


def irof_costs(settings: Mapping[str, Any], shape: Sequence[int]) -> Cost | None:
    given = settings.get("segments")
    return None if given is None else Cost(1 + total_of(Segments.of(given)))


@registered("evaluate", cost=irof_costs, paper="Rieger and Hansen, 2020")
def irof(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    segments: Int[Tensor, "..."] | None = None,
    score: Reading = "prob",
    baseline: Baseline = "image_mean",
    target: Target = None,
    seed: int = 0,
    answers: Answers | None = None,
) -> Score:
    """Share of the score that is gone, on average, as superpixels are greyed, most important first. Higher is better.

        1 - area under f(x without its l most important segments) / f(x), over l / L in 0…1

    Rieger and Hansen, "IROF: a low resource evaluation metric for explanation methods", ICLR workshop 2020. A segment's
    importance is the mean of the map in it, so that large ones have no advantage.

    Args:
        segments: a number at each pixel; images may have different numbers of segments. None makes about 100
            superpixels by SLIC, each image's own.
    """
    size = (inputs.shape[-2], inputs.shape[-1])
    if segments is not None and segments.shape != (len(inputs), *size):
        raise BadInput(
            f"segments {tuple(segments.shape)} are not of these images {tuple(inputs.shape)}.",
            "Give one `h w` per image.",
        )
    labels = regions(inputs, count=min(SUPERPIXELS, size[0] * size[1])) if segments is None else segments
    features = Segments.of(labels)
    heatmap = explanation.heatmap
    means = sums_over(heatmap, features) / sums_over(torch.ones_like(heatmap), features).clamp(min=1)
    order, faults = ranking(means, features, seed), flaws(heatmap)
    metric = removal_curve("irof", order, faults, order.ranks.shape[1], score, baseline, seed)

    def reduce(curve: Float[Tensor, "n r"]) -> Result:
        plain, positive = metric.reduce(curve), (curve[:, 0] > 0).tolist()
        reason = tuple(
            why or ("" if good else "score_not_positive") for why, good in zip(faults, positive, strict=True)
        )
        extras = {name: plain.extras[name] for name in ("curve", "fraction")}
        return Result(1 - plain.extras["normalised"], plain.stderr, reason, extras)

    whole = replace(metric, reduce=reduce, direction="up")
    return answer(whole, model, inputs, explanation, target, answers)


def part_of_luck(fractions: Sequence[float]) -> float:
    """Variance of the mean gain of a random ranking at these fractions, over its mean variance at single ones.

    With the bridge of `spread_of_luck`, cov(d(u), d(v)) = 2 (K(u, v) + K(u, 1 - v)), K(u, v) = min(u, v) - u v, and the
    mean of var d(u) over u is 1/2.
    """
    u = torch.tensor(list(fractions), dtype=torch.float64)
    v = u[:, None]
    bridge = torch.minimum(u, v) - u * v + torch.minimum(u, 1 - v) - u * (1 - v)
    return float(2 * bridge.mean() / 0.5)


def road_costs(settings: Mapping[str, Any], shape: Sequence[int]) -> Cost:
    total, fractions = features_in(settings, shape), settings.get("fractions", TENTHS)
    distinct = len({min(max(round(fraction * total), 1), total - 1) for fraction in fractions})
    gain = settings.get("order", "gain") == "gain"
    return Cost(1 + (2 * distinct + 2 * RANDOM_PAIRS if gain else distinct))


def road_plan(
    explanation: Explanation,
    order: RemovalOrder,
    fractions: Sequence[float],
    score: Reading,
    baseline: Baseline,
    grid: Features | None,
    seed: int,
) -> Metric:
    """Plan of `road`: one or both curves at the same fractions, and random rankings to compare a gain with."""
    values = values_on(explanation, grid)
    ranked, reason = ordered(values, grid, seed)
    own, gain = own_counts(ranked), order == "gain"
    gone = [(fraction * own.double()).round().long().clamp(min=1).minimum(own - 1) for fraction in fractions]
    most = [between(ranked, k, own) for k in gone] if order != "lerf" else []
    least = [between(ranked, torch.zeros_like(k), own - k) for k in gone] if order != "morf" else []
    luck = random_pairs(ranked.grid, len(values), seed) if gain else []

    def reduce(table: Float[Tensor, "n r"]) -> Result:
        morf, lerf, drawn = table.split([len(most), len(least), len(luck)], dim=1)
        curves = {name: c for name, c in (("most_first", morf), ("least_first", lerf)) if c.shape[1]}
        value = lerf.mean(1) - morf.mean(1) if gain else (morf if most else lerf).mean(1)
        stderr = spread_of_luck(drawn, part_of_luck(fractions)) if gain else torch.zeros_like(value)
        extras = {**curves, "fraction": torch.tensor(list(fractions))}
        if score == "margin":
            extras |= {f"{name}_predicted": (curve > 0).double() for name, curve in curves.items()}
        return Result(value, stderr, reason, extras)

    settings = {"order": order, "fractions": tuple(fractions), "baseline": baseline, "grid": ranked.grid, "seed": seed}
    questions = tuple(keeping(kept, baseline) for kept in (*most, *least, *luck))
    direction = "down" if order == "morf" else "up"
    return Metric("road", questions, score, reduce, 0.0 if gain else None, direction, settings)


@registered("evaluate", cost=road_costs, paper="Rong et al., ICML 2022", example={"fractions": (0.3, 0.7)})
def road(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    order: RemovalOrder = "gain",
    fractions: Sequence[float] = TENTHS,
    score: Reading = "prob",
    baseline: Baseline = "road:0.01",
    grid: Features | None = None,
    target: Target = None,
    seed: int = 0,
    answers: Answers | None = None,
) -> Score:
    """How much lower the score is when the most important pixels are filled in from around than when the least are.

        mean over fractions p of   f(x, least important p imputed) - f(x, most important p imputed)

    Rong et al., "A consistent and efficient evaluation strategy for attribution methods", ICML 2022: a removed pixel
    becomes what its neighbours let expect, so that the shape of the hole tells less of the class. It still tells
    something: smooth maps leave a blur of their own shape. 0 is what a random ranking scores in expectation; the
    standard error is how far one strays, as in `srg`.

    Differs: the paper plots the accuracy over a data set against p, most first ("morf") and least first ("lerf"). With
    `score="margin"`, `extras["most_first_predicted"]` is 1 where the target is still predicted, and its mean is that
    accuracy.

    Args:
        order: "morf", most important first: the mean of f, lower is better; "lerf": least first, higher is better;
            "gain": their difference.
        fractions: of the pixels, each between 0 and 1.
        grid: other features than pixels, as in `deletion`.
    """
    if order not in get_args(RemovalOrder):
        raise BadInput(f"order '{order}' is unknown.", "Use 'gain', 'morf' or 'lerf'.")
    if not fractions or not all(0 < fraction < 1 for fraction in fractions):
        raise BadInput(f"fractions {tuple(fractions)} are not all between 0 and 1.", "Try (0.1, 0.5, 0.9).")
    metric = road_plan(explanation, order, fractions, score, baseline, grid, seed)
    return answer(metric, model, inputs, explanation, target, answers)
