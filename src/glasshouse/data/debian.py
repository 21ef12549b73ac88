"""Files inside Debian packages, read without installing or unpacking them.

A package is an `ar` archive, of which one member, `data.tar.…`, is a `tar` archive of what would be installed.
"""

import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from glasshouse.core.errors import BadInput


def read_deb(path: Path, ending: str) -> Mapping[str, bytes]:
    """The files in a Debian package whose names end so, by name."""
    with path.open("rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise BadInput(f"'{path}' is no Debian package.", "Pass a folder with the four files, or a .deb file.")
        while len(header := file.read(60)) == 60:
            name, size = header[:16].decode("latin-1").rstrip(" /"), header[48:58].strip()
            if header[58:] != b"`\n" or not size.isdigit() or int(size) > path.stat().st_size - file.tell():
                raise BadInput(f"'{path}' is damaged before byte {file.tell()}.", "Fetch it again.")
            if name.startswith("data.tar"):
                return _untar(file.read(int(size)), path, ending)
            file.seek(int(size) + int(size) % 2, os.SEEK_CUR)
    raise BadInput(f"'{path}' holds no data: it is cut short.", "Fetch it again.")


def _untar(data: bytes, path: Path, ending: str) -> Mapping[str, bytes]:
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            members = [member for member in archive if member.isfile() and member.name.endswith(ending)]
            opened = {member.name: archive.extractfile(member) for member in members}
            return {name: file.read() for name, file in opened.items() if file}
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise BadInput(
            f"'{path}' cannot be unpacked: {error}.",
            f"Fetch it again, or type: dpkg-deb -x {path.name} DIR, and pass the folder with the four files.",
        ) from error
