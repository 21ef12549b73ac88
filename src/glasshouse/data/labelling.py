"""Any images with masks, or with a network that makes masks, as a data set that can be dissected.

data.with_labels(data.scenes("houses", 1000))                           # all planes of the scene world
data.with_labels(data.folder("photos", masks="masks"), ["sky", "car"])  # your own masks
data.segmented(photos, segmenter, ["sky", "car"])                       # masks by a network
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from glasshouse.core.errors import BadInput
from glasshouse.core.fingerprints import names_of
from glasshouse.core.labelled import Batch, Label, Labelled, completed
from glasshouse.core.model import Preprocess
from glasshouse.core.shards import Data
from glasshouse.data.directories import Folder
from glasshouse.data.scene_files import broden_words
from glasshouse.data.world.scene import Scenes

Segmenter: TypeAlias = Callable[[Tensor], Tensor]
"""From pixels or inputs `n c h w` to label numbers `n h w`, or to scores `n l h w` of which the largest counts."""


@dataclass(frozen=True, eq=False, repr=False)
class Remade:
    """A data set of which each item is made from an item of another, under the same name."""

    source: Data

    def __len__(self) -> int:
        return len(self.source)

    @property
    def ids(self) -> Sequence[Any]:
        """What the images are called."""
        return names_of(self.source)


@dataclass(frozen=True, eq=False, repr=False)
class LabelledData(Remade):
    """Images with label maps, of which each item is made from an item of another data set.

    Args:
        read: from an item of the source to label maps and labels of the whole image, by category.
    """

    categories: tuple[str, ...]
    labels: tuple[Label, ...]
    read: Callable[[Any], tuple[Mapping[str, Tensor], Mapping[str, int]]]

    def __repr__(self) -> str:
        return f"LabelledData({self.source!r}, {len(self.labels)} labels in {', '.join(self.categories)})"

    def __getitem__(self, index: int, /) -> dict[str, Tensor]:
        item = self.source[index]
        planes, whole = self.read(item)
        return _item(item, self.categories, planes, whole)


@dataclass(frozen=True, eq=False, repr=False)
class SegmentedData(Remade):
    """Images whose label maps a network makes, a batch at a time."""

    categories: tuple[str, ...]
    labels: tuple[Label, ...]
    segmenter: Segmenter

    def __repr__(self) -> str:
        return f"SegmentedData({self.source!r}, {len(self.labels)} labels)"

    def __getitem__(self, index: int, /) -> dict[str, Tensor]:
        item = self.source[index]
        if isinstance(item, dict):
            return {name: item[name] for name in ("image", "target") if name in item}
        return {"image": item[0] if isinstance(item, tuple | list) else item}

    def complete(self, batch: Batch) -> Batch:
        """The batch with its label maps."""
        with torch.no_grad():
            found = self.segmenter(batch["image"])
        numbers = found.argmax(1) if found.ndim == 4 else found
        if numbers.ndim != 3 or len(numbers) != len(batch["image"]) or numbers.is_floating_point():
            raise BadInput(
                f"the segmenter gave {found.dtype} of shape {tuple(found.shape)} for {len(batch['image'])} images.",
                "It gives whole numbers `n h w`, 0 for nothing, or scores `n l h w`.",
            )
        if int(numbers.max()) > len(self.labels):
            raise BadInput(f"the segmenter gave number {int(numbers.max())}; there are {len(self.labels)} names.")
        n = len(numbers)
        none = torch.zeros(n, 0, dtype=torch.long)
        planes = numbers.long().cpu()[:, None]
        places = {"plane_category": torch.zeros(n, 1, dtype=torch.long), "whole": none, "whole_category": none}
        return {**batch, "planes": planes, **places}


@dataclass(frozen=True, eq=False, repr=False)
class Inputs(Remade):
    """A data set whose images, pixels in 0…1, are brought into the form in which a model takes them.

    Label maps and everything else pass as they are, so images must already have the model's size where there are any.
    """

    preprocess: Preprocess

    def __repr__(self) -> str:
        return f"Inputs({self.source!r})"

    def __getitem__(self, index: int, /) -> Any:
        item = self.source[index]
        if isinstance(item, dict):
            return {**item, "image": self._input(item["image"], bool({"planes", "mask"} & set(item)))}
        if isinstance(item, tuple | list):
            return (self._input(item[0], False), *item[1:])
        return self._input(item, False)

    def _input(self, pixels: Tensor, has_masks: bool) -> Tensor:
        if tuple(pixels.shape[1:]) == tuple(self.preprocess.size):
            return self.preprocess.normalise(pixels[None])[0]
        if has_masks:
            raise BadInput(
                f"an image with masks has {tuple(pixels.shape[1:])} pixels, the model takes {self.preprocess.size}.",
                "Read the data set with size=model.preprocess.size, so that its masks are cut alike.",
            )
        return self.preprocess(pixels)[0]


class LabelledInputs(Inputs):
    """The same for a data set with label maps."""

    @property
    def categories(self) -> tuple[str, ...]:
        return self.source.categories  # type: ignore[attr-defined] - inputs() looked

    @property
    def labels(self) -> tuple[Label, ...]:
        return self.source.labels  # type: ignore[attr-defined]

    def complete(self, batch: Batch) -> Batch:
        """The batch with its label maps; a network that makes them sees pixels, as it would without `inputs`."""
        if not hasattr(self.source, "complete"):
            return completed(self.source, batch)
        pixels = self.preprocess.pixels(batch["image"])
        return {**completed(self.source, {**batch, "image": pixels}), "image": batch["image"]}


def inputs(source: Data, preprocess: Preprocess) -> Inputs:
    """The same data set with images as a model takes them: resized where that is needed, and normalised.

    data.inputs(data.folder("photos"), model.preprocess)
    """
    return (LabelledInputs if isinstance(source, Labelled) else Inputs)(source, preprocess)


def with_labels(source: Scenes | Folder | Labelled, names: Sequence[str] | None = None) -> Labelled:
    """Label maps in Broden's form for scenes, or for a folder with masks.

    Args:
        names: of the values in a folder's masks: `names[0]` is what value 1 means, 0 is nothing. None calls them
            `label 1` to the largest that there is, for which every mask is read once.
    """
    if isinstance(source, Scenes):
        return _scenes(source)
    if isinstance(source, Folder):
        return _folder(source, names)
    if isinstance(source, Labelled):
        return source
    raise BadInput(
        f"a {type(source).__name__} has no masks.", "Give scenes, a folder with masks, or use data.segmented."
    )


def segmented(source: Data, segmenter: Segmenter, names: Sequence[str], *, category: str = "object") -> SegmentedData:
    """Images whose label maps a segmentation network makes, as in Bau et al., PNAS 2020.

    Args:
        segmenter: is given the images as the data set has them.
        names: what its numbers mean, from 1 on; 0 is nothing.
    """
    return SegmentedData(source, (category,), _numbered({category: names}), segmenter)


def _scenes(scenes: Scenes) -> LabelledData:
    words = {category: names[1:] for category, names in broden_words(scenes).items()}
    first = dict(zip(words, _starts(words), strict=True))

    def read(item: Any) -> tuple[dict[str, Tensor], dict[str, int]]:
        planes = {name: item["labels"][name].long() for name in words if name != "scene"}
        shifted = {name: torch.where(plane > 0, plane + first[name], 0) for name, plane in planes.items()}
        place = int(item["labels"]["scene"][0, 0])
        return shifted, {"scene": place + first["scene"] if place else 0}

    return LabelledData(scenes, tuple(words), _numbered(words), read)


def _folder(folder: Folder, names: Sequence[str] | None) -> LabelledData:
    if not folder.has_masks:
        raise BadInput(f"{folder!r} has no masks.", "Read it with data.folder(path, masks=…).")
    if names is None:
        largest = max(int(folder[index]["mask"].max()) for index in range(len(folder)))
        names = [f"label {value}" for value in range(1, largest + 1)]

    def read(item: Any) -> tuple[dict[str, Tensor], dict[str, int]]:
        mask = item["mask"].long()
        if int(mask.max()) > len(names):
            raise BadInput(f"a mask holds {int(mask.max())}, and there are {len(names)} names.", "Name them all.")
        return {"object": mask}, {}

    return LabelledData(folder, ("object",), _numbered({"object": names}), read)


def _starts(words: Mapping[str, Sequence[str]]) -> list[int]:
    counts = [len(names) for names in words.values()]
    return [sum(counts[:place]) for place in range(len(counts))]


def _numbered(words: Mapping[str, Sequence[str]]) -> tuple[Label, ...]:
    pairs = [(name, category) for category, names in words.items() for name in names]
    return tuple(Label(number, name, category) for number, (name, category) in enumerate(pairs, 1))


def _item(
    item: Any, categories: Sequence[str], planes: Mapping[str, Tensor], whole: Mapping[str, int]
) -> dict[str, Tensor]:
    place = {name: number for number, name in enumerate(categories)}
    rest = {"target": item["target"]} if "target" in item else {}
    return {
        "image": item["image"],
        **rest,
        "planes": torch.stack(list(planes.values())),
        "plane_category": torch.tensor([place[name] for name in planes]),
        "whole": torch.tensor(list(whole.values()), dtype=torch.long),
        "whole_category": torch.tensor([place[name] for name in whole], dtype=torch.long),
    }
