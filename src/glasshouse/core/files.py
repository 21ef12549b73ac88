"""Files that are there whole or not at all, whenever the machine stops."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO


@contextmanager
def written(path: Path) -> Generator[BinaryIO]:
    """A file to write, which takes the place of `path` once the `with` ends well and the bytes are on the disk.

    When the body fails nothing is left of it. A process that is killed leaves `NAME.tmp-PID-…`, which nobody reads.
    """
    part = path.with_name(f"{path.name}.tmp-{os.getpid()}-{token_hex(4)}")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    if os.name == "posix":  # a rename lasts once the folder is on the disk as well
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
