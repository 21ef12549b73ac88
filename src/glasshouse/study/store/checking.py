"""Whether a study is whole, and what is left of work that was interrupted. Whatever lies there, this reads it."""

import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from glasshouse.core.errors import BadInput, GlasshouseError
from glasshouse.core.partials import SETTINGS, mark_of, read_partial, read_settings
from glasshouse.core.result import Noun
from glasshouse.study.store.about import read_about
from glasshouse.study.store.catalog import Catalog, Row, open_catalog
from glasshouse.study.store.filing import size_and_digest
from glasshouse.study.store.formats import check_index, open_array
from glasshouse.study.store.layout import PLACES, Kind, folder_of, inside

What: TypeAlias = Literal["damage", "unfinished", "orphan"]


@dataclass(frozen=True, repr=False)
class Finding(Noun):
    """One thing that is not as it should be.

    Attributes:
        what: `damage` is something lost, `unfinished` a job to go on with, `orphan` a file that nobody reads.
        where: path in the study, or name of the job.
    """

    what: What
    where: str
    why: str

    def __repr__(self) -> str:
        return f"{self.what}: {self.where}: {self.why}"


@dataclass(frozen=True, repr=False)
class StudyCheck(Noun):
    """What a check of a study found.

    Attributes:
        n_files: files that the catalogue knows; n_bytes: their length together.
        removed: orphans that were removed, with `repair`.
    """

    path: str
    n_files: int
    n_bytes: int
    findings: tuple[Finding, ...]
    removed: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Nothing is lost."""
        return not any(finding.what == "damage" for finding in self.findings)

    def __repr__(self) -> str:
        counts = {what: sum(finding.what == what for finding in self.findings) for what in get_args(What)}
        told = ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "nothing amiss"
        return f"StudyCheck('{self.path}', {self.n_files} files, {self.n_bytes / 1e6:.1f} MB: {told})"


def check(path: str | Path, repair: bool = False) -> StudyCheck:
    """Read all of a study: the catalogue, each file's length, SHA-256 and header, jobs, and what belongs to nobody.

    While somebody writes, a file that is replaced meanwhile may be told as missing.

    Args:
        repair: remove orphans, which needs to be the study's only writer. What is damaged stays for you to judge.
    """
    root, findings, removed = Path(path), list[Finding](), list[str]()
    files: list[Row] = []
    with _noting(findings, "study.json"):
        read_about(root)
    with _noting(findings, "catalog.sqlite"):
        catalog = open_catalog(root, write=repair)
        try:
            findings += _check_catalog(catalog)
            files = catalog.rows("SELECT * FROM files ORDER BY path")
            for row in files:
                with _noting(findings, row["path"]):
                    _check_file(root, row, files)
            jobs = catalog.rows("SELECT * FROM jobs")
            findings += _check_jobs(root, jobs)
            for orphan in _orphans(root, files, jobs):
                name = orphan.relative_to(root).as_posix()
                if repair:
                    _remove(orphan)
                    removed.append(name)
                else:
                    findings.append(Finding("orphan", name, "nothing refers to it"))
        finally:
            catalog.close()
    n_bytes = sum(row["size"] for row in files)
    return StudyCheck(str(root), len(files), n_bytes, tuple(findings), tuple(removed))


_STRANGE = (GlasshouseError, OSError, sqlite3.Error, LookupError, TypeError, ValueError, OverflowError, RecursionError)


@contextmanager
def _noting(findings: list[Finding], where: str) -> Generator[None]:
    """What goes wrong inside is damage there."""
    try:
        yield
    except _STRANGE as error:
        why = error.message if isinstance(error, GlasshouseError) else f"{type(error).__name__}: {error}"
        findings.append(Finding("damage", where, why))


def _check_catalog(catalog: Catalog) -> list[Finding]:
    findings = list[Finding]()
    for row in catalog.rows("PRAGMA integrity_check(20)"):
        if row["integrity_check"] != "ok":
            findings.append(Finding("damage", "catalog.sqlite", str(row["integrity_check"])))
    for table in ("images", "units", "labels", "jobs"):
        with _noting(findings, f"catalog.sqlite, table {table}"):
            for row in catalog.rows(f"SELECT facts FROM {table}"):
                if not isinstance(json.loads(row["facts"]), dict):
                    raise BadInput("facts are no table.")
    return findings


def _check_file(root: Path, row: Row, files: list[Row]) -> None:
    path, kind = inside(root, row["path"]), row["kind"]
    if not path.is_file():
        raise BadInput("the file is missing.")
    size, digest = size_and_digest(path)
    if size != row["size"]:
        raise BadInput(f"it has {size} bytes, where {row['size']} were written.")
    if digest != row["sha256"]:
        raise BadInput("its bytes are not those written (SHA-256).")
    readers: dict[Kind, Callable[[], Any]] = {
        "array": lambda: open_array(path),
        "index": lambda: check_index(path, _pack_size(row, files)),
        "pack": lambda: _pack_size(row, files, "index"),
        "noun": lambda: Noun.load(path),
    }
    if kind not in readers:
        raise BadInput(f"there is no kind of file {kind!r}.")
    try:
        readers[kind]()
    except BadInput as error:
        if not error.message.startswith("unknown result"):  # of a package that is not imported here
            raise


def _pack_size(row: Row, files: list[Row], kind: str = "pack") -> int:
    """The length of the file that belongs to this one."""
    for other in files:
        if (other["kind"], other["layer"], other["name"]) == (kind, row["layer"], row["name"]):
            return other["size"]
    raise BadInput(f"its {kind} is missing.")


def _check_jobs(root: Path, jobs: list[Row]) -> Iterator[Finding]:
    for job in jobs:
        if job["state"] == "done":
            continue
        folder = root / "partials" / folder_of(job["name"])
        findings, n_shards = list[Finding](), 0
        for settings in sorted(folder.rglob(SETTINGS)):
            with _noting(findings, settings.relative_to(root).as_posix()):
                mark = mark_of(read_settings(settings))
                for shard in _shards(settings.parent):
                    n_shards += 1
                    with _noting(findings, (settings.parent / f"shard {shard}").relative_to(root).as_posix()):
                        read_partial(settings.parent, shard, mark)
        yield from findings
        error = f", {job['error']}" if job["error"] else ""
        yield Finding("unfinished", job["name"], f"{job['state']}{error}; {n_shards} shards are finished")


def _shards(folder: Path) -> list[int]:
    found = (re.fullmatch(r"shard-(\d{6,})\.safetensors", path.name) for path in folder.iterdir())
    return sorted(int(match[1]) for match in found if match)


def _orphans(root: Path, files: list[Row], jobs: list[Row]) -> list[Path]:
    """Files that the catalogue does not know, halves of files, and partial results of no unfinished job."""
    known = {inside(root, row["path"]) for row in files}
    places = sorted({place for place, _ in PLACES.values()})
    lying = [path for place in places for path in (root / place).rglob("*") if path.is_symlink() or path.is_file()]
    going_on = {folder_of(job["name"]) for job in jobs if job["state"] != "done"}
    partials = root / "partials"
    over = [path for path in partials.iterdir() if path.name not in going_on] if partials.is_dir() else []
    halves = [*root.glob("*.tmp-*"), *(path for name in going_on for path in (partials / name).rglob("*.tmp-*"))]
    return sorted({*(path for path in lying if path not in known), *over, *halves})


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
