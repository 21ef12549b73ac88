"""Tables that list images: CSV with a header, or one JSON object per line.

Columns: `image`, and any of `label` (name or number), `mask`, `split`, `id`. Paths count from the table's folder.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

from glasshouse.core.errors import BadInput, NotFound, nearest
from glasshouse.data.listing import Entry, Listed, class_number, is_number, relative, some

COLUMNS = ("image", "label", "mask", "split", "id")

Row: TypeAlias = tuple[int, dict[str, str]]
"""Line in the file, and cells by column."""


def list_manifest(path: Path, root: Path, class_names: Sequence[str] | None) -> Listed:
    """The images in a table, in its order; ids are paths from `root` on where the table has none."""
    rows = _rows(path)
    columns = dict.fromkeys(column for _, cells in rows for column in cells)
    class_names, chosen = _classes([cells.get("label", "") for _, cells in rows], class_names)
    known = {name: number for number, name in enumerate(class_names)}
    entries: dict[str, Entry] = {}
    lines: dict[str, int] = {}
    for line, cells in rows:
        if not cells.get("image"):
            raise wrong(path, line, "image", "there is no path", f"Columns are {some(list(cells))}.")
        image = path.parent / cells["image"].replace("\\", "/")
        mask = path.parent / cells["mask"].replace("\\", "/") if cells.get("mask") else None
        name = cells.get("id") or relative(image, root)
        if name in entries:
            column = "id" if cells.get("id") else "image"
            raise wrong(path, line, column, f"'{name}' is on line {lines[name]} already", "Give each image one line.")
        target = class_number(cells.get("label", ""), known, f"'{path}', line {line}, column label")
        entries[name], lines[name] = Entry(name, image, target, mask, cells.get("split", "")), line
    if unread := [column for column in columns if column not in COLUMNS]:
        chosen.append(f"not read: the columns {some(unread)}.")
    return list(entries.values()), class_names, [f"manifest: '{path}', in its order.", *chosen]


def wrong(path: Path, line: int, column: str, what: str, hint: str) -> BadInput:
    return BadInput(f"'{path}', line {line}, column {column}: {what}.", hint)


def _rows(path: Path) -> list[Row]:
    readers = {".csv": _csv_rows, ".jsonl": _json_rows, ".ndjson": _json_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise BadInput(f"the manifest '{path}' ends in none of {', '.join(readers)}.", "Save it as one of these.")
    if not path.is_file():
        names = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
        raise NotFound(f"no manifest '{path}'.", nearest(path.name, names))
    try:
        rows = list(reader(path))
    except UnicodeDecodeError as error:
        raise BadInput(f"the manifest '{path}' is not UTF-8: {error.reason}.", "Save it as UTF-8.") from error
    if not rows:
        raise BadInput(f"the manifest '{path}' lists no images.", "It has a line for each, below a header in CSV.")
    return rows


def _csv_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = [cell.strip() for cell in next(reader, [])]
            if "image" not in header or len(set(header)) < len(header):
                raise BadInput(
                    f"'{path}', line 1: the header ({', '.join(header)}) must hold the column image, and none twice.",
                    f"Known are {', '.join(COLUMNS)}, with commas between them.",
                )
            for cells in reader:
                if cells and len(cells) != len(header):
                    column = header[len(cells)] if len(cells) < len(header) else f"{len(header) + 1}"
                    what = f"the line has {len(cells)} cells, the header {len(header)}"
                    raise wrong(path, reader.line_num, column, what, 'Put a cell with a comma in it into "".')
                if cells:
                    yield reader.line_num, dict(zip(header, (cell.strip() for cell in cells), strict=True))
        except csv.Error as error:
            raise BadInput(f"'{path}', line {reader.line_num}: {error}.", "Save it as CSV again.") from error


def _json_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                found: Any = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise BadInput(f"'{path}', line {line}: no JSON ({error}).", "Write one object per line.") from error
            if not isinstance(found, Mapping):
                raise BadInput(f"'{path}', line {line}: a {type(found).__name__}.", "Write one object per line.")
            yield line, _cells(cast(Mapping[str, Any], found), path, line)


def _cells(found: Mapping[str, Any], path: Path, line: int) -> dict[str, str]:
    cells = {name: "" if value is None else value for name, value in found.items()}
    for name in COLUMNS:
        value = cells.get(name, "")
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise wrong(path, line, name, f"a {type(value).__name__}", "Write text, a whole number or null.")
    return {name: str(value).strip() for name, value in cells.items()}


def _classes(labels: Sequence[str], class_names: Sequence[str] | None) -> tuple[tuple[str, ...], list[str]]:
    """Names of the classes by number, and how they were found."""
    seen = sorted(set(labels) - {"", "-1"})
    if class_names is not None or not seen:
        return tuple(class_names or ()), [] if seen else ["classes: none, as there are no labels."]
    if all(map(is_number, seen)):
        return (), ["classes: by number, as all labels are numbers; their names are unknown."]
    return tuple(seen), [f"classes: the {len(seen)} labels {some(seen)}, in alphabetical order."]
