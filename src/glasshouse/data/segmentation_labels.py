"""What a data set with label maps says of its labels and its images, once its tables are read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from glasshouse.core.errors import BadInput
from glasshouse.core.labelled import Label
from glasshouse.core.result import Noun


@dataclass(frozen=True, repr=False)
class Problem(Noun):
    """One thing that is wrong with a data set on disk.

    Args:
        file: relative to the folder of the data set.
        row: line of the file, the first one being 1; None where the whole file is meant.
    """

    file: str
    row: int | None
    column: str | None
    message: str

    def __repr__(self) -> str:
        row = "" if self.row is None else f", line {self.row}"
        column = "" if self.column is None else f", column '{self.column}'"
        return f"{self.file}{row}{column}: {self.message}"


Complain: TypeAlias = Callable[[Problem], None]
"""What is done about a problem: raise it, or note it and go on."""


def refuse(problem: Problem) -> None:
    """Raise the first problem that is met."""
    raise BadInput(f"{problem!r}.", "Mend it; check_broden(path) lists all there is to mend.")


@dataclass(frozen=True)
class Codes:
    """The labels of one category, numbered without gaps from 1, the most frequent first.

    Args:
        numbers: the label's number for each code; 0 for code 0, which is no label.
    """

    category: str
    numbers: tuple[int, ...]

    def to_numbers(self, codes: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """Label numbers in place of codes."""
        return torch.tensor(self.numbers, device=codes.device)[codes]

    def to_codes(self, numbers: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """Codes in place of label numbers; 0 for labels that are not of this category."""
        table = torch.zeros(max(self.numbers, default=0) + 2, dtype=torch.long)
        table[list(self.numbers)] = torch.arange(len(self.numbers))
        table[0] = 0
        return table.to(numbers.device)[numbers.clamp(0, len(table) - 1)]


@dataclass(frozen=True, slots=True)
class Record:
    """One row of the index: an image, and what is marked in it.

    Args:
        line: in `index.csv`.
        image: path below `images/`.
        image_size, plane_size: height and width in pixels, of the image and of its label maps.
        planes: category and path of each label map, the dominant one of a category first.
        whole: category and number of each label that holds for the whole image.
    """

    line: int
    image: str
    split: str
    image_size: tuple[int, int]
    plane_size: tuple[int, int]
    planes: tuple[tuple[str, str], ...]
    whole: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Member:
    """What one `c_<category>.csv` says of a label."""

    code: int
    name: str
    frequency: int
    coverage: float


@dataclass(frozen=True)
class Entry:
    """What `label.csv` says of a label."""

    line: int
    name: str
    counts: Mapping[str, int]
    frequency: int
    coverage: float
    synonyms: tuple[str, ...]


@dataclass(frozen=True)
class Tables:
    """Everything but the index. `members` has a mapping from label number for each category, in their order."""

    entries: Mapping[int, Entry]
    members: Mapping[str, Mapping[int, Member]]

    def labels(self, categories: Sequence[str]) -> tuple[Label, ...]:
        """The labels that appear in some categories, by number. Equal coverage goes to the later category."""
        found: list[Label] = []
        for number, entry in sorted(self.entries.items()):
            covered = [
                (self.members[category][number].coverage, place)
                for place, category in enumerate(categories)
                if number in self.members[category]
            ]
            if covered:
                category = categories[max(covered)[1]]
                found.append(Label(number, entry.name, category, entry.frequency, entry.coverage, entry.synonyms))
        return tuple(found)

    def codes(self, category: str) -> Codes:
        """The dense numbering of one category."""
        numbers = {member.code: number for number, member in self.members[category].items()}
        return Codes(category, tuple(numbers.get(code, 0) for code in range(max(numbers, default=0) + 1)))
