"""Counts behind an ablation: how predictions change without units, and how units respond to classes."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.core.stats.protocol import Counted


def _whole(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)


def _double(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)


@dataclass(eq=False, repr=False)
class Changes(Counted):
    """Which predictions change without each of g groups of units, for every class; whole numbers, on the CPU.

    Args:
        total, right, predicted: images of each class, of those the right ones, and images put into it.
        lost, won: images of each class that only the clean, or only the ablated network puts right.
        shift: by how many more images are put into each class.
        idle: images in which the removal changes nothing at the layer.
        reruns: pairs of an image and a group for which some of the network was run again.
    """

    total: Int[Tensor, " c"] = field(init=False, default_factory=lambda: _whole(0))
    right: Int[Tensor, " c"] = field(init=False, default_factory=lambda: _whole(0))
    predicted: Int[Tensor, " c"] = field(init=False, default_factory=lambda: _whole(0))
    lost: Int[Tensor, "g c"] = field(init=False, default_factory=lambda: _whole(0, 0))
    won: Int[Tensor, "g c"] = field(init=False, default_factory=lambda: _whole(0, 0))
    shift: Int[Tensor, "g c"] = field(init=False, default_factory=lambda: _whole(0, 0))
    idle: Int[Tensor, " g"] = field(init=False, default_factory=lambda: _whole(0))
    reruns: int = field(init=False, default=0)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.lost.shape)

    def update(
        self,
        targets: Int[Tensor, " n"],
        clean: Int[Tensor, " n"],
        top: Int[Tensor, "n g"],
        idle: Bool[Tensor, "n g"],
        n_classes: int,
        reruns: int = 0,
    ) -> None:
        """Classes of n images: the true ones, and those that win clean and without each group."""
        targets, clean, top = targets.cpu(), clean.cpu(), top.cpu()
        if 0 in self.shape:
            self.total, self.right, self.predicted = _whole(n_classes), _whole(n_classes), _whole(n_classes)
            self.lost, self.won, self.shift = (_whole(top.shape[1], n_classes) for _ in range(3))
            self.idle = _whole(top.shape[1])
        self.total += targets.bincount(minlength=n_classes)
        self.right += targets[clean == targets].bincount(minlength=n_classes)
        self.predicted += clean.bincount(minlength=n_classes)
        self.idle += idle.cpu().sum(0)
        self.reruns += reruns
        image, group = (top != clean[:, None]).nonzero(as_tuple=True)
        truth, before, after = targets[image], clean[image], top[image, group]
        for table, column, counted in (
            (self.lost, truth, before == truth),
            (self.won, truth, after == truth),
            (self.shift, after, slice(None)),
        ):
            _add(table, group[counted], column[counted], 1)
        _add(self.shift, group, before, -1)

    def _join(self, other: "Changes") -> None:
        for name in self._counted():
            setattr(self, name, getattr(self, name) + getattr(other, name))


def _add(table: Int[Tensor, "g c"], rows: Int[Tensor, " r"], columns: Int[Tensor, " r"], value: int) -> None:
    table.index_put_((rows, columns), torch.full_like(rows, value), accumulate=True)


@dataclass(eq=False, repr=False)
class Responses(Counted):
    """How strongly u units respond to each class, as sums in float64 over images.

    Args:
        count: images; `in_class` those of each class.
        activation, activation_squared: of each unit, averaged over its positions.
        probability, probability_squared: that the network gives each class.
        product: of the two.
        by_class: activation over the images of each class.
        peak: largest activation at any position.
        firing: share of an image's positions at which the unit is above 0.
    """

    count: int = field(init=False, default=0)
    in_class: Int[Tensor, " c"] = field(init=False, default_factory=lambda: _whole(0))
    activation: Float[Tensor, " u"] = field(init=False, default_factory=lambda: _double(0))
    activation_squared: Float[Tensor, " u"] = field(init=False, default_factory=lambda: _double(0))
    probability: Float[Tensor, " c"] = field(init=False, default_factory=lambda: _double(0))
    probability_squared: Float[Tensor, " c"] = field(init=False, default_factory=lambda: _double(0))
    product: Float[Tensor, "u c"] = field(init=False, default_factory=lambda: _double(0, 0))
    by_class: Float[Tensor, "u c"] = field(init=False, default_factory=lambda: _double(0, 0))
    peak: Float[Tensor, " u"] = field(init=False, default_factory=lambda: _double(0))
    firing: Float[Tensor, " u"] = field(init=False, default_factory=lambda: _double(0))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.product.shape)

    def update(
        self, targets: Int[Tensor, " n"], maps: Float[Tensor, "n u i j"], probabilities: Float[Tensor, "n c"]
    ) -> None:
        """Maps of n images, their classes, and what the clean network makes of them."""
        u, c, targets = maps.shape[1], probabilities.shape[1], targets.cpu()
        if 0 in self.shape:
            self.in_class, self.product, self.by_class = _whole(c), _double(u, c), _double(u, c)
            self.probability, self.probability_squared = _double(c), _double(c)
            self.activation, self.activation_squared, self.firing = _double(u), _double(u), _double(u)
            self.peak = torch.full((u,), -torch.inf, dtype=torch.float64)
        if not len(targets):
            return
        flat, p = maps.flatten(2), probabilities.cpu().double()
        a, above = flat.mean(2).cpu().double(), (flat > 0).float().mean(2).cpu().double()
        self.count += len(targets)
        self.in_class += targets.bincount(minlength=c)
        self.activation += a.sum(0)
        self.activation_squared += a.square().sum(0)
        self.probability += p.sum(0)
        self.probability_squared += p.square().sum(0)
        self.product.addmm_(a.T, p)
        self.by_class.index_add_(1, targets, a.T)
        self.peak = self.peak.maximum(flat.amax((0, 2)).cpu().double())
        self.firing += above.sum(0)

    def _join(self, other: "Responses") -> None:
        for name in self._counted():
            mine, theirs = getattr(self, name), getattr(other, name)
            setattr(self, name, mine.maximum(theirs) if name == "peak" else mine + theirs)

    def correlation(self) -> Float[Tensor, "u c"]:
        """Pearson's, over images, of each unit's activation and each class's probability; NaN where one is constant."""
        a, p = self.activation[:, None] / self.count, self.probability / self.count
        squared_a, squared_p = self.activation_squared[:, None] / self.count, self.probability_squared / self.count
        variances = [
            (squared - mean.square()).where(squared - mean.square() > 1e-12 * squared, torch.nan)
            for squared, mean in ((squared_a, a), (squared_p, p))
        ]
        return (self.product / self.count - a * p) / (variances[0] * variances[1]).sqrt()
