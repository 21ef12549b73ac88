"""A run as a table for people, and two runs compared: `python -m benchmarks.table RUN.json [OLDER.json]`."""

import json
import sys
from pathlib import Path
from shutil import get_terminal_size
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

WORSE = 0.1
WIDTH = 150
START, END = "<!-- the table starts here -->", "<!-- the table ends here -->"
HEAD = ("row", "times faster", "target", "of eager limit", "of best limit", "passes", "note")

Row = dict[str, Any]
Document = dict[str, Any]


def name_of(row: Row) -> str:
    return "/".join(filter(None, (row["method"], row["model"], str(row["batch"] or ""), row["peer"])))


def cells(row: Row, quick: bool) -> tuple[str, ...]:
    """A row in words. "2.1 (2.0–2.2)" is the median and the quartiles of the rounds."""

    def ratio(name: str) -> str:
        values = row.get(name)
        return "" if values is None else f"{values[1]:.2f} ({values[0]:.2f}–{values[2]:.2f})"

    counted, declared = row.get("passes_counted"), row.get("passes_declared")
    passes = "" if not counted else f"{counted['forward']:g} + {counted['backward']:g}"
    if counted and declared:
        passes += f" of {declared['forward']:g} + {declared['backward']:g}"
    notes = [row["status"]] if row["status"] != "done" else []
    notes += ["noisy"] if row.get("noisy") else []
    notes += ["below target"] if missed(row) and not quick else []
    return (
        name_of(row),
        ratio("ratio_to_peer"),
        "" if row.get("target_ratio") is None else f"{row['target_ratio']:.2f}",
        ratio("ratio_to_eager_limit"),
        ratio("ratio_to_best_limit"),
        passes,
        ", ".join(notes),
    )


def missed(row: Row) -> bool:
    """Whether the median is below a target."""
    pairs = (("ratio_to_peer", "target_ratio"), ("ratio_to_best_limit", "target_share"))
    return any(row.get(seen) and row.get(wanted) and row[seen][1] < row[wanted] for seen, wanted in pairs)


def markdown(document: Document) -> str:
    """The table as Markdown, under a line that says where it was measured."""
    rows = [HEAD, ("---",) * len(HEAD), *(cells(row, document["quick"]) for row in document["rows"])]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([where(document), "", *lines])


def where(document: Document) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items() if version)
    size = "" if not document["quick"] else " Images of 64 pixels and few steps: a trial, not a measurement."
    return f"{document['device']}, {document['threads']} threads; {versions}.{size}"


def show(document: Document) -> None:
    table = Table(*HEAD, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for row in document["rows"]:
        table.add_row(*cells(row, document["quick"]))
    console = Console(width=max(get_terminal_size().columns, WIDTH))
    console.print(table, where(document), sep="\n")


def compare(new: Document, old: Document) -> list[str]:
    """Rows that got slower: a ratio worse by more than a tenth, and outside the older quartiles."""
    before = {name_of(row): row for row in old["rows"]}
    found: list[str] = []
    for row in new["rows"]:
        other = before.get(name_of(row), {})
        for kind in ("ratio_to_peer", "ratio_to_best_limit"):
            now, then = row.get(kind), other.get(kind)
            if now and then and now[1] < (1 - WORSE) * then[1] and now[1] < then[0]:
                words = kind.replace("_", " ")
                found.append(f"{name_of(row)}: {words} {now[1]:.2f}, was {then[1]:.2f} ({then[0]:.2f}–{then[2]:.2f})")
    return found


def write_into(page: Path, document: Document) -> None:
    """Replace what stands between the two marks of a page."""
    before, _, rest = page.read_text().partition(START)
    _, mark, after = rest.partition(END)
    if not mark:
        raise SystemExit(f"{page} has no lines '{START}' and '{END}'.")
    page.write_text(f"{before}{START}\n{markdown(document)}\n{END}{after}")


def main(arguments: list[str]) -> int:
    if not 1 <= len(arguments) <= 2:
        print("python -m benchmarks.table RUN.json [OLDER.json | PAGE.md]", file=sys.stderr)
        return 2
    document = json.loads(Path(arguments[0]).read_text())
    if len(arguments) == 2 and arguments[1].endswith(".md"):
        write_into(Path(arguments[1]), document)
        return 0
    if len(arguments) == 2:
        worse = compare(document, json.loads(Path(arguments[1]).read_text()))
        print("\n".join(worse) or "nothing got slower.")
        return 1 if worse else 0
    print(markdown(document))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
