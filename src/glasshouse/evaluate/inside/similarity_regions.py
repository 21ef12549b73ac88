"""Does a class need what a prototype looks at? The region it is most similar to is taken away."""

from dataclasses import dataclass, field
from math import nan
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.core import BadInput, Images, Model, Noun, Reading, generator
from glasshouse.core.lift import checked_images, setting
from glasshouse.evaluate.baselines import Baseline
from glasshouse.evaluate.engine import Answers
from glasshouse.evaluate.inside.locating import placed
from glasshouse.evaluate.inside.peaks import Size, enlarged_peaks, half_of, own_images, strongest
from glasshouse.evaluate.questions import CLEAN, Cells, Segments, fingerprint, keeping


@dataclass(frozen=True, repr=False)
class PrototypeDeletion(Noun):
    """What p prototypes' classes lose without the region that each is most similar to, in t images each.

    Args:
        images: their numbers; -1 where there are fewer.
        drop: of the class's score without the region; NaN where there is no image.
        elsewhere: the mean drop without a region of the same size anywhere in the image: the chance level.
        n_forward: passes of single images.
    """

    images: Int[Tensor, "p t"]
    drop: Float[Tensor, "p t"]
    elsewhere: Float[Tensor, "p t"]
    n_forward: int
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        n = int(self.value.isfinite().sum())
        return (
            f"PrototypeDeletion(drop {float(self.value.nanmean()):.3g}, elsewhere {float(self.chance.nanmean()):.3g}, "
            f"gap {self.mean_gap:.3g} ± {self.stderr:.2g} over {n} prototypes, higher is better)"
        )

    @property
    def value(self) -> Float[Tensor, " p"]:
        """Mean drop of each prototype; NaN for one that is flat or has no image."""
        return self.drop.nanmean(1)

    @property
    def chance(self) -> Float[Tensor, " p"]:
        """The same without a region of this size anywhere."""
        return self.elsewhere.nanmean(1)

    @property
    def gap(self) -> Float[Tensor, " p"]:
        """How much more is lost than elsewhere; chance is 0."""
        return (self.drop - self.elsewhere).nanmean(1)

    @property
    def mean_gap(self) -> float:
        """Mean over prototypes."""
        return float(self.gap.nanmean())

    @property
    def stderr(self) -> float:
        """Standard error of `mean_gap` over prototypes, taken as independent; NaN with one."""
        known = self.gap[self.gap.isfinite()]
        return float(known.std() / len(known) ** 0.5) if len(known) > 1 else nan


def prototype_deletion(
    model: Model | nn.Module,
    inputs: Images,
    maps: Float[Tensor, "m p i j"],
    *,
    categories: Int[Tensor, " q"] | None = None,
    of_prototypes: Int[Tensor, " k"] | None = None,
    half_px: float | int | None = None,
    top: int = 10,
    score: Reading = "logit",
    baseline: Baseline = "blur",
    n_chance: int = 8,
    seed: int = 0,
) -> PrototypeDeletion:
    """How much a class's score falls when the region that a prototype is most similar to is replaced.

        drop_p = mean over the images with the highest peaks of [f_c(x) - f_c(x without p's box)]
        gap_p = drop_p - mean over boxes of the same size anywhere of [f_c(x) - f_c(x without this box)]

    What a class is said to be recognised by (Chen et al., "This looks like that", NeurIPS 2019) it should miss. The
    box is that of `prototype_consistency`: 36 pixels (of 224) to each side of the peak of the enlarged map. Large boxes
    anywhere hit the object too, so read the gap. Replaced pixels make images unlike any that the model was trained on;
    try two baselines.

    Args:
        maps: activations of the prototypes in these images.
        categories: of the images; a prototype is tried on those of its class. Without them all count.
        of_prototypes: the class of each, whose score is read; None reads the top class of each image.
        half_px: half the box's side; None is 36 for an image of 224, and in proportion.
        top: images of each prototype, those with the highest peaks.
        n_chance: boxes elsewhere, in each image.
    """
    images = checked_images(inputs).detach()
    if len(maps) != len(images) or top < 1 or n_chance < 1:
        raise BadInput(f"{len(maps)} images of maps, {len(images)} images, top={top}, n_chance={n_chance}.")
    size: Size = (images.shape[2], images.shape[3])
    classes, strength = of_prototypes, maps.detach().cpu().flatten(2).amax(2)
    if classes is not None and len(classes) != maps.shape[1]:
        raise BadInput(f"{len(classes)} classes for {maps.shape[1]} prototypes.")
    own = own_images(strength, categories, None if categories is None else classes)
    found, half, draw = enlarged_peaks(maps, own, size, seed), half_of(half_px, size), generator(seed)
    chosen, valid = (part.T for part in strongest(found.height, found.there, top, seed))
    falls, spent = torch.full((2, *chosen.shape), nan, dtype=torch.float64), 0
    for p, there in enumerate(valid):
        rows = chosen[p, there]
        if not len(rows):
            continue
        box = around(found.at[rows, p], half, size)
        boxes = [box, *(placed(box, size, draw) for _ in range(n_chance))]
        fill = baseline[rows] if isinstance(baseline, Tensor) and len(baseline) == len(images) else baseline
        answers = Answers(model, images[rows.to(images.device)], None if classes is None else int(classes[p]))
        asked = [CLEAN, *(keeping(Cells(inside(each, size), b"\1\0"), fill) for each in boxes)]
        table = answers.read(asked, score).cpu()
        falls[:, p, there] = torch.stack([table[:, 0] - table[:, 1], table[:, 0] - table[:, 2:].mean(1)])
        spent += answers.n_forward
    settings = {"half_px": half, "score": score, "baseline": setting(baseline), "n_chance": n_chance, "seed": seed}
    return PrototypeDeletion(chosen.where(valid, -1), falls[0], falls[1], spent, settings)


def around(at: Float[Tensor, "r 2"], half: float, size: Size) -> Int[Tensor, "r 4"]:
    """The pixels within `half` of a peak along either axis: first row and column, and the ones after the last."""
    low, high = (at - half).ceil().clamp(min=0), torch.minimum((at + half).floor() + 1, torch.tensor(size).double())
    return torch.cat([low, high], 1).long()


def inside(boxes: Int[Tensor, "r 4"], size: Size) -> Segments:
    """Two segments of each image: 1 in the box, 0 around it."""
    rows, cols = torch.arange(size[0]), torch.arange(size[1])
    first, left, last, right = boxes.T[:, :, None]
    labels = ((rows >= first) & (rows < last))[:, :, None] & ((cols >= left) & (cols < right))[:, None]
    return Segments(labels.long(), fingerprint(labels))
