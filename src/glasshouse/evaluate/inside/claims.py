"""Is it true that a unit detects a concept, and that a class needs it?"""

from dataclasses import dataclass, field
from math import nan
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.core import BadInput, Noun, Units, generator, resize
from glasshouse.evaluate.agreement import spearman_over
from glasshouse.evaluate.inside.rates import N_RESAMPLES, Rate, bootstrap, checked_level, limits

AT_ONCE = 2**24  # pixels of marks


@dataclass(frozen=True, repr=False)
class DetectionAccuracy(Noun):
    """How well each of u units detects the concept that is claimed of it, in images kept for this.

    Args:
        claims: the concept of each unit.
        found, present: images with the concept in which the unit is on, and all of them.
        spared, absent: images without it in which the unit is off, and all of them.
        iou: of the pixels; iou_stderr: over images, NaN where fewer than two have any of these pixels; iou_chance:
            expected if the unit saw another image, NaN for one image.
        precision, recall: share of the unit's pixels that are the concept's, and the other way round.
    """

    claims: Int[Tensor, " u"]
    found: Int[Tensor, " u"]
    present: Int[Tensor, " u"]
    spared: Int[Tensor, " u"]
    absent: Int[Tensor, " u"]
    iou: Float[Tensor, " u"]
    iou_stderr: Float[Tensor, " u"]
    iou_chance: Float[Tensor, " u"]
    precision: Float[Tensor, " u"]
    recall: Float[Tensor, " u"]

    def __repr__(self) -> str:
        return (
            f"DetectionAccuracy({len(self.claims)} units, balanced {float(self.balanced.nanmean()):.3f}, chance 0.5, "
            f"IoU {float(self.iou.nanmean()):.3f}, chance {float(self.iou_chance.nanmean()):.3f})"
        )

    @property
    def balanced(self) -> Float[Tensor, " u"]:
        """(true positive rate + true negative rate) / 2 over images; 0.5 is chance; NaN where one kind is missing."""
        return (self.found / self.present.double() + self.spared / self.absent.double()) / 2

    @property
    def stderr(self) -> Float[Tensor, " u"]:
        """Standard error of `balanced`, from shares (hits + 1/2) / (n + 1), so that it is not 0 where all are hits."""
        hits, total = torch.stack([self.found, self.spared]), torch.stack([self.present, self.absent]).double()
        share = (hits + 0.5) / (total + 1)
        return (share * (1 - share) / total).sum(0).sqrt() / 2

    def sensitivity(self, unit: int, level: float = 0.95) -> Rate:
        """Share of the images with the concept in which the unit is on."""
        return Rate(int(self.found[unit]), int(self.present[unit]), level)

    def specificity(self, unit: int, level: float = 0.95) -> Rate:
        """Share of the images without the concept in which the unit is off."""
        return Rate(int(self.spared[unit]), int(self.absent[unit]), level)


def detection_accuracy(
    maps: Units,
    masks: Bool[Tensor, "m c h w"],
    thresholds: Float[Tensor, " u"],
    claims: Int[Tensor, " u"],
) -> DetectionAccuracy:
    """Whether a unit that is said to detect a concept does so in images that played no part in saying it.

        balanced = (P(unit on somewhere | concept there) + P(unit on nowhere | concept not there)) / 2
        IoU = sum_x |M(x) ∩ L(x)| / sum_x |M(x) ∪ L(x)|,   M = enlarged map > threshold

    Bau et al., "Network Dissection", CVPR 2017, sec. 2, on other images than those that concept and threshold were
    chosen on: the best of many concepts looks better than it is.

    Args:
        maps: of the claimed units, in held-out images; they are enlarged bilinearly to the masks.
        thresholds: of each unit, as they were found (`Dissection.threshold`).
        claims: the concept of each unit, a column of `masks`.
    """
    check(maps, masks, thresholds)
    truth, columns = masks.detach().cpu(), claims.detach().cpu().long()
    if len(columns) != maps.shape[1] or bool(((columns < 0) | (columns >= masks.shape[1])).any()):
        raise BadInput(f"claims {columns.tolist()[:8]} are not columns 0…{masks.shape[1] - 1}, one for each unit.")
    counts, sums = list[Tensor](), list[Tensor]()
    for rows in batches(maps, masks):
        marks, concept = marked(maps[rows], thresholds, masks), truth[rows][:, columns]
        shared, either = (marks & concept).flatten(2).sum(2), (marks | concept).flatten(2).sum(2)
        counts.append(torch.stack([shared, either, marks.flatten(2).sum(2), concept.flatten(2).sum(2)]))
        sums.append(torch.stack([marks.sum(0), concept.sum(0)]))
    shared, either, mine, real = torch.cat(counts, 1).double()
    where_marks, where_concept = torch.stack(sums).sum(0).double()
    on, there, n = mine > 0, real > 0, len(truth)
    iou = shared.sum(0) / either.sum(0)
    spread = ((shared - iou * either).square().sum(0) * n / max(n - 1, 1)).sqrt() / either.sum(0)
    spread = spread.masked_fill((either > 0).sum(0) < 2, nan)
    pairs = (where_marks * where_concept).flatten(1).sum(1) - shared.sum(0)  # of an image's marks and another's concept
    expected = pairs / (n - 1) if n > 1 else torch.full_like(pairs, nan)
    return DetectionAccuracy(
        columns,
        (on & there).sum(0),
        there.sum(0),
        (~on & ~there).sum(0),
        (~there).sum(0),
        iou,
        spread,
        expected / (mine.sum(0) + real.sum(0) - expected),
        shared.sum(0) / mine.sum(0),
        shared.sum(0) / real.sum(0),
    )


@dataclass(frozen=True, repr=False)
class OverlapNull(Noun):
    """The IoU of u units and c concepts beside what it would be with the labels of other images.

    Args:
        null_mean, null_std: over random orders of the labels.
        p_value: share of the orders with as large an IoU, for a pair that was named beforehand.
        corrected: share in which *any* of the c concepts has as large an IoU with the unit: for the best of them.
        familywise: share in which any unit has one with any concept: for the best of all.
    """

    iou: Float[Tensor, "u c"]
    null_mean: Float[Tensor, "u c"]
    null_std: Float[Tensor, "u c"]
    p_value: Float[Tensor, "u c"]
    corrected: Float[Tensor, "u c"]
    familywise: Float[Tensor, "u c"]
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        u, c = self.iou.shape
        found = int((self.corrected.amin(1) <= 0.05).sum())
        everywhere = int((self.familywise.amin(1) <= 0.05).sum())
        return (
            f"OverlapNull({u} units × {c} concepts: {found} at 5 % for each unit, {everywhere} at 5 % for all of them)"
        )

    @property
    def best(self) -> Int[Tensor, " u"]:
        """The concept that each unit overlaps most."""
        return self.iou.argmax(1)

    def significant(self, level: float = 0.05) -> Bool[Tensor, " u"]:
        """Units whose best concept stands at this level, given that all concepts of all units were tried."""
        return self.familywise.gather(1, self.best[:, None])[:, 0] <= level


def iou_null(
    maps: Units,
    masks: Bool[Tensor, "m c h w"],
    thresholds: Float[Tensor, " u"],
    *,
    n_shuffles: int = 200,
    seed: int = 0,
) -> OverlapNull:
    """How often labels that belong to other images would overlap as much with what a unit marks.

        p_uc = (1 + #{orders: IoU'_uc >= IoU_uc}) / (1 + n_shuffles)
        corrected_uc = (1 + #{orders: max_c' IoU'_uc' >= IoU_uc}) / (1 + n_shuffles)

    An order gives every image the labels of another, all concepts of it together, so that what position and size alone
    do stays in the null. The largest of them all is the correction of Westfall and Young, 1993: unlike Bonferroni's it
    loses nothing where concepts go together. Bau et al., CVPR 2017, give no p-values.

    Args:
        masks: of all concepts that were tried.
        thresholds: of each unit; found on other images, or else a p-value is only about the labels.
        n_shuffles: no p-value is below 1 / (1 + n_shuffles).
    """
    check(maps, masks, thresholds)
    n, u = maps.shape[:2]
    if n < 2 or n_shuffles < 1:
        raise BadInput(f"{n} images, n_shuffles={n_shuffles}: there is nothing to exchange.")
    truth, draw = masks.detach().cpu().flatten(2), generator(seed)
    orders = torch.stack([torch.arange(n), *(torch.randperm(n, generator=draw) for _ in range(n_shuffles))])
    shared = torch.zeros(len(orders), u, masks.shape[1], dtype=torch.float64)
    area = torch.zeros(u, dtype=torch.float64)
    for rows in batches(maps, masks):
        marks = marked(maps[rows], thresholds, masks).flatten(2).float()
        area += marks.double().sum((0, 2))
        for place, order in enumerate(orders):
            shared[place] += torch.einsum("nup,ncp->uc", marks, truth[order[rows]].float())
    iou = shared / (area[:, None] + truth.double().sum((0, 2)) - shared).clamp(min=1)
    seen, null = iou[0], iou[1:]

    def at_least(largest: Tensor) -> Tensor:
        return (1 + (largest >= seen - 1e-12).sum(0)).double() / (1 + n_shuffles)

    return OverlapNull(
        seen,
        null.mean(0),
        null.std(0) if n_shuffles > 1 else torch.full_like(seen, nan),
        at_least(null),
        at_least(null.amax(2, keepdim=True)),
        at_least(null.amax((1, 2), keepdim=True)),
        {"n_shuffles": n_shuffles, "seed": seed},
    )


def check(maps: Units, masks: Bool[Tensor, "m c h w"], thresholds: Float[Tensor, " t"]) -> None:
    """Raise unless there are as many images, and as many thresholds as units."""
    if len(maps) != len(masks) or not len(maps) or len(thresholds) != maps.shape[1]:
        raise BadInput(
            f"{len(maps)} images of maps of {maps.shape[1]} units, {len(masks)} of masks, {len(thresholds)} thresholds."
        )
    if not bool(maps.isfinite().all()):
        raise BadInput("some activations are not finite.")


def batches(maps: Units, masks: Bool[Tensor, "n c h w"]) -> tuple[Tensor, ...]:
    """Rows of as many images as fit at once."""
    pixels = (maps.shape[1] + masks.shape[1]) * masks.shape[2] * masks.shape[3]
    return torch.arange(len(maps)).split(max(1, AT_ONCE // pixels))


def marked(maps: Units, thresholds: Float[Tensor, " k"], masks: Bool[Tensor, "m c h w"]) -> Bool[Tensor, "n k h w"]:
    """The pixels above each unit's threshold."""
    values = maps.detach().cpu().to(torch.promote_types(maps.dtype, torch.float32))
    large = resize(values, (masks.shape[2], masks.shape[3]))
    return large > thresholds.detach().to(large)[:, None, None]


@dataclass(frozen=True, repr=False)
class AblationSpecificity(Noun):
    """Whether units hurt most, when they go, the classes that they prefer.

    Args:
        per_unit: rank correlation over classes; NaN for units that hurt, or prefer, all classes alike.
        stderr, interval: of the mean over units, by bootstrap.
    """

    per_unit: Float[Tensor, " u"]
    stderr: float
    interval: tuple[float, float]
    chance: float = 0.0

    def __repr__(self) -> str:
        known = int(self.per_unit.isfinite().sum())
        return (
            f"AblationSpecificity({self.value:.3f} ± {self.stderr:.3f}, chance 0, "
            f"{known} of {len(self.per_unit)} units, higher is better)"
        )

    @property
    def value(self) -> float:
        """Mean over the units that have a value."""
        return float(self.per_unit.nanmean())


def ablation_specificity(
    damage: Float[Tensor, "u c"],
    selectivity: Float[Tensor, "v c"],
    *,
    level: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> AblationSpecificity:
    """Whether a class loses most without the units that prefer it: if not, selectivity says nothing of use.

        rho_u = Spearman correlation over classes of damage_uc and selectivity_uc;   value = mean_u rho_u

    Zhou, Sun, Bau and Torralba, "Revisiting the importance of individual units in CNNs via ablation", 2018; Morcos et
    al., ICLR 2018, found that selective units are not more important overall. Classes that are not-a-number for a unit
    are left out for this unit; ranks need three.

    Args:
        damage: fall of each class's accuracy without each unit, as `Ablation.damage`.
        selectivity: how much each unit prefers each class. Mean activations (`Selectivity.means`) give the same ranks
            as (m_c - m_rest) / (m_c + m_rest) where they are not negative.
    """
    if damage.shape != selectivity.shape or damage.shape[0] < 1:
        raise BadInput(f"damage {tuple(damage.shape)} and selectivity {tuple(selectivity.shape)}: one row per unit.")
    first, second = damage.detach().cpu().double(), selectivity.detach().cpu().double()
    known, checked = first.isfinite() & second.isfinite(), checked_level(level)
    if (most := int(known.sum(1).max())) < 3:
        raise BadInput(f"only {most} classes have damage and selectivity.", "Ranks need three or more.")
    rho, _ = spearman_over(first, second, known)
    usable = rho[rho.isfinite()]
    if len(usable) < 2:
        return AblationSpecificity(rho, nan, (nan, nan))
    drawn = bootstrap(lambda rows: float(usable[rows].mean()), len(usable), seed, n_resamples)
    return AblationSpecificity(rho, float(drawn.std()), limits(drawn, checked))
