"""Does a picture drawn for a unit show what excites it? Beside data, in another network, to a reader."""

from dataclasses import dataclass, field
from math import nan
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.core import BadInput, Noun, generator
from glasshouse.evaluate.agreement import standardised
from glasshouse.evaluate.inside.rates import Rate, binomial_tail, checked_level, clopper_pearson


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
class Transfer(Noun):
    """How strongly pictures that were drawn for u units of one network excite the matching units of another.

    Args:
        match: the unit of the other network for each.
        likeness: correlation of each unit with its match over natural images; NaN where it was not measured.
        seen: each picture's activation of the match, among natural images.
        others: mean percentile, in the same match, of the pictures for the other units; NaN with a single picture.
    """

    match: Int[Tensor, " u"]
    likeness: Float[Tensor, " u"]
    seen: Excitation
    others: Float[Tensor, " u"]

    def __repr__(self) -> str:
        return (
            f"Transfer(percentile {self.value:.1f} ± {self.stderr:.1f}, pictures of other units "
            f"{float(self.others.mean()):.1f}, natural images 50, {len(self.match)} units)"
        )

    @property
    def value(self) -> float:
        """Mean percentile over units; 50 is that of natural images."""
        return float(self.seen.percentile.mean())

    @property
    def stderr(self) -> float:
        """Standard error of `value` over units, taken as independent."""
        return float(self.seen.percentile.std() / len(self.match) ** 0.5) if len(self.match) > 1 else nan

    @property
    def gap(self) -> Float[Tensor, " u"]:
        """Percentile of the unit's own picture less that of the other units' pictures; chance is 0."""
        return self.seen.percentile - self.others


def picture_transfer(
    pictures: Float[Tensor, "u v"],
    natural: Float[Tensor, "n w"],
    matches: Int[Tensor, " m"] | None = None,
    *,
    own: Float[Tensor, "q r"] | None = None,
    wanted: float | int = 99.9,
    level: float = 0.95,
) -> Transfer:
    """Whether a picture drawn for a unit of one network also excites the matching unit of another, more than data does.

        percentile_u = 100 · #{natural images that excite match(u) less than the picture of u does} / n
        match(u) = the unit v with the largest correlation to u over natural images, or the same class

    A picture that excites only the network it was drawn with shows that network's accidents (other seed, other
    architecture: Szegedy et al., ICLR 2014, on examples that carry over). Pictures are unlike data and may excite every
    unit, so read `others`, what the pictures of the other units do, beside it.

    Args:
        pictures: activation of all v units of the other network by the picture of each of u units.
        natural: activation of the v units by natural images, reduced over positions as in `pictures`.
        matches: the unit for each picture, such as its class; None matches by `own`, or unit by unit without it.
        own: activation of the u units of the first network by the same natural images.
    """
    u, v = pictures.shape
    if natural.shape[1] != v:
        raise BadInput(f"pictures {tuple(pictures.shape)}, natural {tuple(natural.shape)}: not of the same units.")
    near = torch.full((u, v), nan, dtype=torch.float64)
    if own is not None:
        if own.shape != (len(natural), u):
            raise BadInput(f"own {tuple(own.shape)} is not of {len(natural)} images and {u} units.")
        rows, columns = (standardised(part.detach().cpu().T) for part in (own, natural))
        near = (rows @ columns.T / len(natural)).masked_fill(~(rows.any(1)[:, None] & columns.any(1)), nan)
    if matches is not None:
        match = matches.detach().cpu().long()
    else:
        match = torch.arange(u) if own is None else near.nan_to_num(-2).argmax(1)
    if len(match) != u or bool(((match < 0) | (match >= v)).any()):
        raise BadInput(f"matches {match.tolist()[:8]} are not units 0…{v - 1}, one for each of {u} pictures.")
    if matches is None and own is not None and bool(near.isnan().all(1).any()):
        raise BadInput("a unit is the same for all natural images, and matches none.", "Leave it out.")
    drawn, data = (part.detach().cpu().double()[:, match] for part in (pictures, natural))
    seen = activation_percentile(drawn.diagonal(), data, wanted=wanted, level=level)
    ordered, each = data.T.sort(1).values.contiguous(), drawn.T.contiguous()
    below, upto = (torch.searchsorted(ordered, each, right=right).double() for right in (False, True))
    percentile = 50 * (below + upto) / len(natural)  # by match and picture; equal ones count half
    others = (percentile.sum(1) - percentile.diagonal()) / (u - 1) if u > 1 else torch.full((u,), nan).double()
    return Transfer(match, near.gather(1, match[:, None])[:, 0], seen, others)


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
    against = exemplars[:0] if opposites is None else opposites
    groups = [part.detach().cpu().double() for part in (strong, weak, exemplars, against)]
    if len(strong) != len(weak) or not len(strong) or not len(exemplars):
        raise BadInput(f"{len(strong)} strong and {len(weak)} weak images, {len(exemplars)} exemplars.")
    if not all(bool(part.isfinite().all()) for part in groups):
        raise BadInput("some embeddings are not finite.")

    def nearest(images: Tensor, shown: Tensor) -> Tensor:
        return (F.normalize(images) @ F.normalize(shown).T).amax(1) if len(shown) else images.new_zeros(len(images))

    def likeness(images: Tensor) -> Tensor:
        return nearest(images, groups[2]) - nearest(images, groups[3])

    margin = likeness(groups[0]) - likeness(groups[1])
    coin = torch.rand(len(margin), generator=generator(seed)) < 0.5
    right = torch.where(margin.abs() < 1e-12, coin, margin > 0)
    settings = {"exemplars": len(exemplars), "opposites": len(against), "seed": seed}
    return ForcedChoice(margin, right, 0.5, checked_level(level), settings)
