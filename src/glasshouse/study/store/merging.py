"""One study taken into another: what two machines found out about the same network on the same data."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glasshouse.core.errors import BadInput
from glasshouse.core.files import written
from glasshouse.core.partials import SETTINGS, mark_of, read_settings
from glasshouse.core.result import Noun
from glasshouse.study.store.catalog import Row
from glasshouse.study.store.filing import meet, size_and_digest
from glasshouse.study.store.folder import Store
from glasshouse.study.store.layout import inside

KEYS = {
    "layers": ("name",),
    "images": ("number",),
    "units": ("layer", "unit"),
    "labels": ("layer", "unit", "source", "place"),
    "notes": ("layer", "unit", "author", "made", "text"),
    "jobs": ("name",),
}
"""What makes two rows of a table the same row."""


@dataclass(frozen=True, repr=False)
class Merged(Noun):
    """What came over from another study.

    Attributes:
        taken: how many files, rows (by table) and partial results were not here before.
        conflicts: what both have, differently; it stays here as it was.
    """

    taken: dict[str, int]
    conflicts: tuple[str, ...]

    def __repr__(self) -> str:
        taken = ", ".join(f"{count} {what}" for what, count in self.taken.items() if count) or "nothing"
        return f"Merged({taken}; {len(self.conflicts)} conflicts)"


def merge(into: Store, other: Store) -> Merged:
    """Take over whatever `other` has and `into` has not: files, facts, labels, notes, jobs, partial results.

    Both must be of the same network (to the bit) and the same data (by ids). What both have stays as it is here;
    where it differs, that is told. Taking the same study over twice changes nothing.
    """
    into.catalog.check_writable()
    for what in ("model", "data"):
        here, there = (store.about[what].get("fingerprint") for store in (into, other))
        if here != there:
            raise BadInput(
                f"the studies are of different {'networks' if what == 'model' else 'data'}: {here} and {there}.",
                "Only studies of one network on one data set can be merged.",
            )
    conflicts: list[str] = []
    taken = {"files": _take_files(into, other, conflicts), "partials": _take_partials(into, other, conflicts)}
    for table in KEYS:
        taken[table] = _take_rows(into, other, table, conflicts)
    return Merged(taken, tuple(conflicts))


def _take_files(into: Store, other: Store, conflicts: list[str]) -> int:
    """Pairs of files come together, or not at all."""
    here = {(row["kind"], row["layer"], row["name"]): row for row in into.files()}
    groups: dict[tuple[str, str], list[Row]] = {}
    n_taken = 0
    for row in other.files():
        known = here.get((row["kind"], row["layer"], row["name"]))
        if known is None:
            groups.setdefault((row["layer"], row["name"]), []).append(row)
        elif known["sha256"] != row["sha256"]:
            conflicts.append(f"{row['kind']} '{row['name']}' of layer '{row['layer']}'")
    for (layer, name), rows in groups.items():
        sources = {row["kind"]: _checked(other, row) for row in rows}
        into.filing.put(layer, name, {kind: _copier(source) for kind, source in sources.items()})
        n_taken += len(rows)
    return n_taken


def _checked(store: Store, row: Row) -> Path:
    path = inside(store.path, row["path"])
    if not path.is_file() or size_and_digest(path) != (row["size"], row["sha256"]):
        raise BadInput(f"'{path}' is damaged.", f"Run `glasshouse check {store.path}`.")
    return path


def _copier(source: Path) -> Any:
    def copy(file: Any) -> None:
        with source.open("rb") as whole:
            shutil.copyfileobj(whole, file, 2**20)

    return copy


def _take_rows(into: Store, other: Store, table: str, conflicts: list[str]) -> int:
    """Rows that are not here; facts that are not known of rows that are."""
    keys, n_taken = KEYS[table], 0
    here = {tuple(row[key] for key in keys): row for row in into.catalog.rows(f"SELECT * FROM {table}")}
    with into.catalog.transaction() as db:
        for row in other.catalog.rows(f"SELECT * FROM {table}"):
            if table == "layers":
                n_taken += (row["name"],) not in here
                meet(db, row["name"])
                continue
            known = here.get(tuple(row[key] for key in keys))
            joined = row if known is None else _joined(known, row, table, conflicts)
            if joined != known:
                holes = ", ".join("?" for _ in joined)
                db.execute(f"INSERT OR REPLACE INTO {table} VALUES ({holes})", tuple(joined.values()))
                n_taken += 1
    return n_taken


def _joined(here: Row, there: Row, table: str, conflicts: list[str]) -> Row:
    """The row as it is here, with the facts that only the other one knows."""
    name = f"{table} " + " ".join(repr(here[key]) for key in KEYS[table])
    if table == "jobs":
        if here["fingerprint"] != there["fingerprint"]:
            conflicts.append(f"{name}: other settings")
            return here
        return there if there["state"] == "done" != here["state"] else here
    if "facts" not in here:
        return here
    known, more = json.loads(here["facts"]), json.loads(there["facts"])
    differing = [key for key in known if key in more and known[key] != more[key]]
    differing += [key for key in here if key != "facts" and here[key] != there[key]]
    if differing:
        conflicts.append(f"{name}: {', '.join(differing)}")
    if table != "units" or not set(more) - set(known):
        return here
    return {**here, "facts": json.dumps({**more, **known}, ensure_ascii=False)}


def _take_partials(into: Store, other: Store, conflicts: list[str]) -> int:
    """Shards of jobs that are not done here, if they are of the very same pass."""
    done = {job["name"] for job in into.jobs() if job["state"] == "done"}
    n_taken = 0
    for job in other.jobs():
        source, target = other.partials(job["name"]), into.partials(job["name"])
        if job["name"] in done or not source.is_dir():
            continue
        for settings in sorted(source.rglob(SETTINGS)):
            place = target / settings.parent.relative_to(source)
            if (place / SETTINGS).exists() and _mark(place) != _mark(settings.parent):
                conflicts.append(f"partial results of job '{job['name']}': other settings")
                continue
            place.mkdir(parents=True, exist_ok=True)
            for file in [settings, *sorted(settings.parent.glob("shard-*.safetensors"))]:
                if not (place / file.name).exists():
                    with written(place / file.name) as copy:
                        copy.write(file.read_bytes())
                    n_taken += 1
    return n_taken


def _mark(folder: Path) -> str:
    return mark_of(read_settings(folder / SETTINGS))
