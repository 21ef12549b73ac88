"""Faithfulness of single features: one at a time is removed, put in, or replaced by something else."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from glasshouse.core import BadInput, Cost, Explanation, Images, Model, Reading, Score, Target, registered
from glasshouse.evaluate.baselines import Baseline
from glasshouse.evaluate.engine import Answers
from glasshouse.evaluate.faithfulness.features import (
    Drawn,
    Replacement,
    correlated,
    counts_of,
    faults_of,
    replacements,
    steady,
    too_few,
    values_on,
    why_unknown,
    without_each,
)
from glasshouse.evaluate.metric import Metric, Result, answer
from glasshouse.evaluate.questions import CLEAN, Features, Ranked, grid_of, keeping, ranking, sums_over, total_of

Importance = Literal["magnitude", "value"]

ROUNDING = 1e-6
"""Changes of the score that are no larger, as a part of the score itself, are those of single precision."""


def costs(settings: Mapping[str, Any], shape: Sequence[int], n_samples: int = 1) -> Cost:
    """A pass for each feature and draw, and the clean image."""
    drawn, donors = settings.get("n_samples", n_samples), settings.get("donors")
    count = total_of(settings.get("grid") or grid_of((shape[-2], shape[-1])))
    return Cost((drawn if donors is None else min(drawn, len(donors))) * count + 1)


@registered("evaluate", cost=costs, paper="Alvarez-Melis and Jaakkola, NeurIPS 2018")
def faithfulness_estimate(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    grid: Features | None = None,
    score: Reading = "logit",
    baseline: Baseline = "mean",
    target: Target = None,
    seed: int = 0,
    answers: Answers | None = None,
) -> Score:
    """Whether the value of each feature follows the drop of the score when that feature alone is removed.

        Pearson correlation over features i of   a_i   and   f(x) - f(x with i replaced)

    Alvarez-Melis and Jaakkola, "Towards robust interpretability with self-explaining neural networks", NeurIPS
    2018, sec. 4. 1 is perfect, 0 is chance; the standard error is a bootstrap over features. Evidence that the
    image holds twice is invisible: removing one copy changes nothing.
    Differs: cells instead of pixels. A single pixel of a large image hardly moves the score, and 224 × 224 of them
    are 50,176 forward passes; `grid=(h, w)` asks for that.

    Args:
        grid: what is removed: rows and columns of cells, `Segments`, or `Elements` (single values of each channel,
            compared with `native`); None takes 7 to 14 cells along the shorter side.
    """
    features = grid or grid_of((inputs.shape[-2], inputs.shape[-1]))
    values = values_on(explanation, features)
    counts, mass = counts_of(features, len(values)), sums_over(values, features)
    faults = [fault or few for fault, few in zip(faults_of(values), too_few(counts), strict=True)]

    def reduce(table: Float[Tensor, "n r"]) -> Result:
        drop = table[:, :1] - table[:, 1:]
        value, stderr = correlated(mass, drop, counts, False, seed)
        reasons = why_unknown(faults, value, steady(drop, counts))
        return Result(value, stderr, reasons, {"sums": mass, "drops": drop})

    questions = (CLEAN, *without_each(features, len(values), baseline))
    settings = {"grid": features, "baseline": baseline, "seed": seed}
    metric = Metric("faithfulness_estimate", questions, score, reduce, 0.0, "up", settings)
    return answer(metric, model, inputs, explanation, target, answers)


@registered("evaluate", cost=costs, paper="Arya et al., 2019")
def monotonicity(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    by: Importance = "magnitude",
    grid: Features | None = None,
    score: Reading = "logit",
    baseline: Baseline = "mean",
    target: Target = None,
    seed: int = 0,
    answers: Answers | None = None,
) -> Score:
    """How often the score does not fall while features are put into an empty image, least important first.

        share of k = 1…d with   f(b with the k least important features of x) >= f(b with k - 1 of them)

    Arya et al., "One explanation does not fit all", 2019 (AIX360), and Luss et al., 2019. `extras["monotone"]` is
    their yes or no: 1 where the score never falls. `extras["curve"]` holds the scores from the empty to the clean
    image. What a random order scores depends on the model, so there is no chance level. Where features add up, any
    order scores the same: the share of features that do not speak against the class, whatever the map.
    Differs: falls below 1e-6 of the score are taken for rounding; cells instead of pixels.

    Args:
        by: "magnitude" orders features by |a_i|, "value" by a_i.
        grid: as in `faithfulness_estimate`.
    """
    if by not in get_args(Importance):
        raise BadInput(f"by '{by}' is unknown.", "Use 'magnitude' or 'value'.")
    features = grid or grid_of((inputs.shape[-2], inputs.shape[-1]))
    values, total = values_on(explanation, features), total_of(features)
    mass, counts = sums_over(values, features), torch.tensor(counts_of(features, len(values)))
    faults, order = faults_of(values), ranking(mass.abs() if by == "magnitude" else mass, features, seed)

    def reduce(curve: Float[Tensor, "n r"]) -> Result:
        step, size = curve.diff(dim=1), curve.abs().amax(1, keepdim=True)
        falls = (step < -ROUNDING * size).sum(1)
        value = 1 - falls / counts.to(curve)
        extras = {"monotone": (falls == 0).to(curve), "curve": curve}
        return Result(value, torch.zeros_like(value), faults, extras)

    questions = tuple(keeping(Ranked(order, total - there, total), baseline) for there in range(total + 1))
    settings = {"by": by, "grid": features, "baseline": baseline, "seed": seed}
    metric = Metric("monotonicity", questions, score, reduce, None, "up", settings)
    return answer(metric, model, inputs, explanation, target, answers)


@registered(
    "evaluate",
    cost=lambda settings, shape: costs(settings, shape, 10),
    paper="Nguyen and Martinez, 2020",
    example={"n_samples": 2},
)
def monotonicity_correlation(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    n_samples: int = 10,
    replace_by: Replacement = "noise",
    donors: Tensor | None = None,
    grid: Features | None = None,
    score: Reading = "logit",
    target: Target = None,
    seed: int = 0,
    answers: Answers | None = None,
) -> Score:
    """Whether features that the map marks more change the score more, up or down, when they are something else.

        Spearman correlation over features i of   |a_i|   and   e_i = E (f(x) - f(x with i drawn anew))²

    Nguyen and Martinez, "On quantitative aspects of model interpretability", 2020, sec. 3. 1 is perfect, 0 is chance;
    the standard error is a bootstrap over features. Few draws blur e_i and pull the value towards 0.
    `extras["effects"]` holds e_i.
    Differs: e_i is not divided by f(x)², which changes no rank; cells instead of pixels, as in
    `faithfulness_estimate`.

    Args:
        n_samples: draws of each feature, every one a pass per feature.
        replace_by: "noise" is uniform between each channel's least and largest value; "permute" takes the image's own
            pixels, in a random order.
        donors: other images to take features from instead, each at most once.
        grid: as in `faithfulness_estimate`.
    """
    features = grid or grid_of((inputs.shape[-2], inputs.shape[-1]))
    drawn = replacements(replace_by, donors, n_samples, seed)
    values = values_on(explanation, features)
    n, counts, mass = len(values), counts_of(features, len(values)), sums_over(values, features).abs()
    questions = [question for fill in drawn.images for question in without_each(features, n, fill)]
    faults = [fault or few for fault, few in zip(faults_of(values), too_few(counts), strict=True)]

    def reduce(table: Float[Tensor, "n r"]) -> Result:
        effect = (table[:, :1] - table[:, 1:]).square().view(n, len(drawn.images), -1).mean(1)
        value, stderr = correlated(mass, effect, counts, True, seed)
        reasons = why_unknown(faults, value, steady(effect, counts))
        return Result(value, stderr, reasons, {"sums": mass, "effects": effect})

    name, settings = "monotonicity_correlation", drawn.settings(features)
    metric = Metric(name, (CLEAN, *questions), score, reduce, 0.0, "up", settings)
    return answer(metric, model, inputs, explanation, target, answers)


def mistakes(
    change: Float[Tensor, "n s g"],
    unmarked: Bool[Tensor, "n g"],
    counts: Int[Tensor, " n"],
    tolerance: float,
    size: Float[Tensor, " n"],
) -> Float[Tensor, "2 n"]:
    """Shares of features that matter and are not marked, and of those that are marked and do not matter.

    `size` is that of the score itself, which rounding goes by.
    """
    most, own = change.amax(1), torch.arange(change.shape[2], device=change.device) < counts[:, None]
    still = most <= torch.maximum(tolerance * most.amax(1), ROUNDING * size)[:, None]
    wrong = torch.stack([unmarked & ~still & own, ~unmarked & still & own])
    return wrong.sum(2).double() / counts


def silence_plan(
    values: Float[Tensor, "n ..."], features: Features, score: Reading, drawn: Drawn, tolerance: float
) -> Metric:
    """Plan of `non_sensitivity`."""
    n, total, mass, s = len(values), total_of(features), sums_over(values.abs(), features), len(drawn.images)
    questions = [question for baseline in drawn.images for question in without_each(features, n, baseline)]
    faults = tuple("" if fine else "not_finite" for fine in values.flatten(1).isfinite().all(1).tolist())
    unmarked = mass <= tolerance * mass.amax(1, keepdim=True)

    def reduce(table: Float[Tensor, "n r"]) -> Result:
        change, size = (table[:, :1] - table[:, 1:]).abs().view(n, s, total), table[:, 0].abs()
        counts = torch.tensor(counts_of(features, n), device=table.device)

        def over(draws: list[int]) -> Float[Tensor, "2 n"]:
            return mistakes(change[:, draws], unmarked.to(table.device), counts, tolerance, size)

        missed, in_vain = over([*range(s)])
        stderr = torch.zeros_like(missed)
        if s > 1:  # jackknife over draws
            without = torch.stack([over([k for k in range(s) if k != left]).sum(0) for left in range(s)])
            stderr = without.std(0, correction=0) * (s - 1) ** 0.5
        return Result(missed + in_vain, stderr, faults, {"missed": missed, "in_vain": in_vain})

    settings = {**drawn.settings(features), "tolerance": tolerance}
    return Metric("non_sensitivity", (CLEAN, *questions), score, reduce, None, "down", settings)


@registered(
    "evaluate",
    cost=lambda settings, shape: costs(settings, shape, 4),
    paper="Nguyen and Martinez, 2020",
    example={"n_samples": 2},
)
def non_sensitivity(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    n_samples: int = 4,
    tolerance: float = 1e-4,
    replace_by: Replacement = "noise",
    donors: Tensor | None = None,
    grid: Features | None = None,
    score: Reading = "logit",
    target: Target = None,
    seed: int = 0,
    answers: Answers | None = None,
) -> Score:
    """Share of features where map and model disagree about "does not matter at all". 0 is right.

        |{i: a_i = 0} xor {i: f(x) stays the same whatever i is}| / d

    Nguyen and Martinez, "On quantitative aspects of model interpretability", 2020, sec. 3. `extras` split it into
    features that matter and are not marked ("missed") and features that are marked and do not matter ("in_vain").
    A feature does not matter if none of the draws moves the score; the standard error is a jackknife over draws.
    Networks whose every pixel counts a little give 0 to any map without zeros.
    Differs: cells instead of pixels, as in `faithfulness_estimate`; a cell is marked if any of its pixels is.

    Args:
        n_samples: draws of each feature, every one a pass per feature.
        tolerance: what counts as zero, as a part of the largest value and of the largest change.
        replace_by: as in `monotonicity_correlation`; `donors` likewise.
        grid: as in `faithfulness_estimate`.
    """
    if not 0 <= tolerance < 1:
        raise BadInput(f"tolerance {tolerance} is not in 0…1.", "Use a small part, such as 1e-4.")
    features = grid or grid_of((inputs.shape[-2], inputs.shape[-1]))
    drawn = replacements(replace_by, donors, n_samples, seed)
    metric = silence_plan(values_on(explanation, features), features, score, drawn, tolerance)
    return answer(metric, model, inputs, explanation, target, answers)
