"""The pointing game: does the map's highest point hit the object?"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glasshouse.core import BadInput, Cost, Explanation, Images, Maps, Masks, Model, Score, registered
from glasshouse.evaluate.localisation.masks import areas, faults, fitting, in_parts, located


@registered("evaluate", cost=lambda settings, shape: Cost(0), paper="Zhang et al., ECCV 2016")
def pointing_game(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    masks: Masks,
    *,
    tolerance_px: float | int | None = None,
) -> Score:
    """Whether the map's highest point lies on the object, or close by: 1 for a hit, 0 for a miss.

        1[some pixel of the mask lies closer than t to argmax a]

    Zhang et al., "Top-down neural attention by excitation backprop", ECCV 2016, with the tolerance of 15 pixels and the
    strict comparison of TorchRay (Fong et al., ICCV 2019). Several highest points: the share of them that hits, the
    mean over random choices. Chance is the share of all points that hit: compare it, as many objects are large and
    central. The published accuracy is `mean_over_classes`; its "difficult" part keeps images with other objects where
    `extras["area"]` (the mask's share of the image) is below 1/4.

    Differs: a point on the object hits at any tolerance, 0 included.

    Args:
        tolerance_px: t; None takes 15 pixels for images of 224 along the shorter side, and in proportion for others.
    """
    tolerance = 15 / 224 * min(inputs.shape[-2:]) if tolerance_px is None else tolerance_px
    if not 0 <= tolerance < math.inf:
        raise BadInput(f"tolerance_px {tolerance_px} is not a distance in pixels.", "Use 0 or more, such as 15.")
    masks, heatmap = fitting(masks, explanation, inputs), explanation.heatmap

    def game(some: Maps, objects: Masks) -> Float[Tensor, "r 2"]:
        near, flat = widened(objects, tolerance).flatten(1), some.flatten(1)
        highest = flat == flat.amax(1, keepdim=True)
        return torch.stack([(highest & near).sum(1) / highest.sum(1), near.sum(1) / near.shape[1]], 1)

    value, chance = in_parts(game, heatmap, masks).unbind(1)
    settings, extras = {"tolerance_px": float(tolerance)}, {"area": areas(masks)}
    return located("pointing_game", value, faults(heatmap, masks), chance, settings, extras)


def widened(masks: Masks, distance: float | int) -> Masks:
    """Pixels that lie closer than `distance` to a pixel of the mask, or in it.

    A disc is a stack of rows: the further from its middle, the narrower. Rows are widened a pixel at a time, and moved
    up and down as soon as they are as wide as the disc is there.
    """
    near, row, width = masks.clone(), masks.clone(), 0
    height, breadth = masks.shape[-2:]
    for up in range(min(max(0, math.ceil(distance) - 1), height - 1), -1, -1):
        while (width + 1) ** 2 + up**2 < distance**2 and width < breadth - 1:
            wider = row.clone()
            wider[:, :, 1:] |= row[:, :, :-1]
            wider[:, :, :-1] |= row[:, :, 1:]
            row, width = wider, width + 1
        near[:, up:] |= row[:, : height - up]
        near[:, : height - up] |= row[:, up:]
    return near


def mean_over_classes(score: Score, classes: Sequence[int]) -> float:
    """The mean over classes of each class's mean over images, so that frequent classes do not count more.

    The pointing game's published accuracy: hits / (hits + misses) per class, then the mean. Images without a value are
    left out.

    Args:
        classes: of each image, such as `explanation.target`.
    """
    if len(classes) != len(score.value):
        raise BadInput(f"{len(classes)} classes for {len(score.value)} images.", "Pass one class per image.")
    labels, value = torch.tensor(list(classes))[score.valid], score.value[score.valid].double()
    means = [float(value[labels == label].mean()) for label in labels.unique()]
    return sum(means) / len(means) if means else math.nan
