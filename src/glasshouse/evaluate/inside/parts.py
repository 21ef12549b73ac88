"""Does a filter mark one part, image by image?"""

from dataclasses import dataclass, field
from math import ceil, nan
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.core import BadInput, Noun, Units, generator
from glasshouse.evaluate.inside.peaks import Place, centres, own_images
from glasshouse.evaluate.inside.rates import Rate

AT_ONCE = 2**24  # pixels of marks
ROUNDING = 1e-6


@dataclass(frozen=True, repr=False)
class PartDetectors(Noun):
    """In how many images each of f filters marks each of k parts.

    Args:
        hits: images in which the overlap is large enough; total: those in which the part is seen.
        shuffled: hits expected with the masks of other images.
        threshold: of each filter; it marks what is above.
        dead: filters that have one value everywhere in all images; they are left out.
    """

    hits: Int[Tensor, "f k"]
    total: Int[Tensor, "f k"]
    shuffled: Float[Tensor, "f k"]
    threshold: Float[Tensor, " f"]
    dead: Bool[Tensor, " f"]
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        live = int((~self.dead).sum())
        return (
            f"PartDetectors({self.value:.3f} ± {self.stderr:.3f}, chance {self.chance:.3f}, "
            f"{live} filters × {self.hits.shape[1]} parts, {int(self.dead.sum())} dead)"
        )

    @property
    def share(self) -> Float[Tensor, "f k"]:
        """Share of the part's images in which the filter marks it; NaN for dead filters and parts never seen."""
        return self._of(self.hits)

    @property
    def score(self) -> Float[Tensor, " f"]:
        """Each filter's share of its best part."""
        return best_of(self.share)

    @property
    def best(self) -> Int[Tensor, " f"]:
        """The part each filter marks most often; -1 for one that marks none."""
        return torch.where(self.score > 0, self.share.nan_to_num(-1).argmax(1), -1)

    @property
    def value(self) -> float:
        """Mean over filters."""
        return float(self.score.nanmean())

    @property
    def stderr(self) -> float:
        """Standard error over filters, taken as independent."""
        known = self.score[self.score.isfinite()]
        return float(known.std() / len(known) ** 0.5) if len(known) > 1 else nan

    @property
    def chance(self) -> float:
        """What `value` would be with the masks of other images: position and size alone."""
        return float(best_of(self._of(self.shuffled)).nanmean())

    def rate(self, unit: int, part: int, level: float = 0.95) -> Rate:
        """One of the shares with its exact limits."""
        return Rate(int(self.hits[unit, part]), int(self.total[unit, part]), level)

    def _of(self, hits: Tensor) -> Float[Tensor, "f k"]:
        return torch.where((self.total > 0) & ~self.dead[:, None], hits.double() / self.total.clamp(min=1), torch.nan)


def best_of(share: Float[Tensor, "f k"]) -> Float[Tensor, " f"]:
    """The largest of each row, unknown ones left out."""
    return torch.where(share.isnan().all(1), torch.nan, share.nan_to_num(-1).amax(1))


def part_interpretability(
    maps: Units,
    masks: Bool[Tensor, "m q h w"],
    *,
    place: Place = None,
    field_px: float | int | None = None,
    level: float = 0.995,
    min_iou: float = 0.2,
    categories: Int[Tensor, " m"] | None = None,
    n_shuffles: int = 4,
    seed: int = 0,
) -> PartDetectors:
    """How often a filter marks its part: share of images in which what it marks overlaps the part enough.

        S_f = pixels of positions above T_f,   P(x_f > T_f) = 1 - level over all positions of all images
        P_fk = mean over images that show part k of [IoU(S_f, S_k) > 0.2]
        score_f = max_k P_fk,   value = mean_f score_f

    Zhang, Wu and Zhu, "Interpretable convolutional neural networks", CVPR 2018, sec. 4. The overlap is taken in every
    image: this is not Network Dissection's IoU over a whole data set, and numbers of both do not compare.

    Args:
        masks: of the parts, at the resolution of the image that the network is given.
        place: how the layer's grid lies on the image.
        field_px: side of the square that a position marks, for instance its receptive field; None is its cell.
        categories: of the images. A filter is then judged on those of the category in which it peaks highest.
        n_shuffles: random orders of the masks behind `chance`.
    """
    n, f, i, j = maps.shape
    h, w = masks.shape[2:]
    if n != len(masks) or not n or not 0 < level < 1 or n_shuffles < 1:
        raise BadInput(f"{n} images of maps, {len(masks)} of masks, level={level}, n_shuffles={n_shuffles}.")
    values = maps.detach().cpu().to(torch.promote_types(maps.dtype, torch.float32))
    if not values.isfinite().all():
        raise BadInput("some activations are not finite.")
    columns = values.transpose(0, 1).flatten(1)
    threshold = columns.kthvalue(max(1, ceil(level * columns.shape[1] - ROUNDING)), 1).values
    lines = centres(place, (i, j), (h, w))
    rows, cols = (cover(line, pixels, field_px) for line, pixels in zip(lines, (h, w), strict=True))
    seen, truth, draw = masks.cpu().flatten(2).any(2), masks.cpu().flatten(2), generator(seed)
    own = own_images(values.flatten(2).amax(2), categories, None)
    every = torch.arange(n)[:, None].expand(seen.shape)  # a part's mask in each image; below, in another that shows it
    orders, column = [every, *(other_order(seen, draw) for _ in range(n_shuffles))], torch.arange(seen.shape[1])
    counts = torch.zeros(len(orders), f, truth.shape[1], dtype=torch.float64)
    for part in torch.arange(n).split(max(1, AT_ONCE // (f * h * w))):
        on = (values[part] > threshold[:, None, None]).float()
        marks = (torch.einsum("hi,nfij,wj->nfhw", rows, on, cols) > 0).flatten(2).float()
        for row, order in enumerate(orders):
            other = truth[order[part], column].float()
            shared = marks @ other.transpose(1, 2)
            either = marks.sum(2, keepdim=True) + other.sum(2)[:, None] - shared
            hit = (shared > min_iou * either) & own[part, :, None] & seen[part, None]
            counts[row] += hit.sum(0)
    total = (own[:, :, None] & seen[:, None]).sum(0)
    dead = columns.amax(1) == columns.amin(1)
    settings = {"level": level, "min_iou": min_iou, "n_shuffles": n_shuffles, "seed": seed}
    return PartDetectors(counts[0].long(), total, counts[1:].mean(0), threshold, dead, settings)


def cover(line: Float[Tensor, " i"], pixels: int, field_px: float | int | None) -> Float[Tensor, "h i"]:
    """Which pixels each position marks: those within its field, or those that no other position is nearer to."""
    away = (torch.arange(pixels, dtype=torch.float64)[:, None] - line).abs()
    if field_px is not None:
        return (away <= field_px / 2).float()
    return (away <= away.amin(1, keepdim=True) + 1e-9).float()


def other_order(seen: Bool[Tensor, "n k"], draw: torch.Generator) -> Int[Tensor, "n k"]:
    """For each part, another image that shows it, in place of each image that does."""
    order = torch.arange(len(seen))[:, None].expand(seen.shape).clone()
    for k in range(seen.shape[1]):
        rows = seen[:, k].nonzero()[:, 0]
        mixed = rows[torch.randperm(len(rows), generator=draw)]
        order[mixed, k] = mixed.roll(1)
    return order
