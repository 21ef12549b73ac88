"""Randomisation revisited: the complexity of a random model's map, and maps without their shattered noise."""

import math
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.core import (
    BadInput,
    Explanation,
    GlasshouseError,
    Images,
    Maps,
    Model,
    PerImage,
    Score,
    generator,
    in_chunks,
    registered,
)
from glasshouse.evaluate.metric import Result, belongs, flaws, score_of, undefined
from glasshouse.evaluate.sanity.randomising import (
    Cascade,
    Norms,
    Randomising,
    Renewal,
    averaged,
    over_random_models,
)
from glasshouse.evaluate.sanity.replaying import Replay, at_once, compared, passes, replay, rerun
from glasshouse.evaluate.sanity.weights import recorded_plan

Bins = Literal["freedman_diaconis", "scott", "sturges"]


def number_of_bins(values: Float[Tensor, " d"], rule: Bins) -> int:
    """How many bins of equal width a rule gives these values: 2 … d. Sturges where a rule's width would be 0."""
    d, extent = len(values), float(values.max() - values.min())
    if rule == "freedman_diaconis":
        low, high = torch.quantile(values, values.new_tensor([0.25, 0.75])).tolist()
        width = 2 * (high - low) / d ** (1 / 3)
    elif rule == "scott":
        width = float(values.std(correction=0)) * (24 * math.sqrt(math.pi) / d) ** (1 / 3)
    else:
        width = 0.0
    count = math.ceil(extent / width) if width > extent / d else d if width > 0 else math.ceil(math.log2(d) + 1)
    return max(2, min(d, count))


def histogram_entropy(values: Float[Tensor, " d"], bins: int) -> tuple[float, float]:
    """Entropy in nats of a histogram over the values' own range, and its sampling variance were pixels independent."""
    low, high = values.min(), values.max()
    place = ((values - low) / (high - low).clamp(min=1e-300) * bins).floor().clamp(max=bins - 1).long()
    share = torch.bincount(place, minlength=bins).double() / len(values)
    log = torch.where(share > 0, share, 1.0).log()
    entropy = -float((share * log).sum())
    return entropy, max(0.0, (float((share * log * log).sum()) - entropy**2) / len(values))


def entropy_rise(
    first: Maps, second: Maps, rule: Bins
) -> tuple[PerImage, PerImage, Float[Tensor, "2 n"], tuple[str, ...]]:
    """Relative rise of the entropy from one map to another, its variance, both entropies, and reasons."""
    reason = tuple(
        mine or (f"randomised_{other}" if other else "")
        for mine, other in zip(flaws(first), flaws(second), strict=True)
    )
    rows = list[list[float]]()
    for before, after, why in zip(first.flatten(1).double(), second.flatten(1).double(), reason, strict=True):
        if why:
            rows.append([0.0] * 4)
            continue
        bins = number_of_bins(before, rule)
        (h, variance), (other, spread) = histogram_entropy(before, bins), histogram_entropy(after, bins)
        rows.append([(other - h) / h, spread / h**2 + variance * other**2 / h**4, h, other])
    value, error, h, other = torch.tensor(rows, dtype=torch.float64).unbind(1)
    return value, error, torch.stack([h, other]), reason


@registered("evaluate", paper="Hedstroem et al., 2023")
def efficient_mprt(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    bins: Bins = "freedman_diaconis",
    how: Renewal = "permute",
    bn: Norms = "keep",
    n_draws: int = 1,
    seed: int = 0,
) -> Score:
    """How much more disordered the map of a fully random model is: 0 means that learning left no order in the map.

        (H(a') - H(a)) / H(a),   H: entropy of the histogram of a map's values, in nats

    Hedstroem et al., "A fresh look at sanity checks for saliency maps", 2023 (eMPRT). No two maps are compared
    pixel by pixel, so noise cannot pass for a difference. The error takes pixels for independent draws, or is that
    of the mean where there are several draws. `extras` hold both entropies.

    Args:
        bins: the rule for the number of bins, applied to each explained map; both maps are cut into as many, each
            over its own range. A rule of width 0, as for a map that is mostly one value, gives way to Sturges'.
        how, bn, n_draws: as in `randomise_parameters`.
    """
    belongs(explanation, inputs)
    if bins not in get_args(Bins):
        raise BadInput(f"bins '{bins}' is unknown.", f"Use {', '.join(map(repr, get_args(Bins)))}.")
    plan, found = Randomising("full", how, bn, n_draws, seed).checked(), replay(explanation)
    if isinstance(found, str):
        return undefined("efficient_mprt", explanation, found)
    first = explanation.heatmap.to(inputs.device)

    def ask(module: nn.Module) -> Any:
        again = found.info.function(module, inputs, list(explanation.target), **found.settings)
        return entropy_rise(first, again.heatmap.to(inputs.device), bins)

    runs = over_random_models(model, plan, ask)
    if isinstance(runs, str):
        return undefined("efficient_mprt", explanation, runs)
    values = torch.stack([value for value, *_ in runs])
    stderr = values.std(0) / n_draws**0.5 if n_draws > 1 else runs[0][1].sqrt()
    reason = tuple(next((why for why in each if why), "") for each in zip(*(run[3] for run in runs), strict=True))
    h, other = torch.stack([run[2] for run in runs]).mean(0)
    result = Result(values.mean(0), stderr, reason, {"entropy": h, "randomised_entropy": other})
    settings = {"bins": bins, "how": how, "bn": bn, "n_draws": n_draws, "seed": seed}
    return score_of("efficient_mprt", result, 0.0, "up", settings, *passes(explanation, inputs, len(runs)))


def smoothed(
    found: Replay,
    model: Model | nn.Module,
    inputs: Images,
    target: tuple[int, ...],
    n_samples: int,
    sigma: float,
    seed: int,
) -> Maps:
    """Mean heat map over noisy copies of each image; the noise of one copy is the same for all images."""
    n, width = len(inputs), sigma * (inputs.amax((1, 2, 3), keepdim=True) - inputs.amin((1, 2, 3), keepdim=True))
    total = torch.zeros(n, *inputs.shape[-2:], dtype=torch.float64, device=inputs.device)

    def noisy(rows: Int[Tensor, " r"]) -> Tensor:
        image, sample = rows % n, (rows // n).tolist()
        noise = {s: normal(inputs, seed, s) for s in set(sample)}
        copies = inputs[image] + width[image] * torch.stack([noise[s] for s in sample])
        return rerun(found, model, copies, [target[i] for i in image.tolist()], image, n).heatmap

    for rows, maps in in_chunks(noisy, n * n_samples, at_once(inputs), inputs.device):
        total.index_add_(0, rows % n, maps.to(total))
    return total / n_samples


def normal(inputs: Images, seed: int, sample: int) -> Float[Tensor, "c h w"]:
    """Standard normal noise of one copy, whatever came before it."""
    return torch.randn(inputs.shape[1:], generator=generator((seed * 1_000_003 + sample) % 2**63)).to(inputs)


@registered("evaluate", paper="Hedstroem et al., 2023", example={"n_samples": 3})
def smooth_mprt(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    n_samples: int = 50,
    sigma: float = 0.1,
    order: Cascade = "full",
    how: Renewal = "permute",
    bn: Norms = "keep",
    n_draws: int = 1,
    seed: int = 0,
) -> Score:
    """How much of the map survives random weights once noise is averaged out: 1 means it never looked at the model.

        Spearman correlation of |mean_s a(x + e_s)| and |mean_s a'(x + e_s)|,   e_s ~ N(0, (sigma (max x - min x))²)

    Hedstroem et al., "A fresh look at sanity checks for saliency maps", 2023 (sMPRT). Gradients of deep networks are
    shattered: two maps may differ by noise alone, and `randomise_parameters` rewards that. The explanation's own
    method is averaged, on both models. `extras`, and further arguments, as in `randomise_parameters`.

    Args:
        n_samples: noisy copies of each image; each costs one explanation per step, and one of the clean model.
        sigma: noise level as a share of the range of values in the image.
    """
    belongs(explanation, inputs)
    plan, found = Randomising(order, how, bn, n_draws, seed).checked(), replay(explanation)
    if n_samples < 1 or sigma < 0:
        raise BadInput(f"n_samples {n_samples} and sigma {sigma} are not both in range.", "Try 50 and 0.1.")
    if isinstance(found, str):
        return undefined("smooth_mprt", explanation, found, "down")
    target, flawed = explanation.target, flaws(explanation.heatmap)

    def ask(module: nn.Module) -> Any:
        again = smoothed(found, module, inputs, target, n_samples, sigma, seed)
        return compared("randomised", first, again, seed, absolute=True)

    try:
        first = smoothed(found, model, inputs, target, n_samples, sigma, seed)
    except GlasshouseError:
        return undefined("smooth_mprt", explanation, "rerun_failed", "down")
    runs = over_random_models(model, plan, ask)
    if isinstance(runs, str):
        return undefined("smooth_mprt", explanation, runs, "down")
    result = averaged(runs, plan)
    reason = tuple(own or why for own, why in zip(flawed, result.reason, strict=True))
    spent = passes(explanation, inputs, n_samples * (len(runs) + 1))
    settings = {**recorded_plan(model, plan), "n_samples": n_samples, "sigma": sigma}
    return score_of("smooth_mprt", result._replace(reason=reason), 1.0, "down", settings, *spent)
