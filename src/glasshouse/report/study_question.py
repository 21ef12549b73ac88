"""Do the units that detect what a class is named for matter for that class? Dissection held against ablation."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan, sqrt

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from glasshouse.core.labelled import Label
from glasshouse.core.stats.student import t_limit
from glasshouse.dissect import Ablation, Dissection
from glasshouse.dissect.ablations.damage import Correlation, correlate
from glasshouse.study.alignment import class_parts, plain_name


@dataclass(frozen=True)
class Pairing:
    """A concept that classes are named for, and what taking units away one by one costs these classes.

    Args:
        units: the detectors whose best concept it is.
        own: mean fall of these classes' accuracy without one of them.
        others: without one of the other units.
        elsewhere: mean fall of the accuracy of all other classes without one of its units.
        correlation: over all units, of the IoU with the concept and the fall of these classes' accuracy (Spearman).
    """

    concept: Label
    classes: tuple[int, ...]
    units: tuple[int, ...]
    own: float
    others: float
    elsewhere: float
    correlation: Correlation


@dataclass(frozen=True)
class Answer:
    """Whether units that detect what a class is named for matter more for it than for other classes.

    Args:
        pairings: one per concept that classes are named for.
        n_units: detectors of these concepts.
        excess: their mean damage to classes of their concept, less that to the other classes.
        low, high: Student's 95 % interval of `excess` over units, which are taken for independent.
        n_harmful: those of them without which some class loses accuracy.
        hits: how many of these damage a class of their concept most.
        expected: how many would, if every class were equally likely to be damaged most.
    """

    pairings: tuple[Pairing, ...]
    n_units: int
    excess: float
    low: float
    high: float
    n_harmful: int
    hits: int
    expected: float


def answer(dissection: Dissection, ablation: Ablation) -> Answer:
    """Over the units that were both dissected and taken away by themselves."""
    ablated = {name: row for row, name in enumerate(ablation.names)}
    units = [unit for unit in dissection.units.tolist() if str(unit) in ablated]
    seen = torch.tensor([dissection.row(unit) for unit in units], dtype=torch.long)
    taken = torch.tensor([ablated[str(unit)] for unit in units], dtype=torch.long)
    iou, damage, tested = dissection.iou[seen], ablation.damage[taken], ablation.total > 0
    best, detects = dissection.best[seen], dissection.detectors[seen]
    worst, harmful = ablation.worst_class[taken], ablation.max_class_drop[taken] > 0
    parts = parts_of_classes(ablation)
    pairings: list[Pairing] = []
    excess: list[Tensor] = []
    n_harmful, hits, expected = 0, 0, 0.0
    for column, label in enumerate(dissection.labels):
        named = named_for(label, parts) & tested
        if not named.any():
            continue
        own = detects & (best == column)
        on_named = damage[:, named].mean(1)
        elsewhere = damage[:, ~named & tested].mean(1)
        pairings.append(
            Pairing(
                label,
                tuple(named.nonzero()[:, 0].tolist()),
                tuple(unit for unit, is_own in zip(units, own.tolist(), strict=True) if is_own),
                _mean(on_named, own),
                _mean(on_named, ~own),
                _mean(elsewhere, own),
                correlate(iou[:, column], on_named, "spearman"),
            )
        )
        excess.append((on_named - elsewhere)[own])
        n_harmful += (count := int((own & harmful).sum()))
        hits += int(named[worst[own & harmful]].sum())
        expected += count * float(named.sum() / tested.sum())
    differences = torch.cat(excess) if excess else torch.zeros(0)
    return Answer(tuple(pairings), len(differences), *_mean_interval(differences), n_harmful, hits, expected)


def parts_of_classes(ablation: Ablation) -> list[set[str]]:
    """What each class is named for."""
    return [class_parts(ablation.class_name(place)) for place in range(len(ablation.total))]


def named_for(label: Label, parts: Sequence[set[str]]) -> Bool[Tensor, " c"]:
    """The classes that are named for a concept."""
    names = label_names(label)
    return torch.tensor([not names.isdisjoint(those) for those in parts])


@dataclass(frozen=True)
class Group:
    """All units of a concept taken away together.

    Args:
        own: mean fall of the accuracy of the classes named for it, and its standard error over images.
        elsewhere: the same of all other classes.
        worst, drop: the class whose accuracy falls most, and how far.
    """

    concept: Label
    classes: tuple[int, ...]
    units: tuple[int, ...]
    own: tuple[float, float]
    elsewhere: tuple[float, float]
    worst: int
    drop: float


def grouped(dissection: Dissection, ablation: Ablation) -> tuple[Group, ...]:
    """The groups of an ablation that bear the name of a concept that classes are named for."""
    tested, found = ablation.total > 0, list[Group]()
    labels, parts = {label.name: label for label in reversed(dissection.labels)}, parts_of_classes(ablation)
    for row, (name, members) in enumerate(zip(ablation.names, ablation.members, strict=True)):
        if name not in labels:
            continue
        named = named_for(labels[name], parts)
        if not (named & tested).any():
            continue
        classes = tuple((named & tested).nonzero()[:, 0].tolist())
        own, elsewhere = (_fall(ablation, row, those & tested) for those in (named, ~named))
        worst, drop = int(ablation.worst_class[row]), float(ablation.max_class_drop[row])
        found.append(Group(labels[name], classes, members, own, elsewhere, worst, drop))
    return tuple(found)


def _fall(ablation: Ablation, row: int, classes: Bool[Tensor, " c"]) -> tuple[float, float]:
    error = ablation.damage_error[row, classes].square().sum().sqrt() / classes.sum()
    return float(ablation.damage[row, classes].mean()), float(error)


def trait_correlations(ablation: Ablation, dissection: Dissection | None) -> dict[str, Correlation]:
    """How traits of units, and their best IoU, go with the damage to the class that suffers most (Spearman)."""
    found: dict[str, Correlation] = {}
    if dissection is not None:
        known = dict(zip(map(str, dissection.units.tolist()), dissection.iou.amax(1).tolist(), strict=True))
        best = torch.tensor([known.get(name, nan) for name in ablation.names], dtype=torch.float64)
        found["iou"] = correlate(best, ablation.max_class_drop, "spearman")
    return found | ablation.correlations("max_class_drop")


def label_names(label: Label) -> set[str]:
    """The names of a concept as a class may bear them; Broden's scenes end in `-s`."""
    return {plain_name(name.removesuffix("-s")) for name in (label.name, *label.synonyms)} - {""}


def _mean(values: Float[Tensor, " u"], those: Bool[Tensor, " u"]) -> float:
    return float(values[those].mean()) if those.any() else nan


def _mean_interval(values: Float[Tensor, " u"]) -> tuple[float, float, float]:
    n = len(values)
    if n < 2:
        return (float(values.mean()) if n else nan), nan, nan
    middle, reach = float(values.mean()), t_limit(0.95, n - 1) * float(values.std()) / sqrt(n)
    return middle, middle - reach, middle + reach
