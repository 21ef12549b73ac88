"""Reading all of a data set in Broden's format, to list everything that is wrong with it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from glasshouse.core.errors import BadInput
from glasshouse.core.result import Noun
from glasshouse.core.types import Progress
from glasshouse.data.segmentation_labels import Complain, Problem, Record, Tables
from glasshouse.data.segmentation_pngs import read_labels, read_pixels
from glasshouse.data.segmentation_tables import CATEGORY_COLUMNS, INDEX_COLUMNS, read_records, read_rows, read_tables


@dataclass(frozen=True, repr=False)
class Check(Noun):
    """What is wrong with a data set on disk: nothing if `ok`.

    Args:
        n_planes: label maps that were read.
    """

    path: str
    n_images: int
    n_planes: int
    n_labels: int
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def __repr__(self) -> str:
        n = len(self.problems)
        found = f"{n} problem{'s' * (n > 1)}; first: {self.problems[0]!r}" if n else "no problem"
        seen = f"{self.n_images} images, {self.n_planes} label maps, {self.n_labels} labels"
        return f"Check({Path(self.path).name}, {seen}, {found})"


def check_broden(path: str | os.PathLike[str], *, progress: Progress | None = None) -> Check:
    """Everything that is wrong with a data set in Broden's format; all its files are read.

    Counts of images and shares of pixels are compared between the tables, not counted again: in the original
    release they were taken before images were resized.

    Args:
        progress: called with (images done, images in all).
    """
    path = Path(path)
    if not path.is_dir():
        raise BadInput(f"no folder '{path}'.", "Give the folder that holds index.csv.")
    problems: list[Problem] = []
    tables = read_tables(path, problems.append)
    _compare_tables(path, tables, problems.append)
    records: list[Record] = []
    for record, wrong in read_records(path, tables, tuple(tables.members)):
        problems += wrong
        if record is not None:
            records.append(record)
    for done, record in enumerate(records):
        _check_files(path, record, tables, problems.append)
        if progress:
            progress(done + 1, len(records))
    n_planes = sum(len(record.planes) for record in records)
    return Check(str(path), len(records), n_planes, len(tables.entries), tuple(problems))


def _compare_tables(path: Path, tables: Tables, complain: Complain) -> None:
    """Where one table says what another does not."""
    for row in read_rows(path / "category.csv", CATEGORY_COLUMNS, lambda _: None):
        members = tables.members.get(row.cells["name"])
        if not members:
            continue
        counted = {
            "first": min(members),
            "last": max(members),
            "count": len(members),
            "frequency": sum(member.frequency for member in members.values()),
        }
        for column, value in counted.items():
            if row.integer(column) != value:
                table = f"c_{row.cells['name']}.csv"
                complain(Problem(row.file, row.line, column, f"is {row.cells[column]}, and {value} by {table}"))
    for number, entry in tables.entries.items():
        listed = {category: codes[number] for category, codes in tables.members.items() if number in codes}
        seen = {category: member.frequency for category, member in listed.items()}
        if seen != dict(entry.counts):
            text = ", ".join(f"{category}({count})" for category, count in seen.items())
            complain(Problem("label.csv", entry.line, "category", f"the tables of the categories say {text}"))
        if entry.frequency != sum(entry.counts.values()):
            total = sum(entry.counts.values())
            complain(Problem("label.csv", entry.line, "frequency", f"is {entry.frequency}, but the sum is {total}"))
        for category, member in listed.items():
            if member.name != entry.name:
                message = f"label {number} is '{member.name}' here and '{entry.name}' in label.csv"
                complain(Problem(f"c_{category}.csv", None, "name", message))
    for category, members in tables.members.items():
        codes = sorted(member.code for member in members.values())
        if codes != list(range(1, len(codes) + 1)):
            complain(Problem(f"c_{category}.csv", None, "code", f"codes are not 1…{len(codes)}"))
        for number in members.keys() - tables.entries.keys():
            complain(Problem(f"c_{category}.csv", None, "number", f"label {number} is not in label.csv"))
    for row in read_rows(path / "index.csv", INDEX_COLUMNS, lambda _: None):
        for column in row.cells.keys() - {*INDEX_COLUMNS, *tables.members}:
            complain(Problem(row.file, 1, column, "is no category of category.csv"))
        break


def _check_files(path: Path, record: Record, tables: Tables, complain: Complain) -> None:
    """An image and its label maps: whether they are there, readable, of the right size and of their category."""

    def attempt(column: str, read: Callable[[], object]) -> None:
        try:
            read()
        except BadInput as error:
            complain(Problem("index.csv", record.line, column, error.message.rstrip(".")))

    def check_numbers(category: str, numbers: set[int], where: str) -> None:
        if strange := sorted(numbers - tables.members[category].keys() - {0}):
            listed = ", ".join(map(str, strange[:5])) + (", …" if len(strange) > 5 else "")
            complain(Problem("index.csv", record.line, category, f"{where} has {listed}, not in c_{category}.csv"))

    def read_plane(category: str, file: str) -> None:
        numbers = read_labels(path / "images" / file, record.plane_size)
        check_numbers(category, set(numbers.unique().tolist()), f"'{file}'")

    if record.image:
        attempt("image", lambda: read_pixels(path / "images" / record.image, record.image_size))
    for category, file in record.planes:
        attempt(category, lambda category=category, file=file: read_plane(category, file))
    for category, number in record.whole:
        check_numbers(category, {number}, "the cell")
