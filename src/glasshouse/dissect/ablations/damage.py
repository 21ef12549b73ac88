"""What removing units does to the classes of a network, and which properties of a unit go with it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import atanh, sqrt, tanh
from statistics import NormalDist
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glasshouse.core import BadInput, Noun
from glasshouse.core.errors import not_found
from glasshouse.dissect.ablations.removal import Route

Damage: TypeAlias = Literal["overall_drop", "max_class_drop"]
Kind: TypeAlias = Literal["spearman", "pearson"]
How: TypeAlias = Literal["zero", "mean", "resample"]


@dataclass(frozen=True, repr=False)
class Correlation(Noun):
    """How two properties go together over n units (or pairs), with a confidence interval.

    Args:
        low, high: Fisher's interval, `tanh(atanh r ± z s / sqrt(n - 3))`; s is 1 for Pearson's coefficient and
            `sqrt(1 + r²/2)` for Spearman's (Bonett and Wright, Psychometrika 2000). It takes units for independent.
    """

    kind: Kind
    value: float
    low: float
    high: float
    n: int

    def __repr__(self) -> str:
        return f"Correlation({self.kind} {self.value:.2f}, {self.low:.2f}…{self.high:.2f}, over {self.n})"


@dataclass(frozen=True, repr=False)
class Traits(Noun):
    """How u units respond to the images, and how strongly they are wired.

    Args:
        class_mean: activation, averaged over positions and over the images of each class; NaN without images.
        mean, peak: over all images: average, and largest at any position.
        firing_rate: share of all positions at which the unit is above 0.
        class_correlation: largest correlation, over images, with the probability of a class.
        incoming, outgoing: L1 norms of a unit's weights in the convolution or linear layer before and behind; NaN
            where there is none, for instance around a sum of two paths.
    """

    class_mean: Float[Tensor, "u c"]
    mean: Float[Tensor, " u"]
    peak: Float[Tensor, " u"]
    firing_rate: Float[Tensor, " u"]
    class_correlation: Float[Tensor, " u"]
    incoming: Float[Tensor, " u"]
    outgoing: Float[Tensor, " u"]

    def __repr__(self) -> str:
        silent = int((self.firing_rate == 0).sum())
        return f"Traits({len(self.mean)} units, {silent} silent, median selectivity {self.selectivity.nanmedian():.2f})"

    @property
    def selectivity(self) -> Float[Tensor, " u"]:
        """How much more a unit responds to its best class than to the others: 0 for all alike, 1 for one class only.

            s = (m_max - m_rest) / (m_max + m_rest)

        m_rest is the mean over the other classes. Morcos et al., ICLR 2018, eq. 1; 0 for a unit that never fires.

        Differs: NaN where a class mean is negative, for which the index means nothing.
        """
        known = self.class_mean[:, ~self.class_mean.isnan().any(0)]
        best = known.amax(1)
        rest = (known.sum(1) - best) / max(known.shape[1] - 1, 1)
        index = torch.where(best + rest > 0, (best - rest) / (best + rest), 0.0)
        return index.where(known.amin(1) >= 0, torch.nan)


TRAITS = ("selectivity", "class_correlation", "mean", "peak", "firing_rate", "incoming", "outgoing")


@dataclass(frozen=True, repr=False)
class Ablation(Noun):
    """What a classifier loses without each of g groups of units, class by class.

    Args:
        names, members: of the groups; a unit by itself bears its number.
        how: what units were replaced by.
        route: how it was computed; all are exact.
        total, right, predicted: images of each class, those put right, and images put into it, by the whole network.
        lost, won: images of each class that are right only with, or only without the group.
        shift: by how many more images are put into each class without the group.
        idle: images in which the group's removal changes nothing.
        reruns: pairs of an image and a group for which some of the network was run again.
        traits: of the units, where each group is one.
    """

    layer: str
    names: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]
    how: How
    route: Route
    total: Int[Tensor, " c"]
    right: Int[Tensor, " c"]
    predicted: Int[Tensor, " c"]
    lost: Int[Tensor, "g c"]
    won: Int[Tensor, "g c"]
    shift: Int[Tensor, "g c"]
    idle: Int[Tensor, " g"]
    reruns: int
    traits: Traits | None = None
    class_names: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        worst = self.max_class_drop.nan_to_num(-1).argmax()
        drop, named = float(self.max_class_drop[worst]), self.class_name(int(self.worst_class[worst]))
        what = "units" if self.traits else "groups"
        return (
            f"Ablation({self.layer}, {len(self.names)} {what}, {self.n_images} images, "
            f"largest class drop {drop:.0%}: '{named}' without {self.names[worst]})"
        )

    @property
    def n_images(self) -> int:
        """Images with a class."""
        return int(self.total.sum())

    @property
    def accuracy(self) -> Float[Tensor, " c"]:
        """Share of each class's images that the whole network puts right; NaN for a class without images."""
        return self.right / self.total.double()

    @property
    def ablated(self) -> Float[Tensor, "g c"]:
        """The same without each group."""
        return (self.right - self.lost + self.won) / self.total.double()

    @property
    def damage(self) -> Float[Tensor, "g c"]:
        """Fall of each class's accuracy, `acc_c - acc_c(without the group)`; negative where it rises."""
        return (self.lost - self.won) / self.total.double()

    @property
    def damage_error(self) -> Float[Tensor, "g c"]:
        """Standard error of `damage` over images, `sqrt(lost + won - (lost - won)²/n) / n`: the same images twice."""
        return _paired_error(self.lost.double(), self.won.double(), self.total.double())

    def interval(self, level: float = 0.95) -> tuple[Float[Tensor, "g c"], Float[Tensor, "g c"]]:
        """Ends of a confidence interval for each `damage`, for each by itself: half an image is added to every cell.

        Agresti and Min, "Simple improved confidence intervals for comparing matched proportions", Statistics in
        Medicine 2005. Wide even where nothing changed, as few images cannot show that nothing ever does.
        """
        lost, won, total = self.lost + 0.5, self.won + 0.5, self.total + 2.0
        total = total.where(self.total > 0, torch.nan)
        centre, reach = (lost - won) / total, NormalDist().inv_cdf(0.5 + level / 2) * _paired_error(lost, won, total)
        return (centre - reach).clamp(min=-1), (centre + reach).clamp(max=1)

    @property
    def overall_drop(self) -> Float[Tensor, " g"]:
        """Mean of `damage` over the classes that have images."""
        return self.damage.nanmean(1)

    @property
    def overall_error(self) -> Float[Tensor, " g"]:
        """Standard error of `overall_drop` over images."""
        errors = self.damage_error[:, self.total > 0]
        return errors.square().sum(1).sqrt() / errors.shape[1]

    @property
    def max_class_drop(self) -> Float[Tensor, " g"]:
        """Damage to the class that suffers most. The largest of many noisy numbers: with few images, too large."""
        return self.damage.nan_to_num(-torch.inf).amax(1)

    @property
    def worst_class(self) -> Int[Tensor, " g"]:
        """The class that suffers most, the first of equals."""
        return self.damage.nan_to_num(-torch.inf).argmax(1)

    @property
    def balanced(self) -> Float[Tensor, "g c"]:
        """Accuracy of "is it this class?" without each group, classes and rest weighted alike: (TPR + TNR) / 2.

        From the class with the largest logit; chance is 0.5. Bau et al., PNAS 2020.
        """
        return self._balanced(self.right - self.lost + self.won, self.predicted + self.shift)

    @property
    def clean_balanced(self) -> Float[Tensor, " c"]:
        """The same of the whole network."""
        return self._balanced(self.right, self.predicted)

    def _balanced(self, right: Tensor, predicted: Tensor) -> Tensor:
        others = self.n_images - self.total.double()
        return (right / self.total.double() + (others - (predicted - right)) / others) / 2

    def ranking(self, target: int) -> Int[Tensor, " g"]:
        """Rows by `damage` to a class, the worst first, equals in order."""
        self._check_class(target)
        return (self.won - self.lost)[:, target].argsort(stable=True)

    def row(self, group: int | str) -> int:
        """Row of a group by its name, or of a unit by its number."""
        if str(group) not in self.names:
            raise not_found("group", str(group), self.names)
        return self.names.index(str(group))

    def interaction(self, one: int | str, other: int | str, both: int | str) -> Float[Tensor, " c"]:
        """Damage of two groups together beyond the sum of each alone: `d(both) - d(one) - d(other)`.

        Above 0 each stands in for the other; below, the second takes little that the first has left.
        """
        first, second, joint = (self.row(group) for group in (one, other, both))
        if set(self.members[joint]) != {*self.members[first], *self.members[second]}:
            raise BadInput(
                f"group '{both}' does not hold the units of '{one}' and '{other}'.",
                "Ablate three groups: groups={'a': [1], 'b': [2], 'ab': [1, 2]}.",
            )
        return self.damage[joint] - self.damage[first] - self.damage[second]

    def correlations(
        self,
        against: Damage = "overall_drop",
        *,
        kind: Kind = "spearman",
        level: float = 0.95,
    ) -> dict[str, Correlation]:
        """How each trait of a unit goes with the damage done by removing it, over the units that have the trait.

        Zhou et al., "Revisiting the importance of individual units in CNNs via ablation", 2018, figs. 4-6.
        """
        if self.traits is None:
            raise BadInput("groups of several units have no traits.", "Ablate single units: groups=None.")
        damage = getattr(self, against)
        return {name: correlate(getattr(self.traits, name), damage, kind, level) for name in TRAITS}

    def table(self) -> list[dict[str, Any]]:
        """The result as a table: one dictionary of plain values per group, ready for `csv.DictWriter` or pandas."""
        columns: dict[str, Sequence[Any]] = {
            "group": self.names,
            "overall_drop": self.overall_drop.tolist(),
            "overall_error": self.overall_error.tolist(),
            "max_class_drop": self.max_class_drop.tolist(),
            "worst_class": [self.class_name(target) for target in self.worst_class.tolist()],
            "idle_share": (self.idle / self.n_images).tolist(),
        }
        if self.traits:
            columns |= {name: getattr(self.traits, name).tolist() for name in TRAITS}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def class_name(self, target: int) -> str:
        """The name of a class, or its number."""
        return self.class_names[target] if self.class_names else str(target)

    def _check_class(self, target: int) -> None:
        if not 0 <= target < len(self.total):
            raise BadInput(f"class {target} is out of range: the model has {len(self.total)}.")


def correlate(x: Float[Tensor, " u"], y: Float[Tensor, " u"], kind: Kind, level: float = 0.95) -> Correlation:
    """Over the rows where both are known; NaN where fewer than four are, or where one of the two is constant."""
    known = x.isfinite() & y.isfinite()
    x, y, n = x[known].double(), y[known].double(), int(known.sum())
    if kind == "spearman":
        x, y = ranks(x), ranks(y)
    if n < 4 or bool((x == x[0]).all()) or bool((y == y[0]).all()):
        return Correlation(kind, torch.nan, torch.nan, torch.nan, n)
    r = float(torch.corrcoef(torch.stack([x, y]))[0, 1].clamp(-1, 1))
    if abs(r) > 1 - 1e-12:
        return Correlation(kind, r, r, r, n)
    spread = sqrt(1 + r * r / 2) if kind == "spearman" else 1.0
    reach = NormalDist().inv_cdf(0.5 + level / 2) * spread / sqrt(n - 3)
    return Correlation(kind, r, tanh(atanh(r) - reach), tanh(atanh(r) + reach), n)


def ranks(values: Float[Tensor, " u"]) -> Float[Tensor, " u"]:
    """Places in ascending order, equals at the mean of theirs."""
    _, place, count = values.unique(return_inverse=True, return_counts=True)
    return (count.cumsum(0) - (count - 1) / 2)[place]


def _paired_error(lost: Tensor, won: Tensor, total: Tensor) -> Tensor:
    return (lost + won - (lost - won).square() / total).clamp(min=0).sqrt() / total
