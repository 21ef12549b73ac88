"""Images in which pixels have labels: what a data set must offer, and which pixels of a batch are a concept's.

The form is Broden's, one numbering of labels over several categories; whatever is brought into it, dissection reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from glasshouse.core.errors import BadInput, not_found
from glasshouse.core.result import Noun

Batch: TypeAlias = dict[str, Tensor]
"""Stacked items: `image`, and the label maps that `Labelled` describes."""


@dataclass(frozen=True)
class Label(Noun):
    """Something that is marked in images.

    Args:
        number: what stands for it in label maps, 1 or more; numbers may have gaps.
        name: colours end in `-c` and scenes in `-s`, as they do on disk.
        category: the one, among those that were loaded, in which the label covers most.
        frequency: number of images it appears in, counted once for each category.
        coverage: sum over all images of the share of pixels that it covers.
        synonyms: other names for it.
    """

    number: int
    name: str
    category: str
    frequency: int = 0
    coverage: float = 0.0
    synonyms: tuple[str, ...] = ()


@runtime_checkable
class Labelled(Protocol):
    """A data set whose pixels have labels. Items are dictionaries of tensors, of equal shapes for all items:

    - `image`: `c h w`, as the model is fed
    - `planes`: `m sh sw`, label numbers; 0 is no label. A category may have several planes
    - `plane_category`: `m`, which of `categories` each plane shows, -1 for empty planes that fill up to m
    - `whole`: `q`, numbers of the labels that hold for the whole image, filled up with 0
    - `whole_category`: `q`, likewise, filled up with -1

    A data set that labels images by running a network has items without label maps, and a method
    `complete(batch)` that adds them to a whole batch at once.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...

    @property
    def categories(self) -> tuple[str, ...]:
        """In the order in which tables list them."""
        ...

    @property
    def labels(self) -> tuple[Label, ...]:
        """By number."""
        ...


def last_number(data: Labelled) -> int:
    """The largest label number; tables over labels have one column more than that."""
    return max(label.number for label in data.labels)


def completed(data: Any, batch: Any) -> Batch:
    """The batch with its label maps, which some data sets make for a whole batch at once."""
    if hasattr(data, "complete"):
        batch = data.complete(batch)
    if not isinstance(batch, dict) or "planes" not in batch:
        raise BadInput(
            "the items of this data set have no label maps.",
            "Use data.broden, or data.with_labels(folder, names) around images with masks or scenes.",
        )
    return batch


def find_labels(labels: Sequence[Label], wanted: Sequence[str | int] | None) -> tuple[Label, ...]:
    """Labels by name or number, in the order asked for; None is all of them."""
    if wanted is None:
        return tuple(labels)
    named: dict[str | int, Label] = {label.number: label for label in labels}
    named |= {label.name: label for label in reversed(labels)}
    for name in wanted:
        if name not in named:
            raise not_found("concept", str(name), [label.name for label in labels])
    return tuple(named[name] for name in wanted)


def concept_masks(
    planes: Int[Tensor, "n m a b"], whole: Int[Tensor, "n q"], numbers: Sequence[int]
) -> Bool[Tensor, "n c a b"]:
    """Pixels that carry each label, in any plane or as a label of the whole image."""
    n, _, a, b = planes.shape
    slot = torch.zeros(max(int(planes.max()) if planes.numel() else 0, *numbers, 0) + 1, dtype=torch.long)
    slot[list(numbers)] = torch.arange(1, len(numbers) + 1)
    slot = slot.to(planes.device)
    marked = torch.zeros(n, len(numbers) + 1, a * b, dtype=torch.bool, device=planes.device)
    marked.scatter_(1, slot[planes.long()].flatten(2), True)
    wanted = torch.tensor(list(numbers), device=whole.device)
    everywhere = (whole[:, :, None] == wanted).any(1)
    return (marked[:, 1:] | everywhere[:, :, None].to(planes.device)).unflatten(2, (a, b))


def resize_labels(planes: Shaped[Tensor, "*m h w"], size: tuple[int, int]) -> Shaped[Tensor, "*m i j"]:
    """Nearest neighbour, pixel centres at half integers: each pixel takes the label that lies at its centre."""
    rows, columns = (
        (2 * torch.arange(new) + 1) * old // (2 * new) for old, new in zip(planes.shape[-2:], size, strict=True)
    )
    return planes[..., rows[:, None], columns]
