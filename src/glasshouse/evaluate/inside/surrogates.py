"""Stand-in models: a tree, a linear model or a sum of concepts that is said to explain a network must decide like it.

Rudin, "Stop explaining black box machine learning models for high stakes decisions and use interpretable models
instead", Nature Machine Intelligence 2019: where the stand-in disagrees with the network, it explains something else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import nan

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.core import BadInput, Logits, Noun, generator
from glasshouse.core.target import resolve
from glasshouse.evaluate.inside.rates import Rate, bootstrap, checked_level

N_FOR_ERROR = 200


@dataclass(frozen=True, eq=False, repr=False)
class Fidelity(Noun):
    """How far a surrogate decides as the model does, on n images.

    Args:
        images: their numbers in the data set.
        model, surrogate: the class each of them says; -1 where the surrogate does not answer.
        labels: the right class; -1 where it is not known.
        slices: named groups of the images.
        r2: share of the variance of the target's logit that the surrogate tells; not-a-number without logits.
        r2_error: its bootstrap standard error.
        held_out: whether the images that the surrogate was fitted on were told, and are not among these.
        level: of all confidence intervals.
    """

    images: Int[Tensor, " n"]
    model: Int[Tensor, " n"]
    surrogate: Int[Tensor, " n"]
    labels: Int[Tensor, " n"]
    slices: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    r2: float = nan
    r2_error: float = nan
    held_out: bool = False
    level: float = 0.95

    def __repr__(self) -> str:
        low, high = self.agreement.interval
        told = "held out" if self.held_out else "not known to be held out"
        return (
            f"Fidelity(agreement {self.agreement.share:.3f}, {low:.3f}…{high:.3f}, chance {self.chance:.3f}, "
            f"on {self.agreement.total} images {told})"
        )

    @cached_property
    def answered(self) -> Bool[Tensor, " n"]:
        """Images for which the surrogate names a class."""
        return self.surrogate >= 0

    @cached_property
    def agrees(self) -> Bool[Tensor, " n"]:
        """Images for which both name the same class."""
        return self.model == self.surrogate

    @property
    def agreement(self) -> Rate:
        """Share of the answered images in which both name the same class, with exact limits."""
        return self._rate(self.answered)

    @property
    def coverage(self) -> Rate:
        """Share of the images that the surrogate answers."""
        return Rate(int(self.answered.sum()), len(self.images), self.level)

    @property
    def chance(self) -> float:
        """The agreement of the best surrogate that looks at nothing: the share of the model's commonest class."""
        said = self.model[self.answered]
        return float(said.bincount().max()) / len(said) if len(said) else nan

    @property
    def where_wrong(self) -> Rate:
        """Agreement on images that the model gets wrong: does the surrogate explain its mistakes too?"""
        return self._rate(self.answered & (self.labels >= 0) & (self.model != self.labels))

    @cached_property
    def by_class(self) -> dict[int, Rate]:
        """Agreement on the images of each class that the model names."""
        return {c: self._rate(self.answered & (self.model == c)) for c in self.model[self.answered].unique().tolist()}

    @cached_property
    def by_slice(self) -> dict[str, Rate]:
        """Agreement on each named slice that has an answered image."""
        rates = {name: self._rate(self.answered & rows) for name, rows in self.slices.items()}
        return {name: rate for name, rate in rates.items() if rate.total}

    @property
    def worst(self) -> tuple[str | int, Rate]:
        """The slice, or without slices the class, with the lowest agreement.

        It is the lowest of several, so its limits are those of a level that holds for all of them (Bonferroni).
        """
        groups: dict[str | int, Rate] = {**self.by_slice} if self.slices else {**self.by_class}
        if not groups:
            raise BadInput("no slice has an image that the surrogate answered.")
        rates = {name: rate.at(1 - (1 - self.level) / len(groups)) for name, rate in groups.items()}
        name = min(rates, key=lambda name: (rates[name].share, rates[name].interval[1]))
        return name, rates[name]

    @property
    def disagreement(self) -> Int[Tensor, " m"]:
        """Numbers of the images on which they differ."""
        return self.images[self.answered & ~self.agrees]

    @property
    def sentence(self) -> str:
        """What this means for a reader."""
        rate = self.agreement
        if not rate.total:
            return "The surrogate answers for no image."
        low, high = (1 - share for share in reversed(rate.interval))
        if rate.hits == rate.total:
            return (
                f"The surrogate disagrees on none of {rate.total} images; with others it may on up to {one_in(high)}."
            )
        most = f"between {one_in(low)} and {one_in(high)}" if low else f"at most {one_in(high)}"
        return f"The surrogate disagrees on {one_in(1 - rate.share)} ({most}): there it explains something else."

    def _rate(self, rows: Bool[Tensor, " n"]) -> Rate:
        return Rate(int(self.agrees[rows].sum()), int(rows.sum()), self.level)


def one_in(share: float) -> str:
    """A share above 0 in words: "1 image in 10"."""
    k = 1 / share
    return f"1 image in {k:.0f}" if k >= 9.5 or abs(k - round(k)) < 0.05 else f"1 image in {k:.1f}"


def surrogate_fidelity(
    predictions_of_model: Logits,
    predictions_of_surrogate: Float[Tensor, "m q"] | Int[Tensor, " m"],
    labels: Int[Tensor, " m"] | None = None,
    target: int | Sequence[int] | None = None,
    *,
    slices: Mapping[str, Bool[Tensor, " m"]] | None = None,
    fitted_on: Sequence[int] | Int[Tensor, " f"] | None = None,
    images: Sequence[int] | Int[Tensor, " m"] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Fidelity:
    """On how many images a surrogate says what the model says, and on which it does not.

        agreement = 1/n sum_i [argmax model_i = argmax surrogate_i]
        R² = 1 - sum_i (y_i - ŷ_i)² / sum_i (y_i - mean y)²      for the target's logit

    Rudin, Nature Machine Intelligence 2019. The limits are Clopper and Pearson's. For a basis decomposition, pass the
    logits without the residual; for a graph or a tree, what it predicts.

    Args:
        predictions_of_model: logits `n k`.
        predictions_of_surrogate: logits `n k` on the same scale, or classes. It does not answer where the class is
            -1, or all logits of the image are not-a-number.
        labels: the right classes, for `where_wrong`; -1 where not known.
        target: the class whose logit is compared; None takes the one that the model names in each image.
        slices: groups of the images, by name, of which the worst is reported.
        fitted_on: numbers of the images that the surrogate was fitted on; they are refused here.
        images: numbers of these images in the same count; 0…n-1 when left out.
        seed: of the choice among equal logits, the same for both, and of the error of R².
    """
    n, k = predictions_of_model.shape
    given = [predictions_of_surrogate, *(() if labels is None else (labels,)), *(slices or {}).values()]
    if not n or any(len(part) != n for part in given):
        raise BadInput(f"{n} images in the model's predictions and {[len(part) for part in given]} in the others.")
    numbers = torch.arange(n) if images is None else torch.as_tensor(images).cpu().long()
    refuse_fitted(numbers, n, fitted_on)
    model, level = predictions_of_model.detach().cpu().double(), checked_level(level)
    if not model.isfinite().all():
        raise BadInput("the model's logits are not all finite.", "Leave out the images for which they are not.")
    other = predictions_of_surrogate.detach().cpu()
    keys = torch.rand(n, k, generator=generator(seed))
    said, r2, error = largest(model, keys), nan, nan
    if other.ndim == 1:
        answer = other.long().clamp(min=-1)
    else:
        if other.shape[1] != k:
            raise BadInput(f"the model has {k} classes and the surrogate {other.shape[1]}.")
        silent = other.isnan().all(1)
        if bool(other[~silent].isnan().any()):
            raise BadInput("some of the surrogate's logits are not-a-number.", "Where it has no answer, make all so.")
        answer = largest(other.double(), keys).masked_fill(silent, -1)
        asked = said if target is None else resolve(target, model)
        pairs = torch.stack([logits.double().gather(1, asked[:, None])[:, 0] for logits in (model, other)], 1)
        r2, error = explained(pairs[~silent], seed)
    right = torch.full((n,), -1) if labels is None else labels.detach().cpu().long()
    groups = {name: rows.detach().cpu() for name, rows in (slices or {}).items()}
    return Fidelity(numbers, said, answer, right, groups, r2, error, fitted_on is not None, level)


def refuse_fitted(numbers: Int[Tensor, " m"], n: int, fitted_on: Sequence[int] | Tensor | None) -> None:
    """Raise where an image has no number, two have the same, or the surrogate was fitted on it."""
    if len(numbers) != n or len(numbers.unique()) != n:
        raise BadInput(f"{len(numbers.unique())} different numbers for {n} images.", "Give each image its own.")
    if fitted_on is None:
        return
    seen = numbers[torch.isin(numbers, torch.as_tensor(fitted_on).cpu().long())].tolist()
    if seen:
        shown = ", ".join(map(str, seen[:5])) + (", …" if len(seen) > 5 else "")
        raise BadInput(
            f"the surrogate was fitted on {len(seen)} of these {n} images ({shown}).",
            "Measure it on images that it has not seen.",
        )


def largest(logits: Float[Tensor, "n k"], keys: Float[Tensor, "n k"]) -> Int[Tensor, " n"]:
    """The class with the largest logit; of several, the one with the largest key."""
    best = logits == logits.amax(1, keepdim=True)
    return keys.masked_fill(~best, -1).argmax(1)


def explained(pairs: Float[Tensor, "n 2"], seed: int) -> tuple[float, float]:
    """R² of the second column as a prediction of the first, with its bootstrap error; NaN where nothing varies."""

    def r2(rows: Tensor) -> float:
        true, told = pairs[rows].unbind(1)
        total = float((true - true.mean()).square().sum())
        return 1 - float((true - told).square().sum()) / total if true.unique().numel() > 1 else nan

    n = len(pairs)
    if n < 2:
        return nan, nan
    drawn = bootstrap(r2, n, seed, N_FOR_ERROR)
    known = drawn[drawn.isfinite()]
    return r2(torch.arange(n)), float(known.std()) if len(known) > 1 else nan
