"""What was said of a model's inside, held against what was planted there."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias

from glasshouse.core import BadInput, Noun

Pair: TypeAlias = tuple[int, str]
"""A unit, and the concept that it stands for."""


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
