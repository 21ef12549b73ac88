"""The table of best concepts that Network Dissection publishes, and what is counted in it."""

import csv
import gzip
import io
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from glasshouse.core import BadInput, Noun

Rule: TypeAlias = Literal["any", "best"]
"""How units are counted: in every category in which they pass ("any", as published), or in their best one only."""
COUNTS = ("truth", "activation", "intersect")


@dataclass(frozen=True)
class Best(Noun):
    """The best concept of one category for one unit, with the pixels behind it.

    Args:
        truth: pixels that carry the label.
        activation: pixels that the unit marks, in images with anything marked in the label's category.
        intersect: pixels in both.
    """

    label: str
    truth: int
    activation: int
    intersect: int

    @property
    def iou(self) -> float:
        """intersect / (truth + activation - intersect), 0 where there are no pixels."""
        return self.intersect / max(self.truth + self.activation - self.intersect, 1)


@dataclass(frozen=True, repr=False)
class Tally(Noun):
    """For each unit the best concept of each category; None where a category has no concepts."""

    layer: str
    units: Int[Tensor, " u"]
    categories: tuple[str, ...]
    best: tuple[tuple[Best | None, ...], ...]
    min_iou: float = 0.04

    def __repr__(self) -> str:
        return (
            f"Tally({self.layer}, {len(self.units)} units: {self.n_detectors} detectors, "
            f"{len(self.unique('any'))} unique, {len(self.unique('best'))} by best category)"
        )

    @property
    def n_detectors(self) -> int:
        """Units that are a detector in any category."""
        return sum(any(self._passes(one) for one in row) for row in self.best)

    def winner(self, row: int) -> tuple[str, Best] | None:
        """Category and best concept of a unit, by its row in the table; equal ones go to the first category."""
        found = [(category, one) for category, one in zip(self.categories, self.best[row], strict=True) if one]
        return max(found, key=lambda pair: pair[1].iou) if found else None

    def detected(self, rule: Rule = "any") -> dict[str, Counter[str]]:
        """In each category, how many units detect each concept."""
        counts: dict[str, Counter[str]] = {category: Counter() for category in self.categories}
        for number, row in enumerate(self.best):
            winner = self.winner(number)
            for category, one in zip(self.categories, row, strict=True):
                if one and self._passes(one) and (rule == "any" or (winner and winner[0] == category)):
                    counts[category][one.label] += 1
        return counts

    def by_category(self, rule: Rule = "any") -> dict[str, int]:
        """How many different concepts of each category have a detector."""
        return {category: len(counts) for category, counts in self.detected(rule).items()}

    def unique(self, rule: Rule = "any") -> tuple[str, ...]:
        """Concepts that have a detector: the number of "unique detectors" is their number.

        A name that is a concept of two categories counts in both, as in the published totals.
        """
        return tuple(name for counts in self.detected(rule).values() for name in counts)

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write the table as the authors publish theirs: units from 1 on, the best first."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.tmp-{os.getpid()}")
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            columns = ("label", *COUNTS, "iou")
            heads = [f"{category}-{column}" for category in self.categories for column in columns]
            writer.writerow(["unit", "category", "label", "score", *heads])
            winners = [(row, *winner) for row in range(len(self.best)) if (winner := self.winner(row))]
            for row, category, best in sorted(winners, key=lambda one: -one[2].iou):
                cells: list[str | int | float] = []
                for one in self.best[row]:
                    cells += [one.label, one.truth, one.activation, one.intersect, one.iou] if one else [""] * 5
                writer.writerow([int(self.units[row]) + 1, category, best.label, best.iou, *cells])
        partial.replace(path)
        return path

    def _passes(self, one: Best | None) -> bool:
        return one is not None and one.iou > self.min_iou


def read_tally(path: str | os.PathLike[str], *, layer: str = "", min_iou: float = 0.04) -> Tally:
    """A table that `to_csv` or the authors' code wrote, `.csv` or `.csv.gz`. Units count from 0 in the result.

    Labels without a name are left out; the authors' table of ResNet-152 has some.
    """
    path = Path(path)
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8"))))
    if not rows or "unit" not in rows[0]:
        raise BadInput(f"'{path}' is no table of Network Dissection: it has no column 'unit'.")
    categories = tuple(name.removesuffix("-label") for name in rows[0] if name.endswith("-label"))
    rows.sort(key=lambda row: int(row["unit"]))
    best = tuple(tuple(_best(row, category) for category in categories) for row in rows)
    return Tally(layer, torch.tensor([int(row["unit"]) - 1 for row in rows]), categories, best, min_iou)


def _best(row: dict[str, str], category: str) -> Best | None:
    if not row[f"{category}-label"]:
        return None
    truth, activation, intersect = (int(float(row[f"{category}-{name}"])) for name in COUNTS)
    return Best(row[f"{category}-label"], truth, activation, intersect)
