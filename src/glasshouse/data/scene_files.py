"""Scenes on disk: in Broden's format, or as a folder of images, masks and a manifest. Both can be read by anyone.

Either holds PNG files below `images/` and, in `manifest.jsonl`, a line for each image: its category, its factors and
the boxes of its parts. What the numbers in masks mean stands in `scenes.json`.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, TextIO, TypeAlias

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from glasshouse.core.errors import BadInput, not_found
from glasshouse.core.result import plain
from glasshouse.core.types import Progress
from glasshouse.data.directories import Folder, FolderCheck, folder
from glasshouse.data.segmentation_check import Check, check_broden
from glasshouse.data.segmentation_export import LabelledImage, export_broden, image_hash
from glasshouse.data.segmentations import Broden, broden
from glasshouse.data.world.scene import Scenes

FORMATS = ("folder", "broden")
MANIFEST, ABOUT = "manifest.jsonl", "scenes.json"
SCHEMA = 1
CATEGORIES = ("color", "object", "material", "part", "scene", "texture")
"""Broden's, in its order."""
SUFFIXES = {"color": "-c", "scene": "-s"}
"""What the names of these categories end in."""
MASKS = ("part", "object")

Named: TypeAlias = Iterator[tuple[Scenes, list[str]]]
"""Scenes in batches, with a name for each that no other has."""


def write_scenes(
    batches: Scenes | Iterable[Scenes],
    out: str | os.PathLike[str],
    *,
    format: str = "folder",
    n: int | None = None,
    train: float | int = 0.7,
    overwrite: bool = False,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Folder | Broden:
    """Write a set of scenes, and read it back. The folder appears when it is complete.

    - `folder`: `images/CATEGORY/NUMBER.png`, `masks/part/…` and `masks/object/…` at the same places; torchvision's
      `ImageFolder` reads `images`, and `data.folder` reads all of it.
    - `broden`: label maps of colours, objects, materials, parts and textures, and the kind of place as a label of
      the whole image.

    Args:
        batches: scenes, or an iterator such as `stream` makes; one batch at a time is in memory.
        out: a folder that is not there yet, or empty.
        n: how many scenes come in all, where an iterator cannot tell; it serves `progress` alone.
        train: share of the scenes that is called `train`, the rest `val`. Which ones follows from the MD5 hash of
            their names, as in Broden.
        overwrite: whether a set of scenes that is there already gives way, once the new one is complete.
        settings: what `stream` was asked for, to be kept in `scenes.json`.
        progress: called with (done, total). Broden counts images twice, as labels are numbered at the end.
    """
    if format not in FORMATS:
        raise not_found("format", format, FORMATS)
    if not 0 <= train <= 1:
        raise BadInput(f"train={train} is no share in 0…1.", "Try train=0.7.")
    batches, n = ([batches], len(batches)) if isinstance(batches, Scenes) else (batches, n)
    place = Path(os.path.abspath(Path(out).expanduser()))
    with _new_folder(place, overwrite) as part:
        stream = iter(batches)
        first = next(stream, None)
        if first is None:
            raise BadInput("there are no scenes to write.", "An iterator can be used only once.")
        writer = _Writer(part / "set", train, n or 0, settings or {}, progress)
        write = writer.broden if format == "broden" else writer.folder
        write(first, _named(first, chain([first], stream)))
    return read_set(Path(out).expanduser())


def labelled(scenes: Scenes) -> Iterator[LabelledImage]:
    """Each scene with its label maps, ready for `export_broden`, the kind of place as a label of the whole image.

    The names that the numbers stand for are in `broden_words(scenes)`.
    """
    planes = {name: scenes.labels[name].cpu() for name in CATEGORIES if name != "scene"}
    for row, (name, pixels) in enumerate(zip(scenes.ids, _bytes(scenes), strict=True)):
        place = int(scenes.labels["scene"][row, 0, 0])
        yield LabelledImage(
            f"{name}.png", pixels, {key: [plane[row]] for key, plane in planes.items()}, {"scene": [place]}
        )


def broden_words(scenes: Scenes) -> dict[str, tuple[str, ...]]:
    """The vocabulary of `labelled`, as Broden spells it: colours end in `-c`, kinds of place in `-s`."""
    return {
        name: ("-", *(word + SUFFIXES.get(name, "") for word in scenes.vocabulary[name][1:])) for name in CATEGORIES
    }


def read_set(path: str | os.PathLike[str]) -> Folder | Broden:
    """The data set in a folder, whatever its format: Broden's, a manifest with masks, or images alone."""
    root = Path(path)
    if (root / "index.csv").is_file():
        return broden(root)
    if (root / MANIFEST).is_file():
        return folder(root, manifest=MANIFEST, class_names=about_set(root).get("class_names"))
    return folder(root)


def check_set(path: str | os.PathLike[str], *, progress: Progress | None = None) -> Check | FolderCheck:
    """Everything that is wrong with the data set in a folder; all its files are read."""
    if (Path(path) / "index.csv").is_file():
        return check_broden(path, progress=progress)
    found = read_set(path)
    assert isinstance(found, Folder)
    return found.check(progress=progress)


def about_set(path: str | os.PathLike[str]) -> dict[str, Any]:
    """How a set of scenes was made, and what the numbers in its masks mean; empty for any other data set."""
    try:
        about = json.loads((Path(path) / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return about if isinstance(about, dict) and about.get("schema") == SCHEMA and "preset" in about else {}


def _named(first: Scenes, batches: Iterable[Scenes]) -> Named:
    """The batches with names; where faults show a scene again, it is `…-2`, `…-3`."""
    times: Counter[str] = Counter()
    for scenes in batches:
        if not scenes.with_labels:
            raise BadInput(f"{scenes!r} has no labels.", "Render with labels=True.")
        if (scenes.preset, scenes.size, scenes.n_objects) != (first.preset, first.size, first.n_objects):
            raise BadInput(f"{scenes!r} follows {first!r}.", "Scenes of one kind and size make one set; write two.")
        names = scenes.ids
        for row, name in enumerate(names if scenes.faults else ()):
            times[name] += 1
            names[row] += f"-{times[name]}" if times[name] > 1 else ""
        yield scenes, names


@dataclass(frozen=True)
class _Writer:
    """Where a set is written to, and how its progress is told."""

    out: Path
    train: float | int
    n: int
    settings: Mapping[str, Any]
    progress: Progress | None

    def broden(self, first: Scenes, named: Named) -> None:
        """Images, label maps and tables by `export_broden`, the manifest on the way."""
        lines = self.out.with_name(MANIFEST)
        n = 0

        def count(done: int, total: int) -> None:
            if self.progress:
                self.progress(done, 2 * self.n or total)

        with lines.open("w", encoding="utf-8") as manifest:

            def items() -> Iterator[LabelledImage]:
                nonlocal n
                for scenes, names in named:
                    for item, name, row in zip(labelled(scenes), names, _rows(scenes), strict=True):
                        self._line(manifest, name, f"images/{name}.png", row)
                        n += 1
                        yield replace(item, id=f"{name}.png")

            export_broden(items(), self.out, vocabulary=broden_words(first), split=self.train, progress=count)
        lines.rename(self.out / MANIFEST)
        self._about(first, n)

    def folder(self, first: Scenes, named: Named) -> None:
        """Images by category, masks at the same places, the manifest on the way."""
        n = 0
        with _text(self.out / MANIFEST) as manifest:
            for scenes, names in named:
                planes = {plane: scenes.labels[plane].to("cpu", torch.uint8) for plane in MASKS}
                for i, (name, pixels, row) in enumerate(zip(names, _bytes(scenes), _rows(scenes), strict=True)):
                    file = f"{row['label']}/{name.rpartition('/')[2]}.png"
                    _save(pixels, self.out / "images" / file)
                    for plane, numbers in planes.items():
                        _save(numbers[i], self.out / "masks" / plane / file)
                    self._line(manifest, name, f"images/{file}", {"mask": f"masks/{MASKS[0]}/{file}", **row})
                    n += 1
                    if self.progress:
                        self.progress(n, max(n, self.n))
        self._about(first, n)

    def _line(self, manifest: TextIO, name: str, image: str, row: Mapping[str, Any]) -> None:
        split = "train" if image_hash(f"{name}.png") <= self.train else "val"
        manifest.write(json.dumps({"id": name, "image": image, "split": split, **row}, ensure_ascii=False) + "\n")

    def _about(self, first: Scenes, n: int) -> None:
        about = {
            **{"schema": SCHEMA, "preset": first.preset, "n": n, "size": first.size, "seed": first.seed},
            **{"start": int(first.index[0]), "n_objects": first.n_objects},
            "settings": plain(dict(self.settings)),
            **{"shortcut": plain(first.shortcut), "faults": plain(first.faults)},
            **{"class_names": first.class_names, "part_names": first.part_names, "vocabulary": first.vocabulary},
        }
        (self.out / ABOUT).write_text(json.dumps(about, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _rows(scenes: Scenes) -> Iterator[dict[str, Any]]:
    """What a manifest says of each scene: named factors in words, the others as numbers; the parts that are there."""
    words = {factor.name: factor.values for factor in scenes.schema}
    factors = {name: value.tolist() for name, value in scenes.factors.items()}
    there = scenes.amodal.flatten(2).any(2).tolist()
    boxes, middles = scenes.boxes.tolist(), scenes.parts.double().cpu().round(decimals=3).tolist()
    signal, faults = scenes.signal.tolist(), {name: value.tolist() for name, value in scenes.manifest.items()}
    for i, category in enumerate(scenes.categories.tolist()):
        row: dict[str, Any] = {"label": scenes.class_names[category]}
        row["factors"] = {name: words[name][v[i]] if words[name] else v[i] for name, v in factors.items()}
        row["parts"] = {
            name: {"box": boxes[i][p], "middle": middles[i][p][:2], "visible": middles[i][p][2]}
            for p, name in enumerate(scenes.part_names)
            if there[i][p]
        }
        if scenes.shortcut:
            row["signal"] = scenes.class_names[signal[i]] if signal[i] >= 0 else None
        if faults:
            row["faults"] = {name: value[i] for name, value in faults.items()}
        yield row


def _bytes(scenes: Scenes) -> UInt8[Tensor, "n h w 3"]:
    """The pixels as they are stored."""
    return (scenes.images.cpu() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _save(values: UInt8[Tensor, "h w ..."], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.numpy()).save(path, compress_level=1)


@contextmanager
def _text(path: Path) -> Generator[TextIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        yield file


@contextmanager
def _new_folder(out: Path, overwrite: bool) -> Generator[Path]:
    """A folder beside `out` to work in; `set` in it becomes `out` if the body succeeds, and nothing is left if not."""
    there = out.exists() and not (out.is_dir() and not any(out.iterdir()))
    if there and not overwrite:
        raise BadInput(f"'{out}' is already there.", "Choose another folder, or say overwrite=True (--force).")
    if there and not about_set(out):
        raise BadInput(f"'{out}' holds no set of scenes, so it is not overwritten.", "Choose another folder.")
    if not out.parent.is_dir():
        raise BadInput(f"cannot write '{out}': there is no folder '{out.parent}'.", "Make it first, or name another.")
    part = out.with_name(f".{out.name}.tmp-{os.getpid()}")
    try:
        part.mkdir()
    except OSError as error:
        raise BadInput(f"cannot write '{out}': {error.strerror}.", "Choose another folder.") from error
    try:
        yield part
        if out.exists():
            out.rename(part / "old")
        try:
            (part / "set").rename(out)
        except BaseException:
            if (part / "old").exists():
                (part / "old").rename(out)
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
