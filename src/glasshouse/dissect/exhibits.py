"""What looking at single units gives: images picked for each of them, and how to show what was seen there."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.core import BadInput, Images, Masks, NotFound, Noun, resize
from glasshouse.core.shards import Data

Group: TypeAlias = Literal["strongest", "weakest", "random", "spectrum"]
Reduction: TypeAlias = Literal["max", "mean", "energy"]


@dataclass(frozen=True, repr=False)
class Picks(Noun):
    """Some images for each of u units, and where in each of them the unit is strongest.

    Args:
        ids: indices into the data set.
        values: score of the image for the unit.
        positions: row and column on the layer's grid.
        boxes: pixels seen from there, as (top, left, bottom, right) inside the image, the last two exclusive.
    """

    ids: Int[Tensor, "u k"]
    values: Float[Tensor, "u k"]
    positions: Int[Tensor, "u k 2"]
    boxes: Int[Tensor, "u k 4"]

    def __repr__(self) -> str:
        return f"Picks({self.ids.shape[1]} images for each of {len(self.ids)} units)"

    def rows(self, rows: slice) -> "Picks":
        """The picks of some of the units."""
        return Picks(self.ids[rows], self.values[rows], self.positions[rows], self.boxes[rows])


@dataclass(frozen=True, repr=False)
class Exemplars(Noun):
    """The images that show what each of u units responds to, and how it responds to all of them.

    Args:
        units: numbers of the units in the layer.
        score: how a map became one number per image.
        strongest, weakest: images at the two ends, the extreme one first.
        random: images drawn uniformly, the same for all units.
        spectrum: images at the nine deciles of the score, in a uniform sample of at most 1024 images.
        maps: of the units on their strongest images, at the layer's resolution.
        peak, mean: largest and average activation over all positions of all images.
        resting: share of these that are exactly 0.
        threshold: activation that the share `level` of these lie below.
        rank_error: how far the true share may be from `level`; 0 where it was counted.
        local: whether a unit sees nothing outside its box; else boxes show the direct path only.
        window: height and width of the receptive field in pixels, image border or not.
        image_size: height and width of the inputs in pixels.
        names: what the data set calls the images above, if it has `ids`.
    """

    layer: str
    units: Int[Tensor, " u"]
    score: Reduction
    strongest: Picks
    weakest: Picks
    random: Picks
    spectrum: Picks
    maps: Float[Tensor, "u k i j"]
    peak: Float[Tensor, " u"]
    mean: Float[Tensor, " u"]
    resting: Float[Tensor, " u"]
    threshold: Float[Tensor, " u"]
    level: float
    rank_error: float
    local: bool
    window: tuple[int, int]
    image_size: tuple[int, int]
    n_images: int
    names: dict[int, str] = field(default_factory=dict[int, str])
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        shown = f"{self.strongest.ids.shape[1]} of {self.n_images} images by {self.score}"
        if len(self.units) > 1:
            return f"Exemplars({self.layer}, {len(self.units)} units, {shown}, {int(self.dead.sum())} dead)"
        peak, mean, resting = (float(stat) for stat in (self.peak, self.mean, self.resting))
        numbers = f"peak {peak:.3g}, mean {mean:.3g}, {resting:.0%} at rest"
        return f"Exemplars({self.layer} unit {int(self.units)}, {shown}, {numbers})"

    @property
    def dead(self) -> Bool[Tensor, " u"]:
        """Units that are 0 at every position of every image."""
        return self.resting == 1

    def unit(self, unit: int) -> "Exemplars":
        """The same for a single unit, by its number in the layer."""
        row = self._row(unit)
        rows = slice(row, row + 1)
        groups = {name: getattr(self, name).rows(rows) for name in ("strongest", "weakest", "random", "spectrum")}
        per_unit = ("units", "maps", "peak", "mean", "resting", "threshold")
        return replace(self, **groups, **{name: getattr(self, name)[rows] for name in per_unit})

    def masks(self, unit: int) -> Masks:
        """Pixels of the strongest images where the unit is above its threshold.

        Maps are enlarged bilinearly, pixel centres at half integers (`align_corners=False`).
        """
        row = self._row(unit)
        return resize(self.maps[row][:, None], self.image_size)[:, 0] > self.threshold[row]

    def masked(self, images: Data, unit: int, *, dim: float = 0.25) -> Images:
        """The strongest images, with everything outside the unit's masks multiplied by `dim`.

        Args:
            images: pixels (0…1) of the whole data set, in its order and at the size of the inputs.
        """
        shown = self._shown(images, self.strongest, self._row(unit))
        return torch.where(self.masks(unit)[:, None].to(shown.device), shown, dim * shown)

    def patches(
        self,
        images: Data,
        unit: int,
        *,
        group: Group = "strongest",
        size: int | None = None,
        grey: float = 0.5,
    ) -> Float[Tensor, "k c p p"]:
        """What the unit saw in each image of a group: its receptive field, cut out and resized.

        Where the field reaches over the border of the image, the patch is grey; along an axis on which the
        field holds the whole image, the patch is the image.

        Args:
            images: pixels (0…1) of the whole data set, in its order and at the size of the inputs.
            size: side of the patches in pixels; None keeps the longer side of the field, or of the image
                where that is shorter.
        """
        row, picks = self._row(unit), getattr(self, group)
        side = size or min(max(self.window), max(self.image_size))
        pairs = zip(self._shown(images, picks, row), picks.boxes[row].tolist(), strict=True)
        return torch.cat([resize(self._cut(image, box, grey)[None], (side, side)) for image, box in pairs])

    def _cut(self, image: Tensor, box: Sequence[int], grey: float) -> Tensor:
        top, left, bottom, right = box
        edges: list[int] = []
        for low, high, window, limit in zip(
            (left, top), (right, bottom), self.window[::-1], self.image_size[::-1], strict=True
        ):
            beyond = max(window - (high - low), 0) if (low == 0) != (high == limit) else 0
            edges += [beyond, 0] if low == 0 else [0, beyond]
        return F.pad(image[:, top:bottom, left:right], edges, value=grey)

    def _shown(self, images: Data, picks: Picks, row: int) -> Tensor:
        if len(images) != self.n_images:
            raise BadInput(
                f"these are {len(images)} images, but exemplars were chosen among {self.n_images}.",
                "Pass the whole data set, in the same order.",
            )
        shown = torch.stack([image_of(images[index]) for index in picks.ids[row].tolist()])
        if tuple(shown.shape[-2:]) != self.image_size:
            raise BadInput(
                f"these images have {tuple(shown.shape[-2:])} pixels, the inputs had {self.image_size}.",
                "Pass the pixels that the inputs were made from: model.preprocess.pixels(inputs).",
            )
        return shown

    def _row(self, unit: int) -> int:
        found = (self.units == unit).nonzero()
        if not len(found):
            raise NotFound(
                f"unit {unit} is not among the {len(self.units)} units of this result.",
                f"They are {_listed(self.units.tolist())}.",
            )
        return int(found[0])


def image_of(item: Any) -> Tensor:
    """The image in an item of a data set, or the images in a batch: the item itself, its first part, or its `image`."""
    image = item[0] if isinstance(item, tuple | list) and item else item
    image = image.get("image") if isinstance(image, dict) else image
    if not isinstance(image, Tensor):
        raise BadInput(
            f"an item of the data set holds a {type(image).__name__} where an image tensor is due.",
            "Give tensors `c h w`, tuples that start with one, or dictionaries with one under 'image'.",
        )
    return image


def targets_of(batch: Any) -> Int[Tensor, " n"]:
    """The classes in a batch, whose items must have them."""
    target: Any = None
    with suppress(KeyError, IndexError):
        target = batch["target"] if isinstance(batch, dict) else batch[1] if isinstance(batch, tuple | list) else None
    if not isinstance(target, Tensor) or target.ndim != 1 or target.is_floating_point():
        raise BadInput(
            "the items of the data set do not say which class they are of.",
            "Give (image, class) or dictionaries with 'image' and 'target'; classes are whole numbers.",
        )
    return target.long()


def known_targets(batch: Any, n: int) -> Int[Tensor, " n"]:
    """The classes in a batch of n items, -1 where these have none."""
    try:
        return targets_of(batch).cpu()
    except BadInput:
        return torch.full((n,), -1)


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return f"{shown}, … {numbers[-1]}" if len(numbers) > 8 else shown
