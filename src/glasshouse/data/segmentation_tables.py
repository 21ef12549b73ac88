"""The tables of a Broden data set: what its labels are called, and what is annotated in which image.

`category.csv`, `label.csv` and one `c_<category>.csv` for each category describe the labels; `index.csv` has one
row for each image and one column for each category. A cell holds items divided by `;`, the dominant one first:
digits are a label of the whole image, anything else is the path of a label map below `images/`.
"""

import csv
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from glasshouse.core.errors import BadInput, not_found
from glasshouse.data.segmentation_labels import Complain, Entry, Member, Problem, Record, Tables

INDEX_COLUMNS = ("image", "split", "ih", "iw", "sh", "sw")
CATEGORY_COLUMNS = ("name", "first", "last", "count", "frequency")
LABEL_COLUMNS = ("number", "name", "category", "frequency", "coverage", "syns")
CODE_COLUMNS = ("code", "number", "name", "frequency", "coverage")


@dataclass(frozen=True)
class Row:
    """A line of a table, with a way to complain about its cells."""

    file: str
    line: int
    cells: Mapping[str, str]
    complain: Complain

    def wrong(self, column: str | None, message: str) -> None:
        """Complain about one cell, or the line as a whole."""
        self.complain(Problem(self.file, self.line, column, message))

    def integer(self, column: str, least: int = 0) -> int:
        """A cell of digits only; `least` also stands in where it is wrong."""
        cell = self.cells[column]
        if cell.isascii() and cell.isdigit() and int(cell) >= least:
            return int(cell)
        self.wrong(column, f"{cell!r} is no whole number of {least} or more")
        return least

    def amount(self, column: str) -> float:
        """A cell with a number of 0 or more."""
        try:
            value = float(self.cells[column])
        except ValueError:
            value = math.nan
        if 0 <= value < math.inf:
            return value
        self.wrong(column, f"{self.cells[column]!r} is no number of 0 or more")
        return 0.0


def read_rows(path: Path, columns: Iterable[str], complain: Complain) -> Iterator[Row]:
    """The lines of a table below its header, each with all the columns of the header.

    Whatever keeps the file from being read further is complained about, and ends it.
    """
    if not path.is_file():
        complain(Problem(path.name, None, None, f"no such file in '{path.parent}'"))
        return
    line = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            absent = [column for column in columns if column not in header]
            twice = sorted({column for column in header if header.count(column) > 1})
            for column in absent + twice:
                complain(Problem(path.name, 1, column, "is missing" if column in absent else "is there twice"))
            if absent or twice:
                return
            for cells in reader:
                line = reader.line_num
                if not cells:
                    continue
                row = Row(path.name, line, dict(zip(header, cells + [""] * len(header), strict=False)), complain)
                if len(cells) != len(header):
                    row.wrong(None, f"has {len(cells)} cells where the header has {len(header)}")
                yield row
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        complain(Problem(path.name, line + 1, None, f"cannot be read from here on: {error}"))


def read_tables(root: Path, complain: Complain) -> Tables:
    """What a data set says of its labels."""
    members: dict[str, Mapping[int, Member]] = {}
    for row in read_rows(root / "category.csv", CATEGORY_COLUMNS, complain):
        category = row.cells["name"]
        if not is_category(category):
            row.wrong("name", f"{category!r} cannot be the name of a category, which is a word of letters or digits")
        elif category in members:
            row.wrong("name", f"category '{category}' is there twice")
        else:
            members[category] = _members(root / f"c_{category}.csv", complain)
    entries: dict[int, Entry] = {}
    for row in read_rows(root / "label.csv", LABEL_COLUMNS, complain):
        number = row.integer("number", least=1)
        if number in entries:
            row.wrong("number", f"label {number} is there twice")
        synonyms = tuple(name for name in row.cells["syns"].split(";") if name)
        amounts = row.integer("frequency"), row.amount("coverage")
        entries[number] = Entry(row.line, row.cells["name"], _counts(row, members), *amounts, synonyms)
        if not any(number in codes for codes in members.values()):
            row.wrong("number", f"label {number} is in no c_<category>.csv")
    for file, found in (("category.csv", members), ("label.csv", entries)):
        if not found:
            complain(Problem(file, None, None, "lists nothing"))
    return Tables(entries, members)


def is_category(name: str) -> bool:
    """Whether a category may be called so: it becomes a column, and part of file names."""
    return bool(re.fullmatch(r"\w[\w-]*", name)) and name not in INDEX_COLUMNS


def _members(path: Path, complain: Complain) -> dict[int, Member]:
    members: dict[int, Member] = {}
    codes: set[int] = set()
    for row in read_rows(path, CODE_COLUMNS, complain):
        code, number = row.integer("code", least=1), row.integer("number", least=1)
        if code in codes or number in members:
            row.wrong("code" if code in codes else "number", f"{code if code in codes else number} is there twice")
        codes.add(code)
        members[number] = Member(code, row.cells["name"], row.integer("frequency"), row.amount("coverage"))
    return members


def _counts(row: Row, categories: Iterable[str]) -> dict[str, int]:
    """The number of images in each category: `material(36);object(3)`."""
    counts: dict[str, int] = {}
    for item in row.cells["category"].split(";"):
        found = re.fullmatch(r"([^()]+)\((\d+)\)", item, re.ASCII)
        if not found:
            row.wrong("category", f"{item!r} does not read like 'object(3)'")
        elif found[1] not in categories:
            row.wrong("category", f"'{found[1]}' is not in category.csv")
        else:
            counts[found[1]] = int(found[2])
    return counts


def read_records(
    root: Path, tables: Tables, categories: Sequence[str]
) -> Iterator[tuple[Record | None, tuple[Problem, ...]]]:
    """The rows of the index, restricted to some categories, and what is wrong with each.

    None in place of a record means that the index cannot be read further.
    """
    problems: list[Problem] = []
    seen: dict[str, int] = {}
    for row in read_rows(root / "index.csv", (*INDEX_COLUMNS, *tables.members), problems.append):
        record = _record(row, tables, categories)
        if first := seen.get(record.image):
            row.wrong("image", f"'{record.image}' is also in line {first}")
        seen[record.image] = row.line
        yield record, tuple(problems)
        problems.clear()
    if problems:
        yield None, tuple(problems)


def _record(row: Row, tables: Tables, categories: Sequence[str]) -> Record:
    planes: list[tuple[str, str]] = []
    whole: list[tuple[str, int]] = []
    for category in categories:
        cell = row.cells[category]
        for item in cell.split(";") if cell else ():
            if item.isascii() and item.isdigit():
                number = int(item)
                if number and number not in tables.entries:  # 0 stands for a label that was left out
                    row.wrong(category, f"label {number} is not in label.csv")
                elif number:
                    whole.append((category, number))
            elif item and is_below(item):
                planes.append((category, item))
            elif item:
                row.wrong(category, f"'{item}' leads out of the folder 'images'")
    image = row.cells["image"]
    if not image or not is_below(image):
        row.wrong("image", f"{image!r} is no path below 'images'")
    ih, iw, sh, sw = (row.integer(side, least=1) for side in ("ih", "iw", "sh", "sw"))
    return Record(row.line, image, row.cells["split"], (ih, iw), (sh, sw), tuple(planes), tuple(whole))


def is_below(path: str) -> bool:
    """Whether a path from a table stays inside the folder it is relative to."""
    return not path.startswith("/") and ".." not in path.split("/")


def choose(categories: Sequence[str] | None, known: Iterable[str]) -> tuple[str, ...]:
    """Some of the categories, in the order of the data set; None takes all of them."""
    known = tuple(known)
    wanted = known if categories is None else (categories,) if isinstance(categories, str) else tuple(categories)
    for category in wanted:
        if category not in known:
            raise not_found("category", category, known)
    if not wanted:
        raise BadInput("categories is empty.", f"There are {', '.join(known)}; None takes all of them.")
    return tuple(category for category in known if category in wanted)
