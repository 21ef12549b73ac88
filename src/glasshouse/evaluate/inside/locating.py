"""Does a model find a part? How far from it, and within its box or not."""

from dataclasses import dataclass, field
from math import hypot, nan
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.core import BadInput, Boxes, Noun, PerImage, generator
from glasshouse.evaluate.inside.peaks import Size, checked_size
from glasshouse.evaluate.inside.rates import Rate, checked_level
from glasshouse.evaluate.localisation.components import box_overlap

AT_ONCE = 2**22  # distances


@dataclass(frozen=True, repr=False)
class PartLocation(Noun):
    """How far predicted positions of a part in n images are from the truth.

    Args:
        distance: as a share of the image's diagonal, to the nearest true position; NaN where none is seen.
        chance_distance: the mean distance of a position anywhere in the image.
        inside: positions that fall into a true box (centre-prediction rate); of nothing without boxes.
        overlapping: predicted boxes that overlap a true one enough (PCP); of nothing without boxes.
        chance_inside, chance_overlapping: the same for a position, or the same box, anywhere in the image.
    """

    distance: PerImage
    chance_distance: float
    inside: Rate
    chance_inside: float
    overlapping: Rate
    chance_overlapping: float
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        shares = [("inside", self.inside, self.chance_inside), ("PCP", self.overlapping, self.chance_overlapping)]
        said = "".join(f", {name} {r.share:.3f} (chance {chance:.3f})" for name, r, chance in shares if r.total)
        return (
            f"PartLocation(distance {self.value:.4f} ± {self.stderr:.4f}, chance {self.chance_distance:.3f}{said}, "
            f"{int(self.distance.isfinite().sum())} images)"
        )

    @property
    def value(self) -> float:
        """Mean normalised distance."""
        return float(self.distance.nanmean())

    @property
    def stderr(self) -> float:
        """Standard error of `value` over images."""
        known = self.distance[self.distance.isfinite()]
        return float(known.std() / len(known) ** 0.5) if len(known) > 1 else nan


def part_localisation(
    positions: Float[Tensor, "p 2"],
    parts: Float[Tensor, "m q 3"],
    *,
    size: Size,
    boxes: Int[Tensor, "i r 4"] | None = None,
    predicted: Boxes | None = None,
    mirrored: Bool[Tensor, " k"] | None = None,
    min_iou: float = 0.5,
    n_chance: int = 50,
    level: float = 0.95,
    seed: int = 0,
) -> PartLocation:
    """How far from the part a model looks for it, and how often it is right.

        distance = min over true positions of |p̂ - p| / sqrt(h² + w²)
        inside = share of images whose p̂ lies in a true box;   PCP = share whose predicted box has IoU >= 0.5 with one

    As in Zhang et al., "Growing interpretable part graphs on ConvNets via multi-shot learning", AAAI 2017, and "Mining
    object parts from CNNs via active question-answering", CVPR 2017. Images in which the part is not seen are left out.

    Args:
        positions: predicted row and column in each image, in pixels whose centres are whole numbers.
        parts: row, column and visibility of q true positions; with several the nearest counts.
        size: height and width of the image, or of the crop that the network is given.
        boxes: true boxes; an empty one is not there. predicted: the model's own.
        mirrored: images whose prediction was made on the mirror image; their columns are turned back.
        n_chance: places that each predicted box is tried at for its chance level.
    """
    sizes = {len(given) for given in (positions, parts, boxes, predicted, mirrored) if given is not None}
    if len(sizes) > 1 or n_chance < 1 or (predicted is not None and boxes is None):
        raise BadInput(f"what is given is of {sorted(sizes)} images, or predicted boxes are without true ones.")
    checked_level(level)
    (h, w), at, truth = checked_size(size), positions.detach().cpu().double().clone(), parts.detach().cpu().double()
    if not at.isfinite().all():
        raise BadInput("some predicted positions are not finite.", "Leave out the images without a prediction.")
    own = None if predicted is None else predicted.cpu().clone()
    if mirrored is not None:
        at[:, 1] = torch.where(mirrored.cpu(), w - 1 - at[:, 1], at[:, 1])
        if own is not None:
            own[:, [1, 3]] = torch.where(mirrored.cpu()[:, None], w - own[:, [3, 1]], own[:, [1, 3]])
    real = torch.zeros(len(at), 1, 4, dtype=torch.long) if boxes is None else boxes.cpu()
    rows, cols = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    pixels = torch.stack([rows.flatten(), cols.flatten()], 1).double()
    near, anywhere = list[Tensor](), list[Tensor]()
    for part in torch.arange(len(at)).split(max(1, AT_ONCE // (h * w * max(truth.shape[1], real.shape[1])))):
        everywhere = pixels.expand(len(part), -1, -1)
        for points, kept in ((at[part, None], near), (everywhere, anywhere)):
            kept.append(torch.stack([nearest(points, truth[part]), within(points, real[part]).double()], 2).mean(1))
    (distance, inside), (typical, share) = (torch.cat(kept).unbind(1) for kept in (near, anywhere))
    boxed, diagonal = (real[..., 2:] > real[..., :2]).all(2).any(1), hypot(h, w)
    hits, chance = Rate(0, 0, level), nan
    if own is not None:
        own, real, draw = own[boxed], real[boxed], generator(seed)
        found = box_overlap(own, real).amax(1) >= min_iou
        moved = [box_overlap(placed(own, size, draw), real).amax(1) for _ in range(n_chance)]
        hits, chance = Rate(int(found.sum()), len(found), level), float((torch.stack(moved) >= min_iou).double().mean())
    return PartLocation(
        distance / diagonal,
        float(typical.nanmean()) / diagonal,
        Rate(int(inside[boxed].sum()), int(boxed.sum()), level),
        float(share[boxed].mean()),
        hits,
        chance,
        {"size": size, "min_iou": min_iou, "n_chance": n_chance, "seed": seed},
    )


def nearest(points: Float[Tensor, "n p 2"], truth: Float[Tensor, "n q 3"]) -> Float[Tensor, "n p"]:
    """Distance of points to the nearest true position that is seen; NaN without one."""
    away = (points[:, :, None] - truth[:, None, :, :2]).norm(dim=3)
    away = away.masked_fill(~(truth[:, None, :, 2] > 0), torch.inf).amin(2)
    return torch.where(away.isfinite(), away, torch.nan)


def within(points: Float[Tensor, "n p 2"], boxes: Int[Tensor, "n q 4"]) -> Bool[Tensor, "n p"]:
    """Whether a point lies in a box; pixel r reaches from r - 1/2 to r + 1/2."""
    low, high = boxes[:, None, :, :2] - 0.5, boxes[:, None, :, 2:] - 0.5
    return ((points[:, :, None] >= low) & (points[:, :, None] < high)).all(3).any(2)


def placed(own: Int[Tensor, "n 4"], size: Size, draw: torch.Generator) -> Int[Tensor, "n 4"]:
    """The same boxes anywhere in the image that they fit into."""
    sides = own[:, 2:] - own[:, :2]
    room = (torch.tensor(size) - sides).clamp(min=0) + 1
    corner = (torch.rand(room.shape, generator=draw, dtype=torch.float64) * room).long()
    return torch.cat([corner, corner + sides], 1)
