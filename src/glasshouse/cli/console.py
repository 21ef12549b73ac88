"""What the command line says: results on stdout, everything else on stderr, files written whole or not at all."""

import json
import os
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA = 1
SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True)
class Console:
    """How to speak, from the global flags."""

    quiet: bool = False
    json: bool = False

    def result(self, text: str) -> None:
        """A line of the answer; with `--json` the document is the answer."""
        if not self.json:
            _write(text)

    def document(self, command: str, values: Mapping[str, Any]) -> None:
        """The answer as one JSON document, with `--json`."""
        if self.json:
            _write(json.dumps({"schema": SCHEMA, "command": command, **values}, ensure_ascii=False))

    def note(self, text: str) -> None:
        """Something worth knowing that is not the answer."""
        if not self.quiet:
            _write(text, aside=True)

    def warn(self, text: str) -> None:
        """Something the reader can change; also said when quiet."""
        _write(f"warning: {text}", aside=True)

    def error(self, text: str, hint: str = "") -> None:
        """Why it did not work and what to do; in the document too, as there is no other."""
        _write(f"error: {text}" + (f"\nhint: {hint}" if hint else ""), aside=True)
        self.document("error", {"error": text, "hint": hint})

    @contextmanager
    def progress(self, label: str) -> Generator[Callable[[int, int], None]]:
        """A bar on a terminal, elsewhere a line every ten seconds, nothing when quiet."""
        if self.quiet:
            yield lambda done, total: None
        elif sys.stderr.isatty() and not os.environ.get("CI") and os.environ.get("TERM") != "dumb":
            with _bar(label) as report:
                yield report
        else:
            yield _lines(label, self.note)


current: ContextVar[Console] = ContextVar("console", default=Console())  # noqa: B039 - it is frozen
"""The console of the command that runs. (Typer's context would do, but its annotation names a class it is not of.)"""


def _write(text: str, *, aside: bool = False) -> None:
    """A line to stdout, or aside to stderr, in whatever letters the terminal has."""
    file = sys.stderr if aside else sys.stdout
    encoding = file.encoding or "utf-8"
    file.write(text.encode(encoding, "replace").decode(encoding) + "\n")
    file.flush()


def _lines(label: str, say: Callable[[str], None]) -> Callable[[int, int], None]:
    start = time.monotonic()
    said = [start]

    def report(done: int, total: int) -> None:
        now = time.monotonic()
        if done and now - said[0] >= SECONDS_BETWEEN_LINES:
            said[0] = now
            left = (now - start) / done * (total - done)
            say(f"{label}: {done} of {total}, {now - start:.0f} s, about {left:.0f} s left")

    return report


@contextmanager
def _bar(label: str) -> Generator[Callable[[int, int], None]]:
    from rich.console import Console as Rich
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Rich(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def new_file(path: Path) -> Generator[Path]:
    """A file beside `path` to write to; it takes that name if the body succeeds, and is gone if not.

    It is made at once, so that a place that cannot be written to is found before any work.
    """
    from glasshouse.core.errors import BadInput

    path = path.expanduser()
    if path.is_dir():
        raise BadInput(f"'{path}' is a folder.", f"Name a file in it, such as {path / 'report.html'}.")
    if not path.parent.is_dir():
        raise BadInput(f"cannot write '{path}': there is no folder '{path.parent}'.", "Make it first, or name another.")
    part = path.with_name(f".{path.stem}.tmp-{os.getpid()}{path.suffix}")
    try:
        try:
            part.touch(exist_ok=False)
        except OSError as error:
            raise BadInput(f"cannot write '{path}': {error.strerror}.", "Name another place with --out.") from error
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def columns(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows as lines with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
