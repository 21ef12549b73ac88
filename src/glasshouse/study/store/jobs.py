"""Jobs of a study: long work that has a name, is done once, and goes on where it was interrupted."""

import json
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, time
from typing import Any

from glasshouse.core.errors import BadInput
from glasshouse.study.store.catalog import Catalog


@dataclass(frozen=True)
class Job:
    """One run at a job.

    Attributes:
        done: it was finished before, with the same settings; there is nothing to do.
        resumes: how often it was begun again.
        partials: folder for `sweep(into=…)`; removed once the job is done.
    """

    name: str
    fingerprint: str
    done: bool
    resumes: int
    partials: Path


@contextmanager
def working(
    catalog: Catalog, name: str, fingerprint: str, facts: Mapping[str, Any], partials: Path, restart: bool
) -> Generator[Job]:
    """State, seconds and resumptions of a job, kept in the catalogue for the length of the `with`."""
    known = catalog.rows("SELECT * FROM jobs WHERE name = ?", name)
    then = known[0] if known and not restart else None
    if then and then["fingerprint"] != fingerprint:
        raise BadInput(
            f"job '{name}' is {then['state']} with other settings: {then['fingerprint']!r}, not {fingerprint!r}.",
            "Give it another name, or pass restart=True to forget what it found.",
        )
    if then and then["state"] == "done":
        yield Job(name, fingerprint, True, then["resumes"], partials)
        return
    if restart:
        shutil.rmtree(partials, ignore_errors=True)
    partials.mkdir(parents=True, exist_ok=True)
    resumes, spent, begun = (then["resumes"] + 1, then["seconds"], monotonic()) if then else (0, 0.0, monotonic())
    with catalog.transaction() as db:
        row = (name, fingerprint, "running", time(), spent, resumes, "", json.dumps(dict(facts)))
        db.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def ended(state: str, error: str = "") -> None:
        with catalog.transaction() as db:
            seconds = spent + monotonic() - begun
            db.execute(
                "UPDATE jobs SET state = ?, seconds = ?, error = ? WHERE name = ?", (state, seconds, error, name)
            )

    try:
        yield Job(name, fingerprint, False, resumes, partials)
    except BaseException as error:
        ended("failed", f"{type(error).__name__}: {error}".strip(": "))
        raise
    ended("done")
    shutil.rmtree(partials, ignore_errors=True)
