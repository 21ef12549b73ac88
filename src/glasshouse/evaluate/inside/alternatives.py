"""Is a stand-in needed at all, and is there only one? An interpretable model in its place; surrogates as good."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.core import BadInput, Logits, Noun, generator
from glasshouse.evaluate.agreement import mean_ranks, standardised
from glasshouse.evaluate.inside.rates import N_RESAMPLES, Rate, binomial_tail, checked_level, limits
from glasshouse.evaluate.inside.surrogates import Fidelity, largest


@dataclass(frozen=True, repr=False)
class Alternative(Noun):
    """What an interpretable model gives up, or gains, in place of the black box.

    Args:
        model, interpretable: accuracy of each on the same images.
        gap: the interpretable model's accuracy less the other's.
        interval: bootstrap limits of the gap, the images drawn in pairs.
        p_value: of no difference, by the exact test of McNemar on images that only one gets right.
        chance: accuracy of always naming the commonest class.
    """

    model: Rate
    interpretable: Rate
    gap: float
    stderr: float
    interval: tuple[float, float]
    p_value: float
    chance: float

    def __repr__(self) -> str:
        low, high = self.interval
        return f"Alternative({self.sentence} {100 * low:+.1f}…{100 * high:+.1f}, p = {self.p_value:.2g})"

    @property
    def sentence(self) -> str:
        """What this means for a reader."""
        points = abs(100 * self.gap)
        if self.p_value > 1 - self.model.level:
            return f"No difference in accuracy is seen on {self.model.total} images ({100 * self.gap:+.1f} points)."
        return f"The interpretable model {'gains' if self.gap > 0 else 'gives up'} {points:.1f} points of accuracy."


def compare_models(
    model_predictions: Logits | Int[Tensor, " n"],
    interpretable_predictions: Float[Tensor, "m q"] | Int[Tensor, " m"],
    labels: Int[Tensor, " i"],
    *,
    level: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Alternative:
    """How much accuracy it costs to use a model that needs no explaining.

        gap = acc(interpretable) - acc(model)

    Rudin, Nature Machine Intelligence 2019. Both models answer the same images, so these are drawn in pairs: only
    images that one of them gets wrong and the other right make the gap uncertain.

    Args:
        n_resamples: bootstrap draws. The number of images that only one gets right is drawn, not the images: the same
            distribution, at a cost that does not grow with n.
    """
    if not len(labels) or not len(labels) == len(model_predictions) == len(interpretable_predictions):
        given = (len(model_predictions), len(interpretable_predictions))
        raise BadInput(f"predictions for {given[0]} and {given[1]} images, {len(labels)} labels: no images to compare.")
    checked_level(level)
    first, second = (right(said, labels, seed) for said in (model_predictions, interpretable_predictions))
    n, gained, lost = len(labels), int((second & ~first).sum()), int((first & ~second).sum())
    draw, of_rest = generator(seed), lost / (n - gained) if gained < n else 0.0
    every = torch.full((n_resamples,), float(n), dtype=torch.float64)
    won = torch.binomial(every, torch.full_like(every, gained / n), draw)
    gaps = (won - torch.binomial(every - won, torch.full_like(every, of_rest), draw)) / n
    both = min(1.0, 2 * binomial_tail(max(gained, lost), gained + lost, 0.5))
    one, other = (Rate(int(those.sum()), n, level) for those in (first, second))
    commonest = float(labels.unique(return_counts=True)[1].max()) / n
    return Alternative(one, other, (gained - lost) / n, float(gaps.std()), limits(gaps, level), both, commonest)


def right(
    predictions: Float[Tensor, "n k"] | Int[Tensor, " n"], labels: Int[Tensor, " n"], seed: int
) -> Bool[Tensor, " n"]:
    """Which images a model gets right; of equal logits one is drawn, in the same way for every model."""
    said = predictions.detach().cpu()
    if said.ndim == 2:
        if bool(said.isnan().any()):
            raise BadInput("some predictions are not-a-number.", "Leave out the images for which they are.")
        said = largest(said.double(), torch.rand(said.shape, generator=generator(seed)))
    return said == labels.detach().cpu()


@dataclass(frozen=True, eq=False, repr=False)
class RashomonSet(Noun):
    """How far surrogates of nearly the same fidelity name the same features.

    Args:
        fidelity: of all s surrogates.
        within: which of them come within `delta` of the best.
        overlap: of the features that each two of these name: shared ones over those of the larger set.
        correlation: of the ranks of all features by absolute weight (Spearman); NaN where one surrogate has them equal.
        chance: the overlap of two sets of these sizes, drawn at random among all features.
        top: features that count as named, at most; one without weight is never named.
    """

    fidelity: Float[Tensor, " s"]
    within: Bool[Tensor, " s"]
    overlap: Float[Tensor, "m m"]
    correlation: Float[Tensor, "m m"]
    chance: float
    delta: float
    top: int

    def __repr__(self) -> str:
        said = f"overlap {self.mean_overlap:.2f} ± {self.stderr:.2f}, chance {self.chance:.2f}"
        if int(self.within.sum()) < 2:
            said = "nothing to compare"
        return f"RashomonSet({int(self.within.sum())} of {len(self.within)} within {self.delta:g} of the best, {said})"

    @property
    def mean_overlap(self) -> float:
        """Over all pairs: 1 if all tell the same story; not-a-number with a single surrogate."""
        return mean_of_pairs(self.overlap)

    @property
    def mean_correlation(self) -> float:
        """Over all pairs of surrogates."""
        return mean_of_pairs(self.correlation)

    @property
    def stderr(self) -> float:
        """Standard error of `mean_overlap` by leaving out one surrogate at a time; NaN with fewer than three."""
        m = len(self.overlap)
        if m < 3:
            return nan
        rows = [[i for i in range(m) if i != left] for left in range(m)]
        left = torch.tensor([mean_of_pairs(self.overlap[those][:, those]) for those in rows], dtype=torch.float64)
        return float(((m - 1) / m * (left - left.mean()).square().sum()).sqrt())


def rashomon(
    weights: Float[Tensor, "s d"] | Int[Tensor, "s d"],
    fidelities: Sequence[Fidelity] | Sequence[float] | Float[Tensor, " s"],
    delta: float | int = 0.01,
    *,
    top: int = 10,
) -> RashomonSet:
    """Whether surrogates that are equally good also say the same: if not, none of them is *the* explanation.

        overlap(A, B) = |A ∩ B| / max(|A|, |B|)      for the `top` features of each by absolute weight

    Named for the film in which all witnesses are credible and contradict each other: Breiman, Statistical Science
    2001; Rudin, Nature Machine Intelligence 2019. Features that tie for the last places share them evenly.

    Args:
        weights: of d features, a row for each surrogate; whole numbers are rankings: the features' numbers, the most
            important first.
        fidelities: of the surrogates, as they come from `surrogate_fidelity`, or any score that is higher for better.
        delta: how much less than the best still counts as equally good.
    """
    scores = [score.agreement.share if isinstance(score, Fidelity) else float(score) for score in fidelities]
    fidelity, n_features = torch.tensor(scores, dtype=torch.float64), weights.shape[1]
    if len(fidelity) != len(weights) or not len(weights) or delta < 0 or top < 1:
        raise BadInput(f"{len(fidelity)} fidelities for {len(weights)} surrogates, delta={delta}, top={top}.")
    if not (fidelity.isfinite().all() and weights.isfinite().all()):
        raise BadInput("some fidelities or weights are not finite.", "Leave out the surrogates for which they are not.")
    if weights.is_floating_point():
        size = weights.detach().cpu().double().abs()
    else:
        if not weights.sort(1).values.equal(torch.arange(n_features).to(weights).expand_as(weights)):
            raise BadInput(f"a ranking has each of the numbers 0…{n_features - 1} once.", "Pass the weights instead.")
        size = (n_features - weights.argsort(1)).double()
    within = fidelity >= fidelity.max() - delta - 1e-12
    sets = torch.stack([named(row, top) for row in size[within]])
    total = sets.sum(1)
    larger, smaller = torch.maximum(total[:, None], total), torch.minimum(total[:, None], total)
    overlap = torch.stack([torch.minimum(row, sets).sum(1) for row in sets]) / larger
    chance = mean_of_pairs((smaller / n_features).masked_fill(larger == 0, nan))
    ranks = standardised(mean_ranks(size[within]))
    correlation = (ranks @ ranks.T / n_features).clamp(-1, 1)
    flat = ~ranks.any(1)
    correlation = correlation.masked_fill(flat[:, None] | flat, nan)
    return RashomonSet(fidelity, within, overlap, correlation, chance, float(delta), top)


def named(size: Float[Tensor, " d"], top: int) -> Float[Tensor, " d"]:
    """To what part each feature is among the largest: 1, 0, or its share of the places that equals compete for."""
    top = min(top, int((size > 0).sum()))
    if not top:
        return torch.zeros_like(size)
    least = size.topk(top).values[-1]
    above, equal = size > least, size == least
    return above.double() + equal * (top - above.sum()) / equal.sum()


def mean_of_pairs(table: Float[Tensor, "m m"]) -> float:
    """Mean above the diagonal; NaN with a single row. Undefined pairs are left out."""
    rows, columns = torch.triu_indices(len(table), len(table), 1)
    return float(table[rows, columns].nanmean()) if len(rows) else nan
