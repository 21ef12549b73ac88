"""Files get into a study, and out of it: on the disk first, then into the catalogue, and out only by way of that."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from glasshouse.core.errors import BadInput, NotFound, not_found
from glasshouse.core.files import written
from glasshouse.study.store.catalog import Catalog, Row
from glasshouse.study.store.layout import Kind, check_name, folder_of, inside, path_of, turn_of

T = TypeVar("T")
_NAMED = "SELECT * FROM files WHERE layer = ? AND name = ?"


@dataclass(frozen=True)
class Filing:
    """The files of a study that its catalogue knows."""

    root: Path
    catalog: Catalog

    def put(self, layer: str, name: str, writers: Mapping[Kind, Callable[[BinaryIO], Any]]) -> None:
        """Write files that belong together; they, and no others of that name, are there from one moment on."""
        check_name("an array, a pack or a noun", name)
        self.catalog.check_writable()
        old = [row for row in self.catalog.rows(_NAMED, layer, name) if row["kind"] in writers]
        turn = max((turn_of(row["path"]) + 1 for row in old), default=0)
        rows: list[tuple[Any, ...]] = []
        for kind, write in writers.items():
            relative = path_of(kind, layer, name, turn)
            path = inside(self.root, relative)
            path.parent.mkdir(parents=True, exist_ok=True)
            with written(path) as file:
                write(file)
            rows.append((relative, kind, layer, name, *size_and_digest(path)))
        with self.catalog.transaction() as db:
            meet(db, layer)
            db.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", rows)
        for row in old:
            inside(self.root, row["path"]).unlink(missing_ok=True)

    def read(self, kinds: Sequence[Kind], layer: str, name: str, read: Callable[..., T]) -> T:
        """What `read` makes of files that belong together."""
        while True:
            paths = self.find(kinds, layer, name)
            try:
                return read(*paths)
            except OSError as error:
                if paths != self.find(kinds, layer, name):  # they were replaced since the catalogue was asked
                    continue
                hint = "Run `glasshouse check` on the study."
                raise BadInput(f"'{paths[0]}' cannot be read: {error}.", hint) from error

    def rows(self, kind: Kind | None = None, layer: str | None = None) -> list[Row]:
        """The rows of all files, or of some."""
        wanted = "WHERE (?1 IS NULL OR kind = ?1) AND (?2 IS NULL OR layer = ?2) ORDER BY path"
        return self.catalog.rows(f"SELECT * FROM files {wanted}", kind, layer)

    def find(self, kinds: Sequence[Kind], layer: str, name: str) -> list[Path]:
        """Where the files of that name lie."""
        known = {row["kind"]: row["path"] for row in self.catalog.rows(_NAMED, layer, name)}
        if all(kind in known for kind in kinds):
            return [inside(self.root, known[kind]) for kind in kinds]
        if names := [row["name"] for row in self.rows(kinds[0], layer)]:
            raise not_found(kinds[0], name, names)
        whose = f"of layer '{layer}'" if layer else "of the network"
        raise NotFound(f"there is no {kinds[0]} {whose} in '{self.root}'.", f"Looked for '{name}'.")


def meet(db: Any, layer: str) -> None:
    """Let the catalogue know a layer."""
    if layer:
        place = "(SELECT count(*) FROM layers)"
        db.execute(f"INSERT OR IGNORE INTO layers VALUES (?, ?, {place})", (layer, folder_of(layer)))


def size_and_digest(path: Path) -> tuple[int, str]:
    """Length and SHA-256 of a file."""
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_size, file_digest(file, "sha256").hexdigest()
