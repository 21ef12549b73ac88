"""Writing images with label maps in Broden's format, so that anything that reads Broden can read them.

Names from all categories share one numbering, the most frequent first; a name that two categories use is one label.
"""

import csv
import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import length_hint
from pathlib import Path, PurePosixPath

import torch
from jaxtyping import Float, Int, Integer, UInt8
from PIL import Image
from torch import Tensor

from glasshouse.core.errors import BadInput, not_found
from glasshouse.core.types import Progress
from glasshouse.data.segmentation_labels import Record
from glasshouse.data.segmentation_pngs import LAST, read_labels, write_labels
from glasshouse.data.segmentation_tables import (
    CATEGORY_COLUMNS,
    CODE_COLUMNS,
    INDEX_COLUMNS,
    LABEL_COLUMNS,
    is_below,
    is_category,
)
from glasshouse.data.segmentations import Broden, broden


@dataclass(frozen=True, repr=False)
class LabelledImage:
    """An image, and what is marked in it. Values are places in the vocabulary of their category; 0 is no label.

    Args:
        id: path below `images/`, such as `ade20k/0001.jpg`; the suffix says how pixels are stored, and only
            `.png` keeps them exactly.
        planes: label maps of each category, the dominant one first, all of one size.
        whole: labels of the whole image in each category.
    """

    id: str
    pixels: UInt8[Tensor, "h w 3"]
    planes: Mapping[str, Sequence[Integer[Tensor, "sh sw"]]] = field(default_factory=dict[str, Sequence[Tensor]])
    whole: Mapping[str, Sequence[int]] = field(default_factory=dict[str, Sequence[int]])

    def __repr__(self) -> str:
        size = f"{self.pixels.shape[0]} x {self.pixels.shape[1]} px"
        return f"LabelledImage({', '.join([self.id, size, *dict.fromkeys([*self.planes, *self.whole])])})"


@dataclass(frozen=True)
class _Words:
    """All names of all categories under one provisional numbering, 0 being no label."""

    names: tuple[str, ...]
    numbers: Mapping[str, Int[Tensor, " v"]]
    synonyms: Mapping[str, Sequence[str]]

    def number(self, category: str, values: Tensor, where: str) -> Tensor:
        """Provisional numbers in place of places in a vocabulary."""
        table = self.numbers[category]
        low, high = (int(values.min()), int(values.max())) if values.numel() else (0, 0)
        if low < 0 or high >= len(table):
            raise BadInput(
                f"{where} has {low if low < 0 else high} in '{category}', whose vocabulary has 0…{len(table) - 1}.",
                "Give it more names, or set pixels without a label to 0.",
            )
        return table[values.long()]


@dataclass(frozen=True)
class _Counts:
    """Images and shares of pixels, for each name and category."""

    frequency: Int[Tensor, "names categories"]
    coverage: Float[Tensor, "names categories"]

    def add(self, column: int, planes: Sequence[Tensor], whole: Sequence[int]) -> None:
        """Count one image in one category."""
        covered = torch.zeros(len(self.frequency), dtype=torch.float64)
        for plane in planes:
            covered += torch.bincount(plane.flatten(), minlength=len(covered)).double() / plane.numel()
        covered[list(set(whole))] += 1
        covered[0] = 0
        self.frequency[:, column] += covered > 0
        self.coverage[:, column] += covered


def export_broden(
    items: Iterable[LabelledImage],
    out: str | os.PathLike[str],
    *,
    vocabulary: Mapping[str, Sequence[str]],
    split: float | int = 0.7,
    min_frequency: int = 1,
    min_coverage: float | int = 0,
    synonyms: Mapping[str, Sequence[str]] | None = None,
    progress: Progress | None = None,
) -> Broden:
    """Write a data set in Broden's format, and read it back.

    The folder appears when it is complete. Images are taken one by one; of each, only its row of the index stays
    in memory. Which split an image belongs to, and its place in the index, follow from the MD5 hash of its id.

    Args:
        out: a folder that is not there yet, or empty.
        vocabulary: for each category, in the order of the columns, its names; the first is `"-"`, no label.
        split: share of the images that is called `train`; the rest is `val`.
        min_frequency: labels in fewer images are left out (counted once for each category). Broden has 10.
        min_coverage: labels that cover less, in units of whole images, are left out. Broden has 0.5.
        synonyms: other names for a name; in vocabularies they count as that name.
        progress: called with (done, total); images are counted twice, as their label maps are numbered at the end.
    """
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise BadInput(f"'{out}' is already there.", "Delete it, or choose another folder.")
    if not 0 <= split <= 1:
        raise BadInput(f"split={split} is no share in 0…1.", "Try split=0.7.")
    words = _words(vocabulary, synonyms or {})
    shape = (len(words.names), len(vocabulary))
    counts = _Counts(torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.float64))
    part = out.with_name(f".{out.name}.tmp-{os.getpid()}")
    try:
        (part / "images").mkdir(parents=True)
        records, written, expected = list[Record](), set[str](), length_hint(items)
        for item in items:
            records.append(_write_item(part / "images", item, words, counts, written))
            if progress:
                progress(len(records), 2 * max(len(records), expected))
        if not records:
            raise BadInput(
                "there are no images to write.", "Check what items holds; an iterator can be used only once."
            )
        order = _order(counts, min_frequency, min_coverage)
        numbers = torch.zeros(len(words.names), dtype=torch.long)
        numbers[order] = torch.arange(1, len(order) + 1)
        for done, record in enumerate(records):
            _renumber(part / "images", record, numbers)
            if progress:
                progress(len(records) + done + 1, 2 * len(records))
        _write_tables(part, words, counts, order, records, numbers, split)
        if out.is_dir():
            out.rmdir()
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return broden(out)


def image_hash(name: str) -> float:
    """Where an image stands between 0 and 1: the first 8 bytes of the MD5 of its name, as a fraction."""
    return int.from_bytes(hashlib.md5(name.encode(), usedforsecurity=False).digest()[:8], "big") / 2**64


def _words(vocabulary: Mapping[str, Sequence[str]], synonyms: Mapping[str, Sequence[str]]) -> _Words:
    if not vocabulary:
        raise BadInput("the vocabulary has no category.", 'Give one, such as {"object": ("-", "cat", "dog")}.')
    proper = {other: name for name, others in synonyms.items() for other in others}
    names, numbers = {"-": 0}, dict[str, Tensor]()
    for category, listed in vocabulary.items():
        if not is_category(category):
            raise BadInput(f"a category cannot be called {category!r}.", "Use letters, digits, - and _.")
        if isinstance(listed, str) or not len(listed) or listed[0] != "-":
            raise BadInput(f"the names of '{category}' do not begin with '-', which is no label.", "Put '-' first.")
        if not all(listed):
            raise BadInput(f"an empty name in '{category}'.")
        unified = [proper.get(name, name) for name in listed]
        numbers[category] = torch.tensor([names.setdefault(name, len(names)) for name in unified])
    if len(names) > LAST + 1:
        raise BadInput(f"{len(names) - 1} names do not fit into two channels, which hold {LAST}.")
    if strange := [other for other in proper if not other or ";" in other]:
        raise BadInput(f"{strange[0]!r} cannot be a synonym: they are divided by ';' on disk.")
    return _Words(tuple(names), numbers, synonyms)


def _write_item(folder: Path, item: LabelledImage, words: _Words, counts: _Counts, written: set[str]) -> Record:
    """Write an image, and its label maps under provisional numbers; count them."""
    plane_size = _checked(item, words)
    stem = os.path.splitext(item.id)[0]
    Image.fromarray(item.pixels.cpu().numpy()).save(_new(folder, item.id, written), quality=95)
    planes, whole = list[tuple[str, str]](), list[tuple[str, int]]()
    for column, category in enumerate(words.numbers):
        maps = [words.number(category, plane.cpu(), f"'{item.id}'") for plane in item.planes.get(category, ())]
        labels = words.number(category, torch.tensor(list(item.whole.get(category, ()))), f"'{item.id}'").tolist()
        counts.add(column, maps, labels)
        whole += [(category, number) for number in labels]
        for place, plane in enumerate(maps):
            name = f"{stem}_{category}" + (f"_{place + 1}" if len(maps) > 1 else "") + ".png"
            write_labels(plane, _new(folder, name, written), compress_level=1)
            planes.append((category, name))
    size = (item.pixels.shape[0], item.pixels.shape[1])
    return Record(0, item.id, "", size, plane_size or size, tuple(planes), tuple(whole))


def _checked(item: LabelledImage, words: _Words) -> tuple[int, int] | None:
    """The one size of an image's label maps, if it has any; an error if it cannot be written."""
    if not item.id.lower().endswith((".png", ".jpg", ".jpeg")) or not is_below(item.id) or {*item.id} & {*";\\"}:
        raise BadInput(f"an image cannot be called {item.id!r}.", "Give a relative path that ends in .png or .jpg.")
    if item.pixels.dtype != torch.uint8 or item.pixels.ndim != 3 or item.pixels.shape[2] != 3:
        seen = f"{tuple(item.pixels.shape)} of {item.pixels.dtype}"
        raise BadInput(f"the pixels of '{item.id}' are {seen}.", "Give uint8 of h w 3.")
    for category in (*item.planes, *item.whole):
        if category not in words.numbers:
            raise not_found("category", category, words.numbers)
    sizes = {tuple(plane.shape) for planes in item.planes.values() for plane in planes}
    if len(sizes) > 1 or any(len(size) != 2 or 0 in size for size in sizes):
        raise BadInput(f"the label maps of '{item.id}' have sizes {sorted(sizes)}.", "Resize them to one size h w.")
    return next(((h, w) for h, w in sizes), None)


def _new(folder: Path, name: str, written: set[str]) -> Path:
    if name in written:
        raise BadInput(f"two images or label maps would be '{name}'.", "Give images ids that differ before the suffix.")
    written.add(name)
    path = folder / PurePosixPath(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _order(counts: _Counts, min_frequency: int, min_coverage: float | int) -> Int[Tensor, " kept"]:
    """The provisional numbers of the labels that are kept: most frequent first, then most coverage, then as given."""
    frequency, coverage = counts.frequency.sum(1), counts.coverage.sum(1)
    kept = ((frequency >= max(1, min_frequency)) & (coverage >= min_coverage)).nonzero()[:, 0].tolist()
    if not kept:
        raise BadInput(
            f"no label is in {min_frequency} images and covers {min_coverage} of one.",
            "Lower min_frequency or min_coverage, or give more images.",
        )
    return torch.tensor(sorted(kept, key=lambda name: (-int(frequency[name]), -float(coverage[name]))))


def _renumber(folder: Path, record: Record, numbers: Int[Tensor, " names"]) -> None:
    for _, name in record.planes:
        write_labels(numbers[read_labels(folder / name, record.plane_size)], folder / name)


def _write_tables(
    out: Path,
    words: _Words,
    counts: _Counts,
    order: Int[Tensor, " kept"],
    records: Sequence[Record],
    numbers: Int[Tensor, " names"],
    split: float | int,
) -> None:
    frequency, coverage = counts.frequency[order], counts.coverage[order]
    names = [words.names[name] for name in order.tolist()]
    categories = [(column, name) for column, name in enumerate(words.numbers) if frequency[:, column].any()]
    listed: list[list[object]] = []
    for column, category in categories:
        images, covers = frequency[:, column].tolist(), coverage[:, column].tolist()
        present = [row for row, n_images in enumerate(images) if n_images]
        listed.append([category, present[0] + 1, present[-1] + 1, len(present), sum(images)])
        present.sort(key=lambda row: (-images[row], -covers[row]))
        coded = [
            [code + 1, row + 1, names[row], images[row], f"{covers[row]:.12f}"] for code, row in enumerate(present)
        ]
        _write_table(out / f"c_{category}.csv", CODE_COLUMNS, coded)
    _write_table(out / "category.csv", CATEGORY_COLUMNS, listed)
    labels: list[list[object]] = []
    for row, name in enumerate(names):
        appears = [(category, int(frequency[row, column])) for column, category in categories if frequency[row, column]]
        appears.sort(key=lambda pair: -pair[1])
        within = ";".join(f"{category}({n_images})" for category, n_images in appears)
        synonyms = ";".join(words.synonyms.get(name, ()))
        amounts = (int(frequency[row].sum()), f"{float(coverage[row].sum()):.12f}")
        labels.append([row + 1, name, within, *amounts, synonyms])
    _write_table(out / "label.csv", LABEL_COLUMNS, labels)
    rows: list[list[object]] = []
    for record in sorted(records, key=lambda record: (image_hash(record.image), record.image)):
        final = replace(record, whole=tuple((category, int(numbers[n])) for category, n in record.whole))
        part = "train" if image_hash(record.image) <= split else "val"
        cells = [_cell(final, category) for _, category in categories]
        rows.append([record.image, part, *record.image_size, *record.plane_size, *cells])
    _write_table(out / "index.csv", [*INDEX_COLUMNS, *(category for _, category in categories)], rows)


def _cell(record: Record, category: str) -> str:
    files = [name for owner, name in record.planes if owner == category]
    numbers = [str(number) for owner, number in record.whole if owner == category and number]
    return ";".join(files + numbers)


def _write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
