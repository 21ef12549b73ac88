"""The folder that a study is kept in."""

import json
import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import time
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from glasshouse.core.errors import BadInput
from glasshouse.core.model import Model
from glasshouse.core.result import Noun, plain
from glasshouse.core.shards import Data
from glasshouse.study.store import catalog as catalogs
from glasshouse.study.store.about import ABOUT, description, environment, read_about, to_json, write_about
from glasshouse.study.store.catalog import SCHEMA, Catalog, Row
from glasshouse.study.store.filing import Filing, meet
from glasshouse.study.store.formats import open_array, read_pack, write_array, write_noun, write_pack
from glasshouse.study.store.jobs import Job, working
from glasshouse.study.store.layout import Kind, check_name, folder_of

N = TypeVar("N", bound=Noun)


class Store:
    """What was found out about one network on one data set, in a folder that can be copied, zipped and sent.

        with Store.create("runs/first", model, images) as store:
            store.put_array("layer4", "iou", table)
        Store.open("runs/first").array("layer4", "iou")

    One process writes at a time, and any number read meanwhile. Each file is complete on the disk before the
    catalogue knows it, and nothing is read that the catalogue does not know.
    """

    def __init__(self, path: Path, catalog: Catalog):
        self.path, self.catalog, self.filing = path, catalog, Filing(path, catalog)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        model: Model | nn.Module | None = None,
        data: Data | None = None,
        *,
        layers: Sequence[Mapping[str, Any]] = (),
        seed: int | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> "Store":
        """A new study, open for writing, in a folder that is not there yet or empty.

        Args:
            layers: what is known of the network's layers beforehand, with at least a `name` each.
            arguments: with what the study was asked for; kept as it is.
        """
        root = Path(path)
        root.mkdir(parents=True, exist_ok=True)
        left = (catalogs.FILE, catalogs.LOCK, f"{ABOUT}.tmp-")
        if strange := sorted(name for name in os.listdir(root) if not name.startswith(left)):
            raise BadInput(
                f"'{root}' is not empty: it holds {strange[0]!r}.", "Open the study, or choose a new folder."
            )
        catalog = catalogs.create_catalog(root)
        try:
            about = description(model, data, [dict(layer) for layer in layers], seed, dict(arguments or {}))
            write_about(root, about)  # from now on it is a study
        except BaseException:
            catalog.close()
            raise
        return cls(root, catalog)

    @classmethod
    def open(cls, path: str | os.PathLike[str], write: bool = False) -> "Store":
        """A study that is there."""
        root = Path(path)
        about = read_about(root)
        catalog = catalogs.open_catalog(root, write)
        if write and about["schema_version"] != SCHEMA:
            write_about(root, {**about, "schema_version": SCHEMA})
        return cls(root, catalog)

    def close(self) -> None:
        """Let go of it. A study that is closed can be copied."""
        self.catalog.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        n_files = self.catalog.rows("SELECT count(*) AS n FROM files")[0]["n"]
        how = "written" if self.catalog.writable else "read"
        return f"Store('{self.path}', {len(self.layers())} layers, {n_files} files, being {how})"

    @property
    def about(self) -> dict[str, Any]:
        """What `study.json` says: versions, seed, arguments, and the network, the data and the layers studied."""
        return read_about(self.path)

    # Files

    def put_array(self, layer: str, name: str, values: Tensor | NDArray[Any]) -> None:
        """Keep numbers, by unit first where there is one row per unit."""
        self.filing.put(layer, name, {"array": lambda file: write_array(file, values)})

    def array(self, layer: str, name: str) -> NDArray[Any]:
        """Numbers as they lie on the disk, mapped and read-only."""
        return self.filing.read(["array"], layer, name, open_array)

    def put_patches(self, layer: str, patches: Iterable[Sequence[bytes]], name: str = "top") -> None:
        """Keep encoded pictures, those of unit 0 first. They are written as they come."""
        index: list[NDArray[np.int64]] = []

        def pack(file: BinaryIO) -> None:
            index.append(write_pack(file, patches))

        self.filing.put(layer, name, {"pack": pack, "index": lambda file: write_array(file, index[0])})

    def patches(self, layer: str, unit: int, name: str = "top") -> list[bytes]:
        """The pictures of one unit, as they were encoded; none if none were kept of it."""
        return self.filing.read(["pack", "index"], layer, name, lambda pack, index: read_pack(pack, index, unit))

    def put_noun(self, name: str, noun: Noun, layer: str = "") -> None:
        """Keep a whole result, of a layer or of the network."""
        self.filing.put(layer, name, {"noun": lambda file: write_noun(file, noun)})

    def noun(self, name: str, kind: type[N], layer: str = "") -> N:
        """A result, which must be of that kind."""
        return self.filing.read(["noun"], layer, name, kind.load)

    def files(self, kind: Kind | None = None, layer: str | None = None) -> list[Row]:
        """What is kept: kind, layer, name, path in the study, size and SHA-256."""
        return self.filing.rows(kind, layer)

    # Rows

    def layers(self) -> list[str]:
        """The layers that something is known of, those of `study.json` first."""
        told = [str(layer["name"]) for layer in self.about["layers"]]
        found = [row["name"] for row in self.catalog.rows("SELECT name FROM layers ORDER BY place")]
        return list(dict.fromkeys([*told, *found]))

    def put_images(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Facts about images, in the order of the data set: an `id` each, and whatever else is known."""
        with self.catalog.transaction() as db:
            for number, row in enumerate(rows):
                facts = {key: value for key, value in row.items() if key != "id"}
                values = (number, str(row["id"]), _facts(facts))
                db.execute("INSERT OR REPLACE INTO images VALUES (?, ?, ?)", values)

    def images(self, numbers: Sequence[int] | None = None) -> list[Row]:
        """Some images by number, or all: `number`, `id` and the facts."""
        if numbers is None:
            return _rows(self.catalog.rows("SELECT * FROM images ORDER BY number"))
        found = [self.catalog.rows("SELECT * FROM images WHERE number = ?", int(number)) for number in numbers]
        return _rows([row for rows in found for row in rows])

    def put_units(self, layer: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Facts about units: the number `unit` each, and more; they join what was known, and replace it."""
        with self.catalog.transaction() as db:
            meet(db, layer)
            for row in rows:
                unit, facts = int(row["unit"]), {key: value for key, value in row.items() if key != "unit"}
                known = db.execute("SELECT facts FROM units WHERE layer = ? AND unit = ?", (layer, unit)).fetchone()
                joined = {**json.loads(known[0]), **facts} if known else facts
                db.execute("INSERT OR REPLACE INTO units VALUES (?, ?, ?)", (layer, unit, _facts(joined)))

    def units(
        self, layer: str, *, order_by: str = "unit", descending: bool = False, limit: int | None = None
    ) -> list[Row]:
        """Units and their facts; units that lack the fact ordered by come last."""
        path, down = f'$."{check_name("a fact", order_by)}"', "DESC" if descending else ""
        first = f"unit {down}" if order_by == "unit" else f"fact IS NULL, fact {down}, unit"
        select = (
            f"SELECT unit, facts, json_extract(facts, ?) AS fact FROM units WHERE layer = ? ORDER BY {first} LIMIT ?"
        )
        rows = self.catalog.rows(select, path, layer, -1 if limit is None else limit)
        return _rows([{"unit": row["unit"], "facts": row["facts"]} for row in rows])

    def put_labels(self, layer: str, rows: Iterable[Mapping[str, Any]], source: str) -> None:
        """What units are called by `source`, the best label first: `unit`, `label` and more. Replaces what it said."""
        places: dict[int, int] = {}
        with self.catalog.transaction() as db:
            meet(db, layer)
            db.execute("DELETE FROM labels WHERE layer = ? AND source = ?", (layer, source))
            for row in rows:
                unit, label = int(row["unit"]), str(row["label"])
                facts = {key: value for key, value in row.items() if key not in ("unit", "label")}
                place = places[unit] = places.get(unit, -1) + 1
                values = (layer, unit, source, place, label, _facts(facts))
                db.execute("INSERT INTO labels VALUES (?, ?, ?, ?, ?, ?)", values)

    def labels(self, layer: str, unit: int | None = None) -> list[Row]:
        """Labels of one unit or of all, with their source and place."""
        wanted = "WHERE layer = ?1 AND (?2 IS NULL OR unit = ?2) ORDER BY unit, source, place"
        return _rows(self.catalog.rows(f"SELECT unit, label, source, place, facts FROM labels {wanted}", layer, unit))

    def note(self, layer: str, unit: int, text: str, author: str = "") -> None:
        """Write down a remark about a unit."""
        with self.catalog.transaction() as db:
            meet(db, layer)
            db.execute("INSERT INTO notes VALUES (?, ?, ?, ?, ?)", (layer, unit, text, author, time()))

    def notes(self, layer: str | None = None, unit: int | None = None) -> list[Row]:
        """Remarks, the oldest first."""
        wanted = "WHERE (?1 IS NULL OR layer = ?1) AND (?2 IS NULL OR unit = ?2) ORDER BY made"
        return self.catalog.rows(f"SELECT * FROM notes {wanted}", layer, unit)

    # Jobs

    @contextmanager
    def job(
        self, name: str, fingerprint: str = "", *, arguments: Mapping[str, Any] | None = None, restart: bool = False
    ) -> Generator[Job]:
        """Do something once, and go on with it after an interruption.

            with store.job("dissect layer4", key) as job:
                if not job.done:
                    stat = sweep(step, data, stat, into=job.partials)
                    store.put_array("layer4", "mean", stat.mean)

        Args:
            fingerprint: of all that the answer depends on; a job that was begun with another is an error.
        """
        facts = {**environment(), "arguments": plain(dict(arguments or {}))}
        with working(self.catalog, name, fingerprint, facts, self.partials(name), restart) as job:
            yield job

    def jobs(self) -> list[Row]:
        """All jobs, with state (running, done or failed), seconds spent, resumptions and error."""
        return _rows(self.catalog.rows("SELECT * FROM jobs ORDER BY started"))

    def partials(self, job: str) -> Path:
        """The folder for a job's partial results, which other machines may fill as well."""
        return self.path / "partials" / folder_of(job)


def _facts(facts: Mapping[str, Any]) -> str:
    for key in facts:
        check_name("a fact", key)
    return to_json(facts)


def _rows(rows: list[Row]) -> list[Row]:
    """Rows with their facts as columns."""
    try:
        return [row | json.loads(row.pop("facts")) for row in rows]
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"the catalogue is damaged: {error}.", "Run `glasshouse check` on the study.") from error
