"""Faithfulness on random sets: does the map's sum over a set tell how the score falls without it?"""

from collections.abc import Callable, Mapping, Sequence
from math import comb
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glasshouse.core import (
    BadInput,
    Cost,
    Explanation,
    Images,
    Model,
    Reading,
    Score,
    Target,
    generator,
    registered,
)
from glasshouse.evaluate.agreement import correlation, mean_ranks
from glasshouse.evaluate.baselines import Baseline
from glasshouse.evaluate.engine import Answers
from glasshouse.evaluate.faithfulness.features import (
    FEWEST,
    counts_of,
    faults_of,
    luck,
    number_of_sets,
    random_sets,
    seeds,
    too_few,
    values_on,
    why_unknown,
)
from glasshouse.evaluate.metric import Metric, Result, answer
from glasshouse.evaluate.questions import CLEAN, Features, grid_of, sums_over, total_of


def enough(n_samples: int) -> None:
    if n_samples < FEWEST:
        raise BadInput(f"n_samples {n_samples} is too few for a correlation.", f"Use at least {FEWEST}.")


def subset_plan(
    name: str,
    values: Float[Tensor, "n ..."],
    features: Features,
    n_samples: int,
    n_removed: Callable[[int], int],
    by_rank: bool,
    score: Reading,
    baseline: Baseline,
    seed: int,
) -> Metric:
    """Random sets of features: does the map's sum over a set follow the drop of the score without the set?"""
    enough(n_samples)
    total, counts = total_of(features), counts_of(features, len(values))
    most = n_removed(total)
    if not 0 < most < total:
        raise BadInput(f"{most} of {total} features cannot be removed at random.", "Remove some, but not all.")
    sizes, mass = [n_removed(count) for count in counts], sums_over(values, features)
    questions, sums = random_sets(mass, features, sizes, n_samples, baseline, generator(seed))
    few = ["few_features" if comb(*pair) < FEWEST else "" for pair in zip(counts, sizes, strict=True)]
    faults = [fault or less for fault, less in zip(faults_of(values), few, strict=True)]

    def reduce(table: Float[Tensor, "n r"]) -> Result:
        drop, held = table[:, :1] - table[:, 1:], sums.to(table)
        pair = (mean_ranks(held), mean_ranks(drop)) if by_rank else (held, drop)
        value, drawn = correlation(*pair, seed)
        stderr = (drawn.square() + luck(value, counts).square()).sqrt()
        reasons = why_unknown(faults, value, (drop == drop[:, :1]).all(1))
        return Result(value, stderr, reasons, {"sums": sums, "drops": drop})

    settings = {"grid": features, "n_samples": n_samples, "n_removed": most, "baseline": baseline, "seed": seed}
    return Metric(name, (CLEAN, *questions), score, reduce, 0.0, "up", settings)


def fixed_size(subset_size: int) -> Callable[[int], int]:
    return lambda count: min(subset_size, count // 2)


def correlation_costs(settings: Mapping[str, Any], shape: Sequence[int]) -> Cost:
    total = total_of(settings.get("grid") or (shape[-2], shape[-1]))
    size = fixed_size(settings.get("subset_size", 224))(total)
    return Cost(number_of_sets(total, size, settings.get("n_samples", 100)) + 1)


@registered("evaluate", cost=correlation_costs, paper="Bhatt et al., IJCAI 2020", example={"n_samples": 16})
def faithfulness_correlation(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    n_samples: int = 100,
    subset_size: int = 224,
    grid: Features | None = None,
    score: Reading = "logit",
    baseline: Baseline = "mean",
    target: Target = None,
    seed: int = 0,
    answers: Answers | None = None,
) -> Score:
    """Whether the map's sum over random sets of pixels follows the drop of the score when they are removed.

        Pearson correlation over sets S of   sum_{i in S} a_i   and   f(x) - f(x with S replaced)

    Bhatt, Weller and Moura, "Evaluating and aggregating feature-based model explanations", IJCAI 2020, eq. 3. 1
    is perfect, 0 is chance (where features are of one size; the sum of a positive map tells of the size as well). The
    standard error joins that of the draw of sets (bootstrap) and the luck that a random map has on d features,
    (1 - r²) / sqrt(d - 1). Scattered pixels change a large image little; the error is wide there, and `mu_fidelity`
    decides sooner. Where fewer than 16 different sets can be made, the reason is "few_features".

    Args:
        n_samples: sets, at least 16, all different (of `Segments`: drawn independently); all there are where there are
            no more.
        subset_size: pixels (or other features) per set; at most half of them.
        grid: what sets are made of: rows and columns of cells, `Segments`, or `Elements`; None takes pixels.
    """
    features = grid or (inputs.shape[-2], inputs.shape[-1])
    values, size = values_on(explanation, features), fixed_size(subset_size)
    name = "faithfulness_correlation"
    metric = subset_plan(name, values, features, n_samples, size, False, score, baseline, seed)
    return answer(metric, model, inputs, explanation, target, answers)


def shared_size(fraction: float) -> Callable[[int], int]:
    return lambda count: round(fraction * count)


def nine_by_nine(size: tuple[int, int]) -> tuple[int, int]:
    return min(9, size[0]), min(9, size[1])


def fidelity_plan(
    values: Float[Tensor, "n ..."],
    n_samples: int,
    grid: Features | None,
    fraction: float,
    score: Reading,
    baseline: Baseline,
    seed: int,
) -> Metric:
    """Plan of `mu_fidelity`."""
    features = grid or nine_by_nine((values.shape[-2], values.shape[-1]))
    size = shared_size(fraction)
    return subset_plan("mu_fidelity", values, features, n_samples, size, True, score, baseline, seed)


def fidelity_costs(settings: Mapping[str, Any], shape: Sequence[int]) -> Cost:
    total = total_of(settings.get("grid") or nine_by_nine((shape[-2], shape[-1])))
    size = shared_size(settings.get("fraction", 0.2))(total)
    return Cost(number_of_sets(total, size, settings.get("n_samples", 200)) + 1)


@registered("evaluate", cost=fidelity_costs, paper="Bhatt et al., IJCAI 2020", example={"n_samples": 16})
def mu_fidelity(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    n_samples: int = 200,
    grid: Features | None = None,
    fraction: float = 0.2,
    score: Reading = "logit",
    baseline: Baseline = "mean",
    target: Target = None,
    seed: int = 0,
    answers: Answers | None = None,
) -> Score:
    """Whether sets of cells that the map marks more lower the score more: `faithfulness_correlation` by rank.

        Spearman correlation over sets S of cells of   sum_{i in S} a_i   and   f(x) - f(x with S replaced)

    Bhatt et al., IJCAI 2020, with the cells and numbers of Fel et al., "Xplique", 2022. 1 is perfect, 0 is
    chance; standard error and reasons as there. The sets do not depend on the map: share `answers` to compare methods
    at the price of one.

    Args:
        n_samples: as in `faithfulness_correlation`.
        grid: what sets are made of: rows and columns of cells, `Segments`, or `Elements`; None takes 9 × 9.
        fraction: share of the cells in each set.
    """
    metric = fidelity_plan(values_on(explanation, grid), n_samples, grid, fraction, score, baseline, seed)
    return answer(metric, model, inputs, explanation, target, answers)


def sizes_of(total: int, n_sizes: int) -> list[int]:
    """Sizes of sets from 1 to 80 % of `total` features, spaced by equal factors, each once."""
    factor = max(1.0, 0.8 * total)
    return sorted({max(1, min(round(factor ** (place / (n_sizes - 1))), total - 1)) for place in range(n_sizes)})


def size_plan(
    values: Float[Tensor, "n ..."],
    features: Features,
    n_samples: int,
    sizes: Sequence[Sequence[int]],
    score: Reading,
    baseline: Baseline,
    seed: int,
) -> Metric:
    """Plan of `sensitivity_n`: sets of the `sizes` of each image; a size that an image lacks is 0."""
    counts, mass, columns = counts_of(features, len(values)), sums_over(values, features), max(map(len, sizes))
    padded = [[*own, *[0] * (columns - len(own))] for own in sizes]
    sets = [
        random_sets(mass, features, [own[place] for own in padded], n_samples, baseline, generator(part))
        for place, part in enumerate(seeds(columns, seed))
    ]
    questions = [question for each in sets for question in each.questions]
    few = too_few(counts)
    faults = [fault or less for fault, less in zip(faults_of(values), few, strict=True)]

    def reduce(table: Float[Tensor, "n r"]) -> Result:
        drops = (table[:, :1] - table[:, 1:]).split([len(each.questions) for each in sets], 1)
        pairs = zip(sets, drops, strict=True)
        found = [correlation(each.sums.to(drop), drop, seed) for each, drop in pairs]
        by_size, drawn = (torch.stack(part, 1) for part in zip(*found, strict=True))
        known = by_size.isfinite()
        used = known.sum(1)
        value = by_size.nanmean(1)
        sampled = torch.where(known, drawn, 0.0).square().sum(1) / used.clamp(min=1) ** 2
        stderr = (sampled + luck(value, counts).square()).sqrt()
        still = torch.stack([(drop == drop[:, :1]).all(1) for drop in drops]).all(0)
        extras = {"by_size": by_size, "sizes": torch.tensor(padded)}
        return Result(value, stderr, why_unknown(faults, value, still), extras)

    largest = max(sizes, key=len)
    settings = {"grid": features, "n_samples": n_samples, "sizes": list(largest), "baseline": baseline, "seed": seed}
    return Metric("sensitivity_n", (CLEAN, *questions), score, reduce, 0.0, "up", settings)


def size_costs(settings: Mapping[str, Any], shape: Sequence[int]) -> Cost:
    total = total_of(settings.get("grid") or grid_of((shape[-2], shape[-1])))
    sizes = settings.get("sizes") or sizes_of(total, settings.get("n_sizes", 10))
    return Cost(1 + sum(number_of_sets(total, size, settings.get("n_samples", 100)) for size in sizes))


@registered("evaluate", cost=size_costs, paper="Ancona et al., ICLR 2018", example={"n_samples": 16, "n_sizes": 3})
def sensitivity_n(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    n_samples: int = 100,
    n_sizes: int = 10,
    sizes: Sequence[int] | None = None,
    grid: Features | None = None,
    score: Reading = "logit",
    baseline: Baseline = "mean",
    target: Target = None,
    seed: int = 0,
    answers: Answers | None = None,
) -> Score:
    """Whether the map's sum over sets of any size follows the drop of the score when they are removed.

        mean over sizes n of the Pearson correlation, over sets S of n features, of
        sum_{i in S} a_i   and   f(x) - f(x with S replaced)

    Ancona, Ceolini, Öztireli and Gross, "Towards better understanding of gradient-based attribution methods",
    ICLR 2018, sec. 4. 1 is perfect, 0 is chance. `extras["by_size"]` holds the correlation for each size (NaN where
    the score did not move; the mean leaves it out), `settings["sizes"]` the sizes.
    Differs: cells instead of pixels, which hardly move the score of a large image; `grid=(h, w)` gives pixels.

    Args:
        n_samples: sets of each size, as in `faithfulness_correlation`.
        n_sizes: sizes from 1 to 80 % of the features, spaced by equal factors, each once.
        sizes: the sizes themselves.
        grid: what sets are made of: rows and columns of cells, `Segments` (each image has sizes of its own, see
            `extras["sizes"]`), or `Elements`; None takes 7 to 14 cells along the shorter side.
    """
    enough(n_samples)
    features = grid or grid_of((inputs.shape[-2], inputs.shape[-1]))
    total, counts = total_of(features), counts_of(features, len(inputs))
    if n_sizes < 2 or (sizes is not None and not (sizes and all(0 < size < total for size in sizes))):
        asked = f"{n_sizes} sizes" if sizes is None else f"sizes {list(sizes)}"
        raise BadInput(f"{asked} of sets of {total} features.", "Give some below that, or n_sizes of at least 2.")
    own = [list(sizes) if sizes else sizes_of(count, n_sizes) for count in counts]
    metric = size_plan(values_on(explanation, features), features, n_samples, own, score, baseline, seed)
    return answer(metric, model, inputs, explanation, target, answers)
