"""What is needed: the most important features fix the score, and the others may do as they like."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
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
from glasshouse.core.lift import setting
from glasshouse.evaluate.baselines import Baseline, Donors
from glasshouse.evaluate.engine import Answers
from glasshouse.evaluate.faithfulness.curves import (
    between,
    chosen,
    features_in,
    ordered,
    own_counts,
)
from glasshouse.evaluate.faithfulness.features import values_on
from glasshouse.evaluate.metric import Metric, Result, answer, asked, score_of, undefined
from glasshouse.evaluate.questions import (
    CLEAN,
    NOTHING,
    Asked,
    Changed,
    Features,
    Order,
    Ranked,
    keeping,
    kept,
)

DRAWN = ("noise", "permute")
N_RESAMPLES = 200


def n_rounds(total: int) -> int:
    """Halvings that lead from `total` candidates to one."""
    return (total - 1).bit_length()


def is_drawn(baseline: Any) -> bool:
    """Whether a baseline is random and was not given its seed."""
    return isinstance(baseline, str) and baseline in DRAWN


def effective_costs(settings: Mapping[str, Any], shape: Sequence[int]) -> Cost:
    draws = settings.get("n_samples", 8) if is_drawn(settings.get("baseline", "noise")) else 1
    return Cost(1 + draws * (1 + n_rounds(features_in(settings, shape))))


def resampled(baseline: Baseline, n_samples: int, seed: int) -> list[Baseline]:
    """What takes the place of the features that are not kept: several draws, each donor, or the one fixed thing."""
    if isinstance(baseline, Donors):
        return list(baseline.fills)
    if not is_drawn(baseline):
        return [baseline]
    draws = torch.randint(2**31, (n_samples,), generator=generator(seed)).tolist()
    return [f"{baseline}:{draw}" for draw in draws]


def searched(
    answers: Answers, order: Order, fills: list[Baseline], score: Reading, eps: float
) -> tuple[Int[Tensor, "n r"], Float[Tensor, "n r s"], list[Asked]]:
    """What bisection tried in each round (first: to keep nothing), the squared errors of each draw, and what was asked.

    Each image searches for itself. One that has found its number asks for it again until the rounds are over.
    """
    own = own_counts(order)
    low, high = torch.zeros_like(own), own.clone()
    questions: list[Asked] = [keeping(NOTHING, fill) for fill in fills]
    clean = answers.read([CLEAN], score)
    tried, errors = [low], [(answers.read(questions, score) - clean).square()]
    for place in range(n_rounds(order.ranks.shape[1])):
        count = torch.where(high - low > 1, (low + high) // 2, high)
        stays = chosen(order.grid, order.ranks < count[:, None], f" in round {place}")
        fresh = [keeping(stays, fill) for fill in fills]
        tried.append(count)
        errors.append((answers.read(fresh, score) - clean).square())
        enough = (errors[-1].mean(1) <= eps).to(count.device) | (count == high)
        high, low = torch.where(enough, count, high), torch.where(enough, low, count)
        questions += fresh
    return torch.stack(tried, 1), torch.stack(errors, 1), questions


def fewest(
    tried: Int[Tensor, "n r"], errors: Float[Tensor, "n r b"], own: Int[Tensor, " n"], eps: float
) -> Float[Tensor, "n b"]:
    """The smallest number tried whose error is small enough; all features, which make none, if no other."""
    return torch.where(errors <= eps, tried[:, :, None], own[:, None, None]).amin(1).double()


def error_of(
    tried: Int[Tensor, "n r"], errors: Float[Tensor, "n r s"], own: Int[Tensor, " n"], eps: float, seed: int
) -> PerImage:
    """Standard error of the number by the bootstrap over draws, among the numbers that were tried."""
    count = errors.shape[2]
    drawn = torch.randint(count, (N_RESAMPLES, count), generator=generator(seed))
    weight = torch.zeros(N_RESAMPLES, count, dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones(N_RESAMPLES, count, dtype=torch.float64)
    )
    return fewest(tried, errors @ (weight.T / count).to(errors), own, eps).std(1)


@registered(
    "evaluate", cost=effective_costs, paper="Nguyen and Martínez, 2020", example={"n_samples": 2, "grid": (3, 4)}
)
def effective_complexity(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    eps: float = 0.01,
    n_samples: int = 8,
    score: Reading = "prob",
    baseline: Baseline = "noise",
    grid: Features | None = None,
    target: Target = None,
    seed: int = 0,
    answers: Answers | None = None,
) -> Score:
    """How many features, in the order of |a|, must stay for the score to stay. Lower is better.

        smallest k such that   E (f(x) - f(x with its top k features, the rest drawn anew))² <= eps

    Nguyen and Martínez, "On quantitative aspects of model interpretability", 2020. Found by bisection, which takes for
    granted that more features never hurt; where they do, another k with a smaller error may be missed.
    `extras["share"]` is k over all features. The standard error is a bootstrap over the draws. A model that hardly
    reacts needs no feature at all: 0 then says nothing about the map.

    Args:
        eps: mean squared change of the score that is no change.
        baseline: "noise" and "permute" are drawn `n_samples` times, `Donors` are one draw each; anything else takes the
            place of the rest once.
        grid: features other than pixels, as in `deletion`.
    """
    if eps < 0 or n_samples < 2:
        raise BadInput(f"eps={eps} or n_samples={n_samples} is too small.", "eps is at least 0, n_samples at least 2.")
    values = values_on(explanation, grid)
    (order, faults), found = ordered(values.abs(), grid, seed), asked(model, inputs, explanation, target, answers)
    if found is None:
        return undefined("effective_complexity", explanation, "custom_target", "down")
    tried, errors, questions = searched(found, order, resampled(baseline, n_samples, seed), score, eps)
    tried, own = tried.to(errors.device), own_counts(order).to(errors.device)
    value = fewest(tried, errors.mean(2, keepdim=True), own, eps)[:, 0]
    usable = errors.isfinite().flatten(1).all(1).tolist()
    reason = tuple(why or ("" if good else "score_not_finite") for why, good in zip(faults, usable, strict=True))
    result = Result(value, error_of(tried, errors, own, eps, seed), reason, {"share": value / own})
    settings = {"score": score, "eps": eps, "n_samples": n_samples, "seed": seed}
    settings |= {"baseline": setting(baseline), "grid": setting(order.grid)}
    return score_of("effective_complexity", result, None, "down", settings, found.charge(questions))


def share_costs(settings: Mapping[str, Any], shape: Sequence[int]) -> Cost:
    baseline = settings.get("baseline")
    return Cost(settings.get("n_samples", 32) + 1 if baseline is None or is_drawn(baseline) else 2)


def noisy(region: Ranked, noise: float, draw: int) -> Changed:
    """The question that adds Gaussian noise to a region: the same field for every image, and for every map."""

    def change(images: Images, image: Int[Tensor, " m"]) -> Images:
        where = kept([region] * len(image), image, (images.shape[-2], images.shape[-1]))
        field = noise * torch.randn(images.shape[1:], generator=generator(draw)).to(images)
        return images + field * (where if where.ndim == 4 else where[:, None])

    return Changed(("noise", *region.key, float(noise), draw), change)


def gap_plan(
    name: str,
    explanation: Explanation,
    share: float,
    n_samples: int,
    noise: float,
    score: Reading,
    baseline: Baseline | None,
    grid: Features | None,
    seed: int,
) -> Metric:
    """Plan of `pgi`, which disturbs the most important features, and `pgu`, which disturbs the others."""
    if not 0 < share < 1 or n_samples < 2 or noise <= 0:
        raise BadInput(
            f"share={share}, n_samples={n_samples} or noise={noise} is out of range.",
            "share lies between 0 and 1, n_samples is at least 2, noise above 0.",
        )
    values = values_on(explanation, grid)
    order, faults = ordered(values.abs(), grid, seed)
    own = own_counts(order)
    top = (share * own.double()).round().long().clamp(min=1).minimum(own - 1)
    first, rest = between(order, torch.zeros_like(top), top), between(order, top, own)
    disturbed, left = (first, rest) if name == "pgi" else (rest, first)
    if baseline is not None:
        questions: list[Asked] = [keeping(left, fill) for fill in resampled(baseline, n_samples, seed)]
    else:
        draws = torch.randint(2**62, (n_samples,), generator=generator(seed)).tolist()
        questions = [noisy(disturbed, noise, draw) for draw in draws]

    def reduce(table: Float[Tensor, "n r"]) -> Result:
        gaps = (table[:, 1:] - table[:, :1]).abs()
        exact = gaps.shape[1] == 1
        stderr = torch.zeros_like(gaps[:, 0]) if exact else gaps.std(1) / gaps.shape[1] ** 0.5
        return Result(gaps.mean(1), stderr, faults)

    settings = {"share": share, "n_samples": n_samples, "noise": noise, "baseline": baseline, "seed": seed}
    direction = "up" if name == "pgi" else "down"
    return Metric(name, (CLEAN, *questions), score, reduce, None, direction, settings | {"grid": order.grid})


@registered("evaluate", cost=share_costs, paper="Agarwal et al., OpenXAI, NeurIPS 2022", example={"n_samples": 4})
def pgi(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    share: float = 0.25,
    n_samples: int = 32,
    noise: float = 0.1,
    score: Reading = "prob",
    baseline: Baseline | None = None,
    grid: Features | None = None,
    target: Target = None,
    seed: int = 0,
    answers: Answers | None = None,
) -> Score:
    """Prediction gap on important features: how much the score moves when only they are disturbed. Higher is better.

        E |f(x) - f(x')|,   x' = x with Gaussian noise on the share of features with the largest |a|

    Agarwal et al., "OpenXAI: towards a transparent evaluation of model explanations", NeurIPS 2022. Made for tables; in
    an image little noise on scattered pixels moves little, and a large share moves much whatever the map.

    Args:
        share: of the features that is disturbed.
        noise: standard deviation, in the model's input space.
        baseline: takes the place of the features instead of noise on them; drawn as in `effective_complexity`. Exact
            where that takes one forward pass.
        grid: features other than pixels, as in `deletion`.
    """
    metric = gap_plan("pgi", explanation, share, n_samples, noise, score, baseline, grid, seed)
    return answer(metric, model, inputs, explanation, target, answers)


@registered("evaluate", cost=share_costs, paper="Agarwal et al., OpenXAI, NeurIPS 2022", example={"n_samples": 4})
def pgu(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    share: float = 0.25,
    n_samples: int = 32,
    noise: float = 0.1,
    score: Reading = "prob",
    baseline: Baseline | None = None,
    grid: Features | None = None,
    target: Target = None,
    seed: int = 0,
    answers: Answers | None = None,
) -> Score:
    """Prediction gap on unimportant features: how much the score moves when the others are. Lower is better.

        E |f(x) - f(x')|,   x' = x with Gaussian noise on all features but the share with the largest |a|

    Agarwal et al., "OpenXAI", NeurIPS 2022. Arguments as in `pgi`; `share` is what is left in peace.
    """
    metric = gap_plan("pgu", explanation, share, n_samples, noise, score, baseline, grid, seed)
    return answer(metric, model, inputs, explanation, target, answers)
