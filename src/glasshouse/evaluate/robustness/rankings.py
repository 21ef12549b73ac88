"""Do the most important pixels stay the most important ones, under another seed or a little noise?"""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glasshouse.core import (
    BadInput,
    Explanation,
    GlasshouseError,
    Images,
    Maps,
    Model,
    Score,
    generator,
    registered,
    steps,
)
from glasshouse.core.mask import ranks
from glasshouse.evaluate.agreement import mean_ranks
from glasshouse.evaluate.metric import Result, belongs, flaws, score_of, undefined
from glasshouse.evaluate.robustness.neighbours import Around, Looking, Pairs, around, average, noise
from glasshouse.evaluate.sanity.likeness import pearson
from glasshouse.evaluate.sanity.replaying import passes, replay

Across = Literal["noise", "seeds"]


def overlap(first: Maps, second: Maps, count: int, seed: int) -> Float[Tensor, " n"]:
    """Jaccard index of the `count` highest pixels of two maps; ties at random, in each map by itself."""
    draws = generator(seed)
    one, two = (ranks(maps.flatten(1), draws) < count for maps in (first, second))
    return (one & two).sum(1).double() / (one | two).sum(1).double()


def overlap_by_luck(total: int, count: int) -> float:
    """Expected Jaccard index of two random sets of `count` out of `total`: the common ones are hypergeometric."""
    common = torch.arange(max(0, 2 * count - total), count + 1, dtype=torch.float64)
    log = choose(count, common) + choose(total - count, count - common)
    chance = (log - choose(total, torch.tensor(count, dtype=torch.float64))).exp()
    return float((chance * common / (2 * count - common)).sum())


def choose(n: int, k: Tensor) -> Tensor:
    """Logarithm of a binomial coefficient."""
    return torch.lgamma(torch.tensor(n + 1.0, dtype=torch.float64)) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)


def both(first: Maps, second: Maps, count: int, seed: int) -> Float[Tensor, "n 2"]:
    """Jaccard index of the highest pixels, and rank correlation of all; NaN where the second map is not finite."""
    signed = pearson(mean_ranks(first.flatten(1)), mean_ranks(second.flatten(1)))
    found = torch.stack([overlap(first, second, count, seed), signed], 1)
    return torch.where(second.isfinite().flatten(1).all(1)[:, None], found, torch.nan)


def over_seeds(
    model: Model | nn.Module, inputs: Images, explanation: Explanation, count: int, n_samples: int, seed: int
) -> Around | str:
    """The method run again under other seeds, on the same images."""
    found, own = replay(explanation), explanation.settings.get("seed")
    if isinstance(found, str):
        return found
    if not isinstance(own, int):
        return "no_seed"
    first, rows = explanation.heatmap.to(inputs.device), list[Tensor]()
    for number in steps(n_samples):
        settings = {**found.settings, "seed": (own + 1 + seed * 1_000_003 + number) % 2**31}
        try:
            again = found.info.function(model, inputs, list(explanation.target), **settings)
        except GlasshouseError:
            return "rerun_failed"
        rows.append(both(first, again.heatmap.to(inputs.device), count, seed))
    value = torch.stack(rows, 1)
    return Around(value, torch.ones_like(value[:, :, 0], dtype=torch.bool), passes(explanation, inputs, n_samples))


@registered("evaluate", paper="Ghorbani et al., AAAI 2019", example={"n_samples": 3})
def ranking_stability(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    across: Across = "noise",
    share: float = 0.05,
    n_samples: int = 10,
    radius: float = 0.02,
    same_prediction: bool = True,
    seed: int = 0,
) -> Score:
    """Share of the most important pixels that are so again, under another seed or a little noise. 1: the very same.

        mean_s |T(a) ∩ T(a_s)| / |T(a) ∪ T(a_s)|,   T: the highest `share` of pixels of the heat map

    Ghorbani, Abid and Zou, "Interpretation of neural networks is fragile", AAAI 2019, measure attacks by the
    intersection of top pixels. Across seeds it says how far a stochastic method's map at this very image is luck: with
    too few samples its top pixels are. `extras["spearman"]` is the mean rank correlation of all pixels, and `chance`
    what random maps share. The error is that of the mean over copies. Ties are broken at random.

    Args:
        across: "noise" disturbs the image; "seeds" keeps it and changes the method's `seed`, for methods that have one.
        share: of the pixels, in 0…1.
        radius, same_prediction: of noise, as in `max_sensitivity`.
    """
    belongs(explanation, inputs)
    if across not in get_args(Across) or not 0 < share < 1 or n_samples < 1:
        raise BadInput(
            f"across '{across}', share {share} and n_samples {n_samples} are not all in range.",
            "Use 'noise' or 'seeds', a share between 0 and 1, and at least 1 sample.",
        )
    total = explanation.heatmap[0].numel()
    count = max(1, round(share * total))
    if across == "seeds":
        found = over_seeds(model, inputs, explanation, count, n_samples, seed)
    else:

        def measure(pairs: Pairs) -> Float[Tensor, "r 2"]:
            return both(pairs.maps, pairs.moved, count, seed)

        disturb, looking = noise(model, inputs, radius, n_samples, seed), Looking(measure, "heatmap")
        found = around(model, inputs, explanation, disturb, n_samples, looking, same_prediction)
    if isinstance(found, str):
        return undefined("ranking_stability", explanation, found)
    jaccard, spearman = found.value.unbind(2)
    value, error = average(jaccard, found.counted)
    left, finite = found.counted.any(1).tolist(), value.isfinite().tolist()
    reason = tuple(
        fault or ("no_neighbour" if not some else "" if known else "neighbour_not_finite")
        for fault, some, known in zip(flaws(explanation.heatmap), left, finite, strict=True)
    )
    known = found.counted & spearman.isfinite()
    extras = {"spearman": average(spearman, known)[0], "dropped": 1 - found.counted.double().mean(1)}
    settings = {"across": across, "share": share, "n_samples": n_samples, "seed": seed}
    if across == "noise":
        settings |= {"radius": radius, "same_prediction": same_prediction}
    chance = overlap_by_luck(total, count)
    return score_of("ranking_stability", Result(value, error, reason, extras), chance, "up", settings, *found.spent)
