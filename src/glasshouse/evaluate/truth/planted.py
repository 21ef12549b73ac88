"""What was said of a model's inside, held against what was planted there."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from math import isfinite, nan, sqrt
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from glasshouse.core import BadInput, NotFound, Noun
from glasshouse.core.result import Direction
from glasshouse.data import Scenes
from glasshouse.data.glass import Glass
from glasshouse.evaluate.inside.concepts import direction_cosine
from glasshouse.evaluate.truth.tracks import levelled

Pair: TypeAlias = tuple[int, str]
"""A unit, and the concept that it stands for."""


@dataclass(frozen=True, repr=False)
class PlantedRow(Noun):
    """One number against what was planted.

    Args:
        stderr: over what was planted: pairs, concepts or classes; not-a-number where there is one only.
        chance: what is got by drawing at random; None where that is not known.
    """

    name: str
    value: float
    stderr: float
    chance: float | None
    direction: Direction

    def __repr__(self) -> str:
        chance = "" if self.chance is None else f", chance {self.chance:.2f}"
        return f"PlantedRow({self.name} {self.value:.3f} ± {self.stderr:.3f}{chance})"

    @property
    def tolerance(self) -> float:
        """How far a later value may lie from this one: two standard errors, and 0.02 in any case."""
        return max(0.02, 2 * self.stderr if isfinite(self.stderr) else 0.0)


@dataclass(frozen=True, repr=False)
class PlantedTable(Noun):
    """What was planted and how much of it was found, a row for each question."""

    rows: tuple[PlantedRow, ...]

    def __repr__(self) -> str:
        return f"PlantedTable({', '.join(f'{row.name} {row.value:.2f}' for row in self.rows)})"

    def __getitem__(self, name: str) -> PlantedRow:
        for row in self.rows:
            if row.name == name:
                return row
        raise NotFound(f"no row '{name}'.", f"There are {', '.join(row.name for row in self.rows)}.")

    @property
    def means(self) -> dict[str, tuple[float, float]]:
        """Values and standard errors by name, as `numbers` takes them."""
        return {row.name: (row.value, row.stderr) for row in self.rows}

    def table(self) -> str:
        """The table in Markdown."""
        lines = ["| | found | chance | tolerance |", "|---|---|---|---|"]
        for row in self.rows:
            error = f" ± {row.stderr:.2f}" if isfinite(row.stderr) else ""
            chance, arrow = "–" if row.chance is None else f"{row.chance:.2f}", " ↓" if row.direction == "down" else ""
            lines.append(f"| {row.name}{arrow} | {row.value:.2f}{error} | {chance} | {row.tolerance:.2f} |")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, repr=False)
class Planted(Noun):
    """How many planted pairs of unit and concept were found.

    Args:
        right: pairs that were found and are true.
        wrong: pairs that were found and are not.
        missed: true pairs that were not found.
    """

    right: tuple[Pair, ...]
    wrong: tuple[Pair, ...]
    missed: tuple[Pair, ...]

    @property
    def precision(self) -> float:
        """Share of what was found that is true; 1 if nothing was found."""
        found = len(self.right) + len(self.wrong)
        return len(self.right) / found if found else 1.0

    @property
    def recall(self) -> float:
        """Share of what is true that was found."""
        return len(self.right) / (len(self.right) + len(self.missed))

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0

    def __repr__(self) -> str:
        return f"Planted(precision {self.precision:.2f}, recall {self.recall:.2f}, F1 {self.f1:.2f})"


def planted_pairs(found: Collection[Pair], truth: Collection[Pair]) -> Planted:
    """Precision and recall of pairs of unit and concept against those that were planted.

    Args:
        found: what dissection says: detectors and their concepts.
        truth: what is so, as `Truth.units` and `Truth.concept_names` of a glass model tell.
    """
    if not truth:
        raise BadInput("nothing was planted, so nothing can be found.", "Give the true pairs of unit and concept.")
    said, so = set(found), set(truth)
    right, wrong, missed = (tuple(sorted(each)) for each in (said & so, said - so, so - said))
    return Planted(right, wrong, missed)


def labelled_by(model: Glass, scenes: Scenes) -> Scenes:
    """The scenes with a glass model's own regions for colours: labels that mean what was planted, and nothing else.

    The colours of scenes are named as people name them, so that a ground may be "red" which the model calls nothing.
    """
    regions, names = model.truth.regions(model.preprocess.normalise(scenes.images)), model.truth.region_names
    numbers = torch.arange(1, len(names) + 1, device=regions.device)[:, None, None]
    return replace(
        scenes,
        labels={**scenes.labels, "color": (regions * numbers).sum(1)},
        vocabulary={**scenes.vocabulary, "color": ("-", *names)},
    )


def planted_units(
    found: Collection[Pair],
    truth: Collection[Pair],
    *,
    n_units: int,
    n_concepts: int,
    iou: tuple[Float[Tensor, " u"], Float[Tensor, " u"]] | None = None,
    invented: tuple[int, int] | None = None,
) -> PlantedTable:
    """How much of what was planted in single units dissection finds, and how much it makes up.

        precision = right / found,   recall = right / true,   F1 = 2 right / (found + true)
        IoU error = mean over units of |IoU told - IoU counted|,   false positives = detectors / units of a random net

    Errors are binomial. By chance: as many pairs as were found, drawn from all `n_units` · `n_concepts`.

    Args:
        found, truth: as for `planted_pairs`.
        iou: of each unit and its concept, as dissection tells it, and as it is.
        invented: detectors found in a net that knows no concept, and units it has.
    """
    pairs, n_found, n_true = planted_pairs(found, truth), len(set(found)), len(set(truth))
    if max(n_found, n_true) > n_units * n_concepts:
        raise BadInput(f"{max(n_found, n_true)} pairs of {n_units} units and {n_concepts} concepts.")
    right, each, recall = len(pairs.right), n_units * n_concepts, pairs.recall
    spread = sqrt(n_true * recall * (1 - recall))  # of the number that is right
    rows = [
        PlantedRow("precision", pairs.precision, of_share(pairs.precision, n_found), n_true / each, "up"),
        PlantedRow("recall", recall, spread / n_true, n_found / each, "up"),
        PlantedRow(
            *("F1", 2 * right / (n_found + n_true), 2 * spread / (n_found + n_true)),
            *(2 * n_found * n_true / each / (n_found + n_true), "up"),
        ),
    ]
    if iou is not None:
        rows.append(over("IoU error", (iou[0].double() - iou[1].double()).abs(), None, "down"))
    if invented is not None:
        share = invented[0] / invented[1]
        rows.append(PlantedRow("false positives", share, of_share(share, invented[1]), None, "down"))
    return PlantedTable(tuple(rows))


def planted_concepts(
    directions: Float[Tensor, "c d"] | Float[Tensor, "r c d"],
    planted: Float[Tensor, "c d"],
    *,
    reliance: tuple[Float[Tensor, "_ _"], Float[Tensor, "_ _"]] | None = None,
    coefficients: tuple[Float[Tensor, "_ _"], Float[Tensor, "_ _"]] | None = None,
) -> PlantedTable:
    """Whether concept vectors point where concepts were planted, and whether what classes make of them is told right.

        cosine = mean over concepts of  v · q / (|v| |q|)
        reliance tau = mean over classes of  Σ sign(a_i - a_j) sign(t_i - t_j) / Σ |sign(t_i - t_j)|,   i < j concepts
        coefficient error = mean |s - t|,   coefficient cosine = mean over classes of  s · t / (|s| |t|)

    Tau is Kendall's over the pairs that the truth tells apart (Somers' D): ties that are there are no fault. Kim et
    al., "TCAV", ICML 2018, and Zhou et al., "Interpretable basis decomposition", ECCV 2018, made what is tested here.
    By chance: directions drawn evenly, and coefficients of a class in any order.

    Args:
        directions: one per concept, or those of r runs.
        reliance: `c k`, of k classes on each concept, as it is told (`Tcav.slope`), and as it is (ahead of a linear
            head: direction · weights).
        coefficients: `k c`, of each class's vector, as told and as they are; 0 for concepts that were not chosen. Both
            may be about other concepts than `directions`.
    """
    aligned = direction_cosine(directions, planted)
    row = over("cosine", aligned.cosine, 0.0, "up")
    error = float(aligned.stderr[0]) if directions.ndim == 3 and len(planted) == 1 else row.stderr
    rows = [PlantedRow(row.name, row.value, error, row.chance, row.direction)]
    for name, pair in (("reliance", reliance), ("coefficients", coefficients)):
        if pair is not None and pair[0].shape != pair[1].shape:
            raise BadInput(
                f"{name} {tuple(pair[0].shape)} told, {tuple(pair[1].shape)} true.", "Give the same of each."
            )
    if reliance is not None:
        rows.append(over("reliance tau", in_order(reliance[0].T, reliance[1].T), 0.0, "up"))
    if coefficients is not None:
        told, true = (side.double() for side in coefficients)
        any_order = (told[:, :, None] - true[:, None]).abs().mean((1, 2))
        rows.append(over("coefficient error", (told - true).abs().mean(1), float(any_order.mean()), "down"))
        unit, goal = F.normalize(told), F.normalize(true)
        chance = float((unit.mean(1) * goal.sum(1)).mean())
        rows.append(over("coefficient cosine", (unit * goal).sum(1), chance, "up"))
    return PlantedTable(tuple(rows))


def in_order(told: Float[Tensor, "k c"], true: Float[Tensor, "k c"]) -> Float[Tensor, " k"]:
    """Share of the pairs of each row that the truth tells apart which are in its order, less that in the opposite."""
    said, so = ((side[:, :, None] - side[:, None]).sign() for side in (levelled(told), levelled(true)))
    return (said * so).sum((1, 2)) / so.abs().sum((1, 2))


def of_share(share: float, n: int) -> float:
    """Standard error of a share of n; not-a-number of none."""
    return sqrt(share * (1 - share) / n) if n else nan


def over(name: str, values: Float[Tensor, " m"], chance: float | None, direction: Direction) -> PlantedRow:
    """The mean of those values that there are, and its standard error."""
    known = values[values.isfinite()].double()
    error = float(known.std()) / sqrt(len(known)) if len(known) > 1 else nan
    return PlantedRow(name, float(known.mean()), error, chance, direction)
