"""What lies in a folder of images: which files, in which order, and what the names of its folders mean."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from glasshouse.core.errors import BadImage, BadInput, NotFound, nearest
from glasshouse.core.photo import SUFFIXES

SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing"})
"""Folders of these names, where there are no others, divide the images instead of naming classes."""

MOST_CLASSES = 2**31


@dataclass(frozen=True)
class Entry:
    """One image of a folder, before anything is read.

    Attributes:
        id: path from the folder on, with `/`, or what the manifest calls the image.
        target: number of its class, -1 where it has none.
        split: empty where it has none.
    """

    id: str
    image: Path
    target: int = -1
    mask: Path | None = None
    split: str = ""


Listed: TypeAlias = tuple[list[Entry], tuple[str, ...], list[str]]
"""Entries, names of the classes, and sentences that say how both were found."""


def list_folder(root: Path, class_names: Sequence[str] | None, leave_out: Path | None) -> Listed:
    """The images below `root` in natural order, with the classes and splits that its folders name."""
    if not any(root.iterdir()):
        raise BadInput(f"the folder '{root}' is empty.", "Check the path.")
    files: dict[str, Path] = {}
    for path in walk(root, leave_out):
        name = relative(path, root)
        if name in files:
            raise BadInput(f"'{files[name]}' and '{path}' have one name in Unicode's normal form.", "Rename one.")
        files[name] = path
    images = {name: path for name, path in files.items() if path.suffix.lower() in SUFFIXES}
    if not images:
        kinds = ", ".join(sorted(SUFFIXES))
        raise BadImage(f"the folder '{root}' holds no photographs.", f"Looked for files that end in {kinds}.")
    names = sorted(images, key=natural)
    splits, labels, chosen = _layout(names)
    numbers, class_names = _numbered(labels, class_names, root)
    entries = [
        Entry(name, images[name], numbers.get(label, -1), None, split)
        for name, label, split in zip(names, labels, splits, strict=True)
    ]
    others = Counter(path.suffix.lower() or "no suffix" for name, path in files.items() if name not in images)
    if others:
        kinds = ", ".join(sorted(others)[:5]) + (", …" if len(others) > 5 else "")
        chosen.append(f"left aside: {others.total()} of {len(files)} files, no photographs by their names ({kinds}).")
    return entries, class_names, [*chosen, "order: by path, numbers in names by their value."]


def walk(root: Path, leave_out: Path | None = None) -> Iterator[Path]:
    """All files below `root` but hidden ones. Links are followed, except to a folder that one is in already."""
    avoided = leave_out and os.path.realpath(leave_out)
    todo: list[tuple[str, frozenset[str]]] = [(str(root), frozenset())]
    while todo:
        folder, above = todo.pop()
        here = os.path.realpath(folder)
        if here in above or here == avoided:
            continue
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            raise BadInput(
                f"the folder '{folder}' cannot be read: {error.strerror}.", "Check who may read it."
            ) from error
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "Thumbs.db":
                continue
            if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                todo.append((entry.path, above | {here}))
            else:  # a link that leads nowhere too: an image that is missing should be missed
                yield Path(entry.path)


def relative(path: Path, root: Path) -> str:
    """The path from `root` on, the same text on every platform."""
    text, above = str(path), str(root) + os.sep
    text = text[len(above) :] if text.startswith(above) and ".." not in text else os.path.relpath(path, root)
    text = text.replace(os.sep, "/").encode(errors="surrogateescape")  # where names are no Unicode
    return unicodedata.normalize("NFC", text.decode(errors="backslashreplace"))


def natural(name: str) -> tuple[list[list[str | int]], str]:
    """Sorts `a2` before `a10`, and folder by folder."""
    parts = [re.split(r"(\d+)", part.casefold()) for part in name.split("/")]
    return [[int(piece) if i % 2 else piece for i, piece in enumerate(part)] for part in parts], name


def class_number(label: str, numbers: Mapping[str, int], place: str) -> int:
    """The class that a label names, by its name or its number; -1 where it is empty. `place` is for errors."""
    if label in ("", "-1"):
        return -1
    if label in numbers:
        return numbers[label]
    if is_number(label) and int(label) < (len(numbers) or MOST_CLASSES):
        return int(label)
    raise NotFound(f"{place}: no class '{label}' among the {len(numbers)} known.", nearest(label, numbers))


def is_number(label: str) -> bool:
    """Whether a label is a number rather than a name."""
    return re.fullmatch("[0-9]{1,18}", label) is not None


def _layout(names: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Split and class of each image, from the folders in its path; and what these were taken for."""
    parts = [name.split("/")[:-1] for name in names]
    tops = sorted({folders[0] if folders else "" for folders in parts})
    divided = all(top.lower() in SPLITS for top in tops)
    depth = 1 if divided else 0
    splits = [folders[0] if divided else "" for folders in parts]
    labels = [folders[depth] if len(folders) > depth else "" for folders in parts]
    chosen = [f"splits: the folders {some(tops)}."] if divided else []
    classes = sorted({label for label in labels if label})
    if not classes:
        return splits, labels, [*chosen, "classes: none, as no folders name any."]
    chosen.append(f"classes: the {len(classes)} folders {some(classes)}.")
    if n_beside := labels.count(""):
        chosen.append(f"without a class: {n_beside} of {len(names)} images, beside the folders of the classes.")
    return splits, labels, chosen


def _numbered(
    labels: Iterable[str], class_names: Sequence[str] | None, root: Path
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Number of each folder's class, and the names by number; in the order of torchvision if none is given."""
    seen = sorted({label for label in labels if label})
    names = tuple(seen if class_names is None else class_names)
    known = {name: number for number, name in enumerate(names)}
    return {label: class_number(label, known, f"folder '{label}' in '{root}'") for label in seen}, names


def some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
