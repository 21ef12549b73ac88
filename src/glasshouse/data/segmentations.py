"""Images in which every pixel has labels: Broden, or any data set in its format.

Broden joins segmentations of objects, parts, materials, colours, scenes and textures under one numbering of
labels. Bau, Zhou, Khosla, Oliva and Torralba, "Network Dissection", CVPR 2017. Example:
`examples/data/broden.py`.
"""

import os
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from glasshouse.core.errors import BadInput, NotFound, not_found
from glasshouse.core.image import resize
from glasshouse.core.labelled import Label, resize_labels
from glasshouse.data.segmentation_labels import Codes, Problem, Record, refuse
from glasshouse.data.segmentation_pngs import read_labels, read_pixels
from glasshouse.data.segmentation_tables import choose, read_records, read_tables


@dataclass(frozen=True, repr=False)
class Broden:
    """Images with label maps, read from disk one by one.

    Item `i` is a dictionary of tensors, of the same shapes for all items if images have one size and label maps too:

    - `image`: `3 h w`, pixels in 0…1
    - `planes`: `m sh sw`, label numbers; 0 is no label. A category may have several planes, the dominant one first
    - `plane_category`: `m`, which of `categories` each plane shows, -1 for the empty planes that fill up to m
    - `whole`: `q`, numbers of the labels that hold for the whole image, filled up with 0
    - `whole_category`: `q`, likewise, filled up with -1

    Args:
        categories: in the order of the data set.
        labels: those that appear in these categories, by number.
        records: the rows of the index that have something marked in these categories.
        split: the part that was chosen, if one was.
        size, plane_size: height and width that images and label maps are resized to; None leaves them as they are.
        n_planes, n_whole: m and q, the most that any image has.
        last_number: largest label number of the data set. Tables over labels have one column more than that.
    """

    path: Path
    categories: tuple[str, ...]
    labels: tuple[Label, ...]
    records: tuple[Record, ...]
    codings: tuple[Codes, ...]
    split: str | None
    size: tuple[int, int] | None
    plane_size: tuple[int, int] | None
    n_planes: int
    n_whole: int
    last_number: int

    def __repr__(self) -> str:
        part = f" of '{self.split}'" if self.split else ""
        kinds = f"{len(self.labels)} labels in {', '.join(self.categories)}"
        return f"Broden({self.path.name}, {len(self)} images{part}, {kinds})"

    def __len__(self) -> int:
        return len(self.records)

    @property
    def ids(self) -> tuple[str, ...]:
        """What each image is called: its path below `images/`."""
        return tuple(record.image for record in self.records)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        record = self.records[index]
        image = read_pixels(self.path / "images" / record.image, record.image_size)
        if self.size:
            image = resize(image[None], self.size)[0].clamp(0, 1)
        whole = torch.zeros(self.n_whole, dtype=torch.long)
        whole[: len(record.whole)] = torch.tensor([number for _, number in record.whole], dtype=torch.long)
        return {
            "image": image,
            "planes": self._planes(record),
            "plane_category": self._places([category for category, _ in record.planes], self.n_planes),
            "whole": whole,
            "whole_category": self._places([category for category, _ in record.whole], self.n_whole),
        }

    def label(self, number: int) -> Label:
        """The label with this number."""
        place = bisect_left(self.labels, number, key=lambda label: label.number)
        if place < len(self.labels) and self.labels[place].number == number:
            return self.labels[place]
        raise NotFound(f"no label {number} in {', '.join(self.categories)}.", f"There are {len(self.labels)} labels.")

    def category_of(self, number: int) -> str:
        """The category in which a label covers most, among those that were loaded."""
        return self.label(number).category

    def codes(self, category: str) -> Codes:
        """The numbering of one category without gaps, as its own table has it."""
        for coding in self.codings:
            if coding.category == category:
                return coding
        raise not_found("category", category, self.categories)

    def subset(self, indices: Sequence[int]) -> "Broden":
        """Some of the images, in this order; items keep their shapes."""
        if not len(indices):
            raise BadInput("a subset of no images.", "Give at least one index.")
        return replace(self, records=tuple(self.records[index] for index in indices))

    def _planes(self, record: Record) -> Tensor:
        planes = torch.zeros(self.n_planes, *(self.plane_size or record.plane_size), dtype=torch.long)
        for place, (_, path) in enumerate(record.planes):
            file = self.path / "images" / path
            plane = read_labels(file, record.plane_size)
            if (largest := int(plane.max())) > self.last_number:
                raise BadInput(f"'{file}' holds label {largest}, and label.csv ends at {self.last_number}.")
            planes[place] = resize_labels(plane, self.plane_size) if self.plane_size else plane
        return planes

    def _places(self, categories: Sequence[str], length: int) -> Tensor:
        places = [self.categories.index(category) for category in categories]
        return torch.tensor(places + [-1] * (length - len(places)), dtype=torch.long)


def broden(
    path: str | os.PathLike[str],
    *,
    categories: Sequence[str] | None = None,
    split: str | None = None,
    size: tuple[int, int] | None = None,
    plane_size: tuple[int, int] | None = None,
    on_skip: Callable[[str, str], None] | None = None,
) -> Broden:
    """The data set in a folder, which holds `index.csv`, its tables and `images/`.

    Images without anything marked in the chosen categories are left out. A file that is missing or broken is an
    error when its image is read; `sweep` can go on without it.

    Args:
        categories: those to read, such as `("object", "part")`; None reads all of them.
        split: `"train"` or `"val"` in Broden; None takes all images.
        size: height and width to resize images to (antialiased).
        plane_size: height and width to resize label maps to (nearest neighbour). Broden's are half as large as
            its images.
        on_skip: called with name and reason for each image left out because its row in the index is broken or one
            of its files is missing; without it, a broken row is an error.
    """
    path = Path(path)
    if not path.is_dir():
        raise BadInput(f"no folder '{path}'.", "Give the folder that holds index.csv.")
    for name, value in (("size", size), ("plane_size", plane_size)):
        if value is not None and min(value) < 1:
            raise BadInput(f"{name} is (height, width) in pixels, not {value}.", f"Try {name}=(112, 112).")
    tables = read_tables(path, refuse)
    chosen = choose(categories, tables.members)
    records: list[Record] = []
    splits: set[str] = set()
    for record, problems in read_records(path, tables, chosen):
        if record is None or (problems and on_skip is None):
            refuse(problems[0])
            continue
        splits.add(record.split)
        if split not in (None, record.split) or not (record.planes or record.whole or problems):
            continue
        reason = _unusable(path, record, problems) if on_skip else ""
        if on_skip and reason:
            on_skip(record.image or f"index.csv line {record.line}", reason)
        else:
            records.append(record)
    if split is not None and split not in splits:
        raise not_found("split", split, sorted(splits))
    if not records:
        raise BadInput(f"'{path}' has no usable image with labels in {', '.join(chosen)}.", "Choose other categories.")
    return Broden(
        path=path,
        categories=chosen,
        labels=tables.labels(chosen),
        records=tuple(records),
        codings=tuple(tables.codes(category) for category in chosen),
        split=split,
        size=size,
        plane_size=plane_size,
        n_planes=max(len(record.planes) for record in records),
        n_whole=max(len(record.whole) for record in records),
        last_number=max(tables.entries),
    )


def _unusable(path: Path, record: Record, problems: Sequence[Problem]) -> str:
    """Why an image cannot be used, or nothing."""
    if problems:
        return repr(problems[0])
    files = (record.image, *(file for _, file in record.planes))
    return next((f"no file 'images/{file}'" for file in files if not (path / "images" / file).is_file()), "")
