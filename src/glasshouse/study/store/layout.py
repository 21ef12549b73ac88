"""Where things lie in a study, by names that are safe on every file system."""

import re
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

from glasshouse.core.errors import BadInput

Kind: TypeAlias = Literal["array", "pack", "index", "noun"]
PLACES: dict[Kind, tuple[str, str]] = {
    "array": ("arrays", ".npy"),
    "pack": ("blobs", ".pack"),
    "index": ("blobs", ".idx.npy"),
    "noun": ("tensors", ".safetensors"),
}
PLAIN = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,79}", re.ASCII)
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.ASCII)  # names of devices on Windows


def check_name(kind: str, name: str) -> str:
    """Names that the program chooses: of arrays, nouns, facts."""
    if not PLAIN.fullmatch(name) or name.endswith(".") or RESERVED.fullmatch(name):
        raise BadInput(
            f"{name!r} cannot name {kind}.",
            "Use up to 80 small letters, digits and _ . -, with a letter or digit first.",
        )
    return name


def folder_of(name: str) -> str:
    """The folder for a layer or a job: its name where that is plain, else what is plain of it and a digest.

    Names that differ in anything have folders that differ in more than the case of letters.
    """
    if not name or not name.isprintable():
        raise BadInput(f"{name!r} cannot name a layer or a job.", "Use printable characters, at least one.")
    if PLAIN.fullmatch(name) and not name.endswith(".") and not RESERVED.fullmatch(name):
        return name
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:48]
    return f"{plain}~{sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def path_of(kind: Kind, layer: str, name: str, turn: int = 0) -> str:
    """Where a file lies, from the study's folder on. `turn` counts how often it was replaced."""
    place, suffix = PLACES[kind]
    again = f"~{turn}" if turn else ""
    inner = [folder_of(layer)] if layer else []
    return PurePosixPath(place, *inner, f"{name}{again}{suffix}").as_posix()


def turn_of(path: str) -> int:
    """The inverse of `path_of` as far as `turn` goes."""
    found = re.search(r"~(\d+)\.[^/~]*$", path)
    return int(found[1]) if found else 0


def inside(root: Path, path: str) -> Path:
    """The file that a catalogue calls `path`, which must lie in the study: catalogues of strangers are read too."""
    pure = PurePosixPath(path)
    found = root / pure
    if pure.is_absolute() or ".." in pure.parts or "\\" in path or "\0" in path or ":" in path:
        raise BadInput(f"the catalogue of '{root}' points to {path!r}, outside of it.")
    if not found.resolve().is_relative_to(root.resolve()):
        raise BadInput(f"'{found}' leads outside of the study.")
    return found
