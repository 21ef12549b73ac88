"""Does a picture drawn for a unit show what excites it? Against data, and by a reader who has to choose."""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.core import BadInput, Noun, generator
from glasshouse.evaluate.inside.sampling import Rate, binomial_tail, clopper_pearson


@dataclass(frozen=True, repr=False)
class Excitation(Noun):
    """How strongly the pictures drawn for u units excite them, among n natural images.

    Args:
        below, equal: natural images that excite the unit less, and as much.
        ratio: the picture's activation over the largest natural one; NaN where that is not above 0.
        wanted: the percentile that the picture should exceed.
    """

    below: Int[Tensor, " u"]
    equal: Int[Tensor, " u"]
    n_images: int
    ratio: Float[Tensor, " u"]
    wanted: float = 99.9
    level: float = 0.95

    def __repr__(self) -> str:
        u = len(self.below)
        return (
            f"Excitation({int(self.exceeds.sum())} of {u} pictures above {self.wanted:g} % of {self.n_images} images, "
            f"{int(self.proven.sum())} beyond doubt, chance {1 - self.wanted / 100:.3g})"
        )

    @property
    def percentile(self) -> Float[Tensor, " u"]:
        """Share of natural images that excite the unit less, in per cent; equal ones count half. Chance is 50."""
        return 100 * (self.below + self.equal / 2).double() / self.n_images

    @property
    def lower(self) -> Float[Tensor, " u"]:
        """Lower confidence limit of the percentile among *all* images like these (Clopper and Pearson, one-sided)."""
        limits = [clopper_pearson(k, self.n_images, 2 * self.level - 1)[0] for k in self.below.tolist()]
        return 100 * torch.tensor(limits, dtype=torch.float64)

    @property
    def exceeds(self) -> Bool[Tensor, " u"]:
        """Pictures that excite the unit more than the wanted share of these images."""
        return 100 * self.below.double() / self.n_images >= self.wanted

    @property
    def proven(self) -> Bool[Tensor, " u"]:
        """Pictures for which that holds with confidence; it takes 2995 images to show 99.9 % at all."""
        return self.lower >= self.wanted


def activation_percentile(
    pictures: Float[Tensor, " u"],
    natural: Float[Tensor, "n v"],
    *,
    wanted: float | int = 99.9,
    level: float = 0.95,
) -> Excitation:
    """Whether a picture drawn for a unit excites it more than almost any natural image does.

        percentile = 100 · #{natural images that excite the unit less} / n

    A picture that real images beat was not optimised far enough, or shows something else. Olah, Mordvintsev and
    Schubert, "Feature visualization", Distill 2017, compare pictures with the images that excite a unit most. A high
    activation does not say that a picture is typical: see `forced_choice`, and Geirhos et al., "Don't trust your eyes",
    ICML 2024, on pictures that are made to mislead.

    Args:
        pictures: activation of each unit by its own picture, reduced over positions as in `natural`.
        natural: activation of each unit by natural images.
    """
    if natural.shape[1] != len(pictures) or not len(natural) or not 0.5 < level < 1 or not 0 < wanted < 100:
        raise BadInput(
            f"{len(pictures)} pictures for {natural.shape[1]} units, {len(natural)} images, wanted={wanted}, "
            f"level={level}."
        )
    own, data = pictures.detach().cpu().double(), natural.detach().cpu().double()
    if not (own.isfinite().all() and data.isfinite().all()):
        raise BadInput("some activations are not finite.")
    largest = data.amax(0)
    ratio = torch.where(largest > 0, own / largest, torch.nan)
    return Excitation((data < own).sum(0), (data == own).sum(0), len(data), ratio, float(wanted), level)


@dataclass(frozen=True, repr=False)
class ForcedChoice(Noun):
    """How often a reader who has seen a unit's exemplars picks, of two images, the one that excites it.

    Args:
        margin: of each trial: how much nearer the exciting image is to the exemplars; below 0 the reader is wrong.
        correct: whether it was picked; a coin is tossed where the margin is 0.
    """

    margin: Float[Tensor, " t"]
    correct: Bool[Tensor, " t"]
    chance: float = 0.5
    level: float = 0.95
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        low, high = self.rate.interval
        return (
            f"ForcedChoice({self.rate.share:.3f}, {low:.3f}…{high:.3f}, chance 0.5, p = {self.p_value:.2g}, "
            f"{len(self.correct)} trials)"
        )

    @property
    def rate(self) -> Rate:
        """Share of right choices with exact limits."""
        return Rate(int(self.correct.sum()), len(self.correct), self.level)

    @property
    def p_value(self) -> float:
        """Probability of as many right choices by tossing coins."""
        return binomial_tail(self.rate.hits, self.rate.total, 0.5)


def forced_choice(
    strong: Float[Tensor, "t d"],
    weak: Float[Tensor, "q d"],
    exemplars: Float[Tensor, "m d"],
    opposites: Float[Tensor, "r d"] | None = None,
    *,
    level: float = 0.95,
    seed: int = 0,
) -> ForcedChoice:
    """Whether pictures of a unit tell a reader which of two images excites it.

        margin_t = s(strong_t) - s(weak_t),   s(x) = max_e cos(x, e) [- max_o cos(x, o)]
        score = share of trials with margin > 0

    The experiment of Borowski et al., "Exemplary natural images explain CNN activations better than state-of-the-art
    feature visualization", ICLR 2021, and Zimmermann et al., NeurIPS 2021, with a nearest neighbour in place of people.
    Compare kinds of exemplars (drawn pictures, natural images) on the same trials. The reader sees what the embedding
    sees: one that is taken from the layer of the unit makes the task too easy.

    Args:
        strong, weak: embeddings of two images per trial, that excite the unit much and little.
        exemplars: embeddings of what the reader is shown as exciting; opposites: as not exciting, or inhibiting.
        seed: of the coin.
    """
    groups = [part.detach().cpu().double() for part in (strong, weak, exemplars)]
    others = None if opposites is None else opposites.detach().cpu().double()
    if len(strong) != len(weak) or not len(strong) or not len(exemplars):
        raise BadInput(f"{len(strong)} strong and {len(weak)} weak images, {len(exemplars)} exemplars.")
    if not all(bool(part.isfinite().all()) for part in groups):
        raise BadInput("some embeddings are not finite.")

    def likeness(images: Tensor) -> Tensor:
        near = (F.normalize(images) @ F.normalize(groups[2]).T).amax(1)
        return near if others is None else near - (F.normalize(images) @ F.normalize(others).T).amax(1)

    margin = likeness(groups[0]) - likeness(groups[1])
    coin = torch.rand(len(margin), generator=generator(seed)) < 0.5
    right = torch.where(margin.abs() < 1e-12, coin, margin > 0)
    settings = {"exemplars": len(exemplars), "opposites": 0 if others is None else len(others), "seed": seed}
    return ForcedChoice(margin, right, 0.5, level, settings)
