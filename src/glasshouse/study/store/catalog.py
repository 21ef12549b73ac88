"""The catalogue of a study: one SQLite file, one writer at a time, any number of readers."""

import json
import os
import platform
import shutil
import sqlite3
import threading
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from time import time
from typing import Any, TypeAlias

from glasshouse.core.errors import BadInput

Row: TypeAlias = dict[str, Any]
FILE, LOCK = "catalog.sqlite", "writer.lock"
SCHEMA = 1
MIGRATIONS: dict[int, str] = {}  # from each older version to the next
APPLICATION = int.from_bytes(b"glas")
TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE files (
    path TEXT PRIMARY KEY, kind TEXT NOT NULL, layer TEXT NOT NULL, name TEXT NOT NULL,
    size INTEGER NOT NULL, sha256 TEXT NOT NULL, UNIQUE (kind, layer, name));
CREATE TABLE layers (name TEXT PRIMARY KEY, folder TEXT NOT NULL UNIQUE, place INTEGER NOT NULL);
CREATE TABLE images (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, facts TEXT NOT NULL);
CREATE TABLE units (layer TEXT NOT NULL, unit INTEGER NOT NULL, facts TEXT NOT NULL, PRIMARY KEY (layer, unit));
CREATE TABLE labels (
    layer TEXT NOT NULL, unit INTEGER NOT NULL, source TEXT NOT NULL, place INTEGER NOT NULL,
    label TEXT NOT NULL, facts TEXT NOT NULL, PRIMARY KEY (layer, unit, source, place));
CREATE TABLE notes (
    layer TEXT NOT NULL, unit INTEGER NOT NULL, text TEXT NOT NULL, author TEXT NOT NULL, made REAL NOT NULL,
    PRIMARY KEY (layer, unit, author, made, text));
CREATE TABLE jobs (
    name TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, state TEXT NOT NULL, started REAL NOT NULL,
    seconds REAL NOT NULL, resumes INTEGER NOT NULL, error TEXT NOT NULL, facts TEXT NOT NULL);
"""

_TEXTS = "path kind layer name sha256 folder id facts source label text author fingerprint state error key value"
_KINDS: dict[str, Any] = {
    **dict.fromkeys(_TEXTS.split(), str),
    **dict.fromkeys(("size", "unit", "number", "place", "resumes"), int),
    **dict.fromkeys(("made", "started", "seconds"), float | int),
}


class Catalog:
    """A connection to the catalogue, which threads may share. `rows` reads; `transaction` writes all or nothing."""

    def __init__(self, db: sqlite3.Connection, lock: sqlite3.Connection | None = None, copy: Any = None):
        self._db, self._lock, self._copy, self._turn = db, lock, copy, threading.RLock()

    @property
    def writable(self) -> bool:
        return self._lock is not None

    def rows(self, sql: str, *values: Any) -> list[Row]:
        with self._turn, _named():
            cursor = self._db.execute(sql, values)
            names = [column[0] for column in cursor.description or ()]
            return [_checked(dict(zip(names, row, strict=True))) for row in cursor.fetchall()]

    @contextmanager
    def transaction(self) -> Generator[sqlite3.Connection]:
        self.check_writable()
        with self._turn, _named():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def check_writable(self) -> None:
        if not self.writable:
            raise BadInput("this study was opened for reading.", "Use Store.open(path, write=True).")

    def close(self) -> None:
        """Nothing stays behind in a second file: the catalogue can be copied as it lies there."""
        if self._lock:
            with suppress(sqlite3.Error):
                self._db.execute("DELETE FROM meta WHERE key = 'writer'")
                self._db.execute("PRAGMA busy_timeout = 0")
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                self._db.execute("PRAGMA journal_mode = DELETE")  # fails while there are readers, and may
        self._db.close()
        if self._lock:
            self._lock.close()
        if self._copy:
            self._copy.cleanup()


def create_catalog(root: Path) -> Catalog:
    """A new and empty one."""
    lock = _take_lock(root)
    for left in root.glob(f"{FILE}*"):  # of one that was killed before there was a study
        left.unlink()
    db = _connect(root / FILE, "rwc")
    db.executescript(f"BEGIN;{TABLES}PRAGMA application_id={APPLICATION};PRAGMA user_version={SCHEMA};COMMIT;")
    return _writing(Catalog(db, lock), db)


def open_catalog(root: Path, write: bool = False) -> Catalog:
    """The catalogue of a study, which must be of the present version, or is brought up to it by its writer."""
    if not write:
        return _open_reading(root)
    lock, db = _take_lock(root), None
    try:
        db = _connect(root / FILE, "rw")
        _check(db, root, migrate=True)
        return _writing(Catalog(db, lock), db)
    except BaseException as error:
        if db:
            db.close()
        lock.close()
        if isinstance(error, sqlite3.Error):
            raise _not_writable(root, error) from error
        raise


def _writing(catalog: Catalog, db: sqlite3.Connection) -> Catalog:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    who = json.dumps({"pid": os.getpid(), "machine": platform.node(), "since": round(time())})
    db.execute("INSERT OR REPLACE INTO meta VALUES ('writer', ?)", (who,))
    return catalog


def _open_reading(root: Path) -> Catalog:
    """As it lies there; where nothing may be written beside it, as a file that does not change, or as a copy."""
    path, left = root / FILE, root / f"{FILE}-wal"
    db = _connect(path, "ro")
    try:
        _check(db, root)
        return Catalog(db)
    except sqlite3.OperationalError as error:
        db.close()
        code = getattr(error, "sqlite_errorname", "")
        if not code.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
            raise _unreadable(path, error) from error
    except BaseException:
        db.close()
        raise
    copy = None
    if left.exists() and left.stat().st_size:  # its writer was killed, and part of the catalogue is in there
        copy = TemporaryDirectory(prefix="glasshouse-")
        for file in (path, left):
            shutil.copyfile(file, Path(copy.name, file.name))
        path = Path(copy.name, FILE)
    db = _connect(path, "rw" if copy else "ro", immutable=not copy)
    try:
        _check(db, root)
    except BaseException:
        db.close()
        raise
    return Catalog(db, copy=copy)


def _connect(path: Path, mode: str, immutable: bool = False) -> sqlite3.Connection:
    if mode != "rwc" and not path.is_file():
        raise BadInput(f"'{path.parent}' is no study: there is no {path.name} in it.", "Make one with Store.create.")
    uri = f"{path.absolute().as_uri()}?mode={mode}{'&immutable=1' if immutable else ''}"
    with _named(path):
        db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=20, check_same_thread=False)
    db.execute("PRAGMA trusted_schema = OFF")
    return db


def _check(db: sqlite3.Connection, root: Path, migrate: bool = False) -> None:
    """Refuse a database that is not a catalogue: another application's, of another version, or with code in it."""
    try:
        ((application,),), ((version,),) = (
            db.execute(f"PRAGMA {p}").fetchall() for p in ("application_id", "user_version")
        )
        if application != APPLICATION:
            raise BadInput(f"'{root / FILE}' is a database of another program.")
        if migrate and version < SCHEMA:
            migrate_catalog(db, version)
        elif version != SCHEMA:
            raise BadInput(
                f"'{root}' is of version {version}, this program reads version {SCHEMA}.",
                "Open it once with write=True." if version < SCHEMA else "Install a newer glasshouse.",
            )
        if columns_of(db) != own_columns():
            raise BadInput(f"'{root / FILE}' does not have the tables of version {SCHEMA}.", "It cannot be trusted.")
    except sqlite3.OperationalError:
        raise
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise _unreadable(root / FILE, error) from error


def migrate_catalog(db: sqlite3.Connection, version: int) -> None:
    """Bring an older catalogue up to date, one version after the other, each whole or not at all."""
    for step in range(version, SCHEMA):
        db.execute("BEGIN IMMEDIATE")
        try:
            for statement in MIGRATIONS[step].split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {step + 1}")
            db.execute("COMMIT")
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")


def columns_of(db: sqlite3.Connection) -> dict[str, list[str]]:
    """Tables and their columns; views and triggers have none."""
    found = dict[str, list[str]]()
    for kind, name in db.execute("SELECT type, name FROM sqlite_master WHERE type != 'index'").fetchall():
        table = name if kind == "table" else ""
        columns = db.execute("SELECT name FROM pragma_table_info(?)", (table,)).fetchall()
        found[name] = [column for (column,) in columns]
    return found


def own_columns() -> dict[str, list[str]]:
    """What `columns_of` gives for a catalogue of this version."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(TABLES)
        return columns_of(db)


def _take_lock(root: Path) -> sqlite3.Connection:
    """An empty database that is held by one process, and let go when it ends, however it ends."""
    try:
        lock = sqlite3.connect(root / LOCK, isolation_level=None, timeout=0, check_same_thread=False)
    except sqlite3.Error as error:
        raise _not_writable(root, error) from error
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        lock.close()
        if "locked" not in str(error):
            raise _not_writable(root, error) from error
        raise BadInput(f"'{root}' is being written by {_writer(root)}.", "Wait for it, or read meanwhile.") from error
    return lock


def _writer(root: Path) -> str:
    with suppress(BadInput, sqlite3.Error, ValueError, LookupError, TypeError):
        catalog = _open_reading(root)
        try:
            who = json.loads(catalog.rows("SELECT value FROM meta WHERE key = 'writer'")[0]["value"])
        finally:
            catalog.close()
        return f"process {who['pid']} on {who['machine']}"
    return "another process"


def _checked(row: Row) -> Row:
    """SQLite lets any column hold anything, and catalogues of strangers are read too."""
    for name, value in row.items():
        if not isinstance(value, _KINDS.get(name, object)):
            raise BadInput(f"the catalogue is damaged: a {name} is {value!r}.", "Run `glasshouse check` on the study.")
    return row


@contextmanager
def _named(path: Path | None = None) -> Generator[None]:
    """What SQLite says, as an error with a hint."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _not_writable(root: Path, error: sqlite3.Error) -> BadInput:
    return BadInput(f"'{root}' cannot be written: {error}.", "Open it for reading, or copy it.")


def _unreadable(path: Path | None, error: Exception) -> BadInput:
    return BadInput(f"{path or 'the catalogue'} cannot be read: {error}.", "Run `glasshouse check` on the study.")
