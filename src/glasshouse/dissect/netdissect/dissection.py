"""What Network Dissection found: how far each unit is a detector of each concept."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.core import NotFound, Noun
from glasshouse.core.labelled import Label, find_labels
from glasshouse.core.stats.student import t_limit
from glasshouse.dissect.netdissect.tally import Best, Rule, Tally

Measure: TypeAlias = Literal["iou", "iqr"]


@dataclass(frozen=True, repr=False)
class Dissection(Noun):
    """Pixels of u units of a layer, of c concepts, and what they share, in g random groups of images.

    Args:
        units: numbers of the units in the layer.
        labels: the concepts, in the order of the columns.
        threshold: of each unit's activation; it marks what is above.
        level: share of activations below the threshold that was aimed at.
        n_for_threshold: images that thresholds were read off; 0 where they were given.
        shared: pixels that the unit marks and that carry the label.
        area: pixels that the unit marks, in images with anything marked in each category, and (last) in all images.
        truth: pixels that carry the label.
        n_images: in each group; n_pixels: in each image; n_marked: images with anything marked in each category.
        chance: pixels that would be shared if every unit saw another image than the one whose labels are looked at.
        local: whether area counts only images in which the concept's category is marked (2017), or all (2020).
        min_iou: a detector has more.
        rank_error: how far the true share below the threshold may be from `level`; 0 where it was counted.
    """

    layer: str
    units: Int[Tensor, " u"]
    labels: tuple[Label, ...]
    categories: tuple[str, ...]
    threshold: Float[Tensor, " u"]
    level: float
    n_for_threshold: int
    shared: Int[Tensor, "g u c"]
    area: Int[Tensor, "g u k"]
    truth: Int[Tensor, "g c"]
    n_images: Int[Tensor, " g"]
    n_marked: Int[Tensor, " k"]
    n_pixels: int
    chance: Float[Tensor, "u c"]
    local: bool
    min_iou: float = 0.04
    rank_error: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        found = len(self.tally.unique("any"))
        return (
            f"Dissection({self.layer}, {len(self.units)} units, {int(self.n_images.sum())} images: "
            f"{int(self.detectors.sum())} detectors of {found} concepts)"
        )

    @cached_property
    def iou(self) -> Float[Tensor, "u c"]:
        """Shared pixels over pixels of either, summed over the data set first; 0 where there are none."""
        return self._ratio(self.shared.sum(0), self.area.sum(0), self.truth.sum(0))

    @property
    def chance_iou(self) -> Float[Tensor, "u c"]:
        """The IoU expected if every unit saw another image than the one whose labels are looked at.

        It is what position alone gives: sky is at the top of most images. Computed on a grid of 16×16 cells.
        """
        n, area = self.n_images.sum().clamp(min=1), self.area.sum(0)
        share = self.n_marked.double() / n if self.local else torch.ones(len(self.n_marked)).double()
        return self._ratio(self.chance, area[:, -1:] * share, self.truth.sum(0))

    @property
    def iqr(self) -> Float[Tensor, "u c"]:
        """Information quality ratio I(M; S) / H(M, S) of unit and concept over all pixels, 0…1 (Bau et al., 2020)."""
        total = float(self.n_images.sum() * self.n_pixels)
        shared = self.shared.sum(0).double()
        unit, concept = self.area.sum(0)[:, -1:].double(), self.truth.sum(0).double()
        cells = torch.stack([shared, unit - shared, concept - shared, total - unit - concept + shared]).clamp(min=0)
        joint = -torch.special.xlogy(cells / total, cells / total).sum(0)
        alone = torch.stack([_entropy(unit / total).expand_as(joint), _entropy(concept / total).expand_as(joint)])
        return ((alone.sum(0) - joint) / joint.clamp(min=1e-30)).clamp(0, 1)

    @cached_property
    def tally(self) -> Tally:
        """The best concept of each category for each unit, as published tables list them."""
        columns = [self._best_in(category) for category in self.categories]
        return Tally(self.layer, self.units, self.categories, tuple(zip(*columns, strict=True)), self.min_iou)

    @cached_property
    def best(self) -> Int[Tensor, " u"]:
        """The column of each unit's best concept."""
        return self.iou.argmax(1)

    @property
    def detectors(self) -> Bool[Tensor, " u"]:
        """Units whose best concept has more than `min_iou`."""
        return self.iou.amax(1) > self.min_iou

    @property
    def false_positive_rate(self) -> float:
        """Share of units that would be expected to be detectors if each saw other images than the ones labelled.

        Those have a `chance_iou` above `min_iou`: position alone makes them detectors.
        """
        return float((self.chance_iou.amax(1) > self.min_iou).double().mean())

    def interval(self, level: float = 0.95) -> Float[Tensor, "u 2"]:
        """Confidence limits for the IoU of each unit's best concept: how it would vary with other images.

        Delete-a-group jackknife over the g random groups, with Student's t. Not-a-number with fewer than two groups.
        """
        return self.limits(torch.arange(self._n), self.best, level)

    def limits(self, rows: Int[Tensor, " p"], columns: Int[Tensor, " p"], level: float = 0.95) -> Float[Tensor, "p 2"]:
        """Confidence limits for the IoU of any pairs of unit and concept."""
        used = self.n_images > 0
        n_groups = int(used.sum())
        if n_groups < 2:
            return torch.full((len(rows), 2), torch.nan)
        shared = self.shared[used][:, rows, columns].double()
        area = self.area[used][:, rows, self._place(columns)].double()
        truth = self.truth[used][:, columns].double()
        without = [part.sum(0) - part for part in (shared, area, truth)]
        left = without[0] / (without[1] + without[2] - without[0]).clamp(min=1)
        spread = ((n_groups - 1) / n_groups * (left - left.mean(0)).square().sum(0)).sqrt()
        middle, reach = self.iou[rows, columns].double(), t_limit(level, n_groups - 1) * spread
        return torch.stack([(middle - reach).clamp(min=0), (middle + reach).clamp(max=1)], 1)

    @property
    def significant(self) -> Bool[Tensor, " u"]:
        """Detectors whose IoU is above the one that position alone would give them, by more than other images change.

        At a level of 5 % for all c concepts together (Bonferroni), as the best of them is looked at: a unit whose maps
        have nothing to do with the labels passes with a probability of 2.5 % at most.
        """
        chance = self.chance_iou.gather(1, self.best[:, None])[:, 0]
        return self.detectors & (self.interval(1 - 0.05 / len(self.labels))[:, 0] > chance)

    def label(self, unit: int) -> Label:
        """The best concept of a unit, by its number in the layer."""
        return self.labels[int(self.best[self.row(unit)])]

    def of(self, concept: str | int) -> Float[Tensor, " u"]:
        """The IoU of every unit with one concept."""
        (label,) = find_labels(self.labels, [concept])
        return self.iou[:, self.labels.index(label)]

    def unique(self, rule: Rule = "any") -> tuple[str, ...]:
        """Concepts that have a detector; see `Tally.unique`."""
        return self.tally.unique(rule)

    def by_category(self, rule: Rule = "any") -> dict[str, int]:
        """How many concepts of each category have a detector."""
        return self.tally.by_category(rule)

    def to_csv(self, path: str | Path) -> Path:
        """Write the table in the published layout."""
        return self.tally.to_csv(path)

    def row(self, unit: int) -> int:
        """The row of a unit, by its number in the layer."""
        found = (self.units == unit).nonzero()
        if not len(found):
            raise NotFound(f"unit {unit} is not among the {len(self.units)} units of this result.")
        return int(found[0])

    @property
    def _n(self) -> int:
        return len(self.units)

    def _place(self, columns: Int[Tensor, " p"]) -> Int[Tensor, " p"]:
        """The column of `area` that belongs to each concept."""
        if not self.local:
            return torch.full_like(columns, len(self.categories))
        places = torch.tensor([self.categories.index(label.category) for label in self.labels])
        return places[columns]

    def _ratio(self, shared: Tensor, area: Tensor, truth: Tensor) -> Float[Tensor, "u c"]:
        place = self._place(torch.arange(len(self.labels)))
        return shared.double() / (area[:, place] + truth - shared).double().clamp(min=1)

    def _best_in(self, category: str) -> list[Best | None]:
        """Each unit's best concept of one category."""
        columns = torch.tensor([c for c, label in enumerate(self.labels) if label.category == category])
        if not len(columns):
            return [None] * self._n
        rows, best = torch.arange(self._n), columns[self.iou[:, columns].argmax(1)]
        shared, area, truth = (part.sum(0) for part in (self.shared, self.area, self.truth))
        counts = truth[best], area[rows, self._place(best)], shared[rows, best]
        names = [self.labels[column].name for column in best.tolist()]
        return [Best(name, *numbers) for name, *numbers in zip(names, *(x.tolist() for x in counts), strict=True)]


def _entropy(p: Tensor) -> Tensor:
    return -torch.special.xlogy(p, p) - torch.special.xlogy(1 - p, 1 - p)
