"""What can be asked of a model about an image: which parts of it stay, and what replaces the others.

An image is cut into features: the cells of a grid (pixels are the finest one), single values of each channel, or
segments of any shape. A question names the features that stay; pixels are made from it only when it is asked.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.core import BadInput, Images, Maps, generator
from glasshouse.core.mask import blend, cell_sums, cells, ranks
from glasshouse.evaluate.baselines import Baseline, Donors, Fill, depends_on_mask, filling, fingerprint, substrate

Grid: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Elements:
    """Every value of an image is a feature of its own, each channel by itself."""

    shape: tuple[int, int, int]

    @property
    def key(self) -> tuple[Any, ...]:
        return "elements", *self.shape


@dataclass(frozen=True, eq=False)
class Segments:
    """Features of any shape: a number from 0 upwards at each pixel; images may have different numbers of segments."""

    labels: Int[Tensor, "n h w"]
    name: str

    @staticmethod
    def of(labels: Int[Tensor, "n h w"]) -> "Segments":
        """From a label map; labels are counted from 0 in each image, in the order of their numbers."""
        counted = torch.stack([each.unique(return_inverse=True)[1].view_as(each) for each in labels])
        return Segments(counted, fingerprint(counted))

    @property
    def key(self) -> tuple[Any, ...]:
        return "segments", self.name

    @property
    def counts(self) -> Int[Tensor, " n"]:
        """How many segments each image has."""
        return self.labels.flatten(1).amax(1) + 1


Features: TypeAlias = Grid | Elements | Segments


def features_key(features: Features) -> tuple[Any, ...]:
    return features if isinstance(features, tuple) else features.key


def total_of(features: Features) -> int:
    """How many features there are; of segments, the most that any image has."""
    if isinstance(features, tuple):
        return features[0] * features[1]
    if isinstance(features, Elements):
        return features.shape[0] * features.shape[1] * features.shape[2]
    return int(features.counts.max())


@dataclass(frozen=True)
class Cells:
    """Which features stay, one byte each, the same for every image."""

    grid: Features
    kept: bytes

    @property
    def key(self) -> tuple[Any, ...]:
        return features_key(self.grid), self.kept


@dataclass(frozen=True, eq=False)
class Order:
    """The features of each image by importance: `ranks` is 0 for the one that an explanation marks most."""

    grid: Features
    ranks: Int[Tensor, "n g"]
    name: str


@dataclass(frozen=True)
class Ranked:
    """The features whose rank lies in `low … high - 1` stay."""

    order: Order
    low: int
    high: int

    @property
    def key(self) -> tuple[Any, ...]:
        return features_key(self.order.grid), self.order.name, self.low, self.high


Keep: TypeAlias = Cells | Ranked
FULL, NOTHING = Cells((1, 1), b"\1"), Cells((1, 1), b"\0")
Change: TypeAlias = Callable[[Images, Int[Tensor, " m"]], Images]
"""From copies of some images, and the number of each, to what is to be shown instead."""


class Question(NamedTuple):
    """One version of every image, with some features replaced."""

    keep: Keep
    baseline: float | int | str | Fill | Donors

    @property
    def key(self) -> tuple[Any, ...]:
        return (*self.keep.key, name_of(self.baseline))


@dataclass(frozen=True, eq=False)
class Changed:
    """One version of every image, made by a function: noise added, a soft mask multiplied, drawn again.

    Args:
        name: tells this change from every other; equal names are asked once.
        change: must treat every image as if it were alone.
        draws: other changes to ask for instead, whose mean answer is wanted.
    """

    name: tuple[Any, ...]
    change: Change
    draws: tuple["Changed", ...] = ()

    @property
    def key(self) -> tuple[Any, ...]:
        return "changed", *self.name


Asked: TypeAlias = Question | Changed
CLEAN = Question(FULL, "")


def name_of(baseline: float | int | str | Fill | Donors) -> float | int | str:
    """What tells a baseline from every other."""
    return baseline.name if isinstance(baseline, Fill | Donors) else baseline


def parts_of(question: Asked) -> tuple[Asked, ...]:
    """What is asked of the model: the question itself, or one over each donor, and the answer is their mean."""
    if isinstance(question, Changed):
        return question.draws or (question,)
    if isinstance(question.baseline, Donors):
        return tuple(question._replace(baseline=fill) for fill in question.baseline.fills)
    return (question,)


def keeping(keep: Keep, baseline: Baseline) -> Question:
    """The question in its shortest form, so that equal ones are recognised."""
    if isinstance(keep, Ranked):
        total = keep.order.ranks.shape[1]
        everything, nothing = keep.low <= 0 and keep.high >= total, keep.low >= min(keep.high, total)
    else:
        everything, nothing = 0 not in keep.kept, 1 not in keep.kept
    return CLEAN if everything else Question(NOTHING if nothing else keep, filling(baseline))


def grid_of(size: tuple[int, int], cells_px: int = 16) -> Grid:
    """Rows and columns of about `cells_px` pixels: 7 to 14 along the shorter side, if it has as many.

    Equal cells where the side allows it: where they differ, any map without negative values puts the large ones first.
    """
    shorter = min(size)
    wanted = min(shorter, 14, max(7, shorter // cells_px))
    equal = [count for count in range(7, 15) if shorter % count == 0]
    side = shorter / min(equal, key=lambda count: abs(count - wanted), default=wanted)
    return round(size[0] / side), round(size[1] / side)


def sums_over(values: Float[Tensor, "n ..."], features: Features) -> Float[Tensor, "n g"]:
    """What a map holds on each feature, in float64. Maps are `n h w`; for `Elements`, `n c h w`."""
    values = values.double()
    if isinstance(features, Elements):
        if values.shape[1:] != features.shape:
            raise BadInput(
                f"values of shape {tuple(values.shape[1:])} are not one for each element of {features.shape}.",
                "Use a gradient-type explanation, whose native values are n c h w, or cells of a grid.",
            )
        return values.flatten(1)
    if isinstance(features, Segments):
        labels, total = features.labels.flatten(1).to(values.device), total_of(features)
        return values.new_zeros(len(values), total).scatter_add_(1, labels, values.flatten(1))
    size = (values.shape[-2], values.shape[-1])
    return values.flatten(1) if features == size else cell_sums(values, cells(size, features))


def order_of(maps: Float[Tensor, "n ..."], grid: Features | None, seed: int) -> Order:
    """Features (pixels for None) ranked by the sum of the map in them; ties in a random order."""
    features = grid or (maps.shape[-2], maps.shape[-1])
    return ranking(sums_over(maps, features), features, seed)


def ranking(values: Float[Tensor, "n g"], features: Features, seed: int) -> Order:
    """Features by a value of each, the largest first. Ranks of segments count each image's own, without gaps.

    What decides between equal segments must not depend on how many there are in other images.
    """
    if not isinstance(features, Segments):
        places = ranks(values, generator(seed)).int()
        return Order(features, places, fingerprint(places))
    by_chance = torch.rand(values.shape[1], generator=generator(seed), dtype=torch.float64).argsort().to(values.device)
    there = torch.arange(values.shape[1], device=values.device) < features.counts.to(values.device)[:, None]
    shuffled = torch.where(there, values, -torch.inf)[:, by_chance]
    places = by_chance[shuffled.argsort(stable=True, dim=1, descending=True)].argsort(1).int()
    return Order(features, places, fingerprint(places))


def stays(keeps: list[Keep], image: Int[Tensor, " m"]) -> Bool[Tensor, "m g"]:
    """Which features stay, for keeps that share their features, and an order if they have one."""
    if isinstance(keeps[0], Ranked):
        low = torch.tensor([keep.low for keep in keeps if isinstance(keep, Ranked)], device=image.device)
        high = torch.tensor([keep.high for keep in keeps if isinstance(keep, Ranked)], device=image.device)
        place = keeps[0].order.ranks.to(image.device)[image]
        return (place >= low[:, None]) & (place < high[:, None])
    joined = b"".join(keep.kept for keep in keeps if isinstance(keep, Cells))
    return torch.frombuffer(bytearray(joined), dtype=torch.uint8).view(len(keeps), -1).bool().to(image.device)


def kept(keeps: list[Keep], image: Int[Tensor, " m"], size: tuple[int, int]) -> Bool[Tensor, "m ..."]:
    """Masks of several questions on the pixels: `m h w`, or `m c h w` for single elements."""
    there = stays(keeps, image)
    features = keeps[0].order.grid if isinstance(keeps[0], Ranked) else keeps[0].grid
    if isinstance(features, Elements):
        return there.view(len(keeps), *features.shape)
    if isinstance(features, Segments):
        labels = features.labels.to(image.device)[image]
        return there.gather(1, labels.flatten(1)).view_as(labels)
    if features != size:
        there = there[:, cells(size, features).flatten().to(image.device)]
    return there.view(len(keeps), *size)


def soft_mask(weights: Maps, baseline: Baseline = 0.0) -> Changed:
    """The question that shows each image through a mask of 0…1, over a baseline that does not depend on the mask."""
    fill = filling(baseline)
    if depends_on_mask(fill):
        raise BadInput(f"baseline '{fill}' fills holes, and a soft mask has none.", "Use 'blur', or another baseline.")
    mask = fingerprint(weights)

    def over(behind: float | int | str | Fill | Donors, draws: tuple[Changed, ...] = ()) -> Changed:
        def change(images: Images, image: Int[Tensor, " m"]) -> Images:
            return blend(images, weights.to(images.device)[image], substrate(images, behind, image))

        return Changed(("soft", mask, name_of(behind)), change, draws)

    return over(fill, tuple(over(each) for each in fill.fills) if isinstance(fill, Donors) else ())
