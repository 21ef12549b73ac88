"""A glass model that finds the figures of the `shapes` preset: first whose pixels have the paint, then its outline."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from glasshouse.core.errors import not_found
from glasshouse.core.types import Images
from glasshouse.data.glass.colours import PALETTE, Boxes
from glasshouse.data.glass.templates import checked_templates, nearest_distance
from glasshouse.data.glass.truth import Glass, Truth, chain, glass, linear
from glasshouse.data.world.figures import CATEGORIES
from glasshouse.data.world.scene import scenes

UPRIGHT = {"scale": 1.0, "angle": 0.0, "texture": "plain"}
"""The setting of factors under which `shape_matcher` knows the figures: `scenes("shapes", fixed=UPRIGHT | …)`."""

HALF, SOFT = 0.27, 0.1  # wide enough for the shading of a figure


def figure_outlines(kinds: Sequence[str], size: int) -> Float[Tensor, "k 1 i j"]:
    """Masks of upright figures in the middle of the image, cut to the box that holds them all and one pixel more."""
    shown = [
        scenes("shapes", 1, size=size, fixed={"kind": kind, "colour": "red", "x": 0.5, "y": 0.5, **UPRIGHT})
        for kind in kinds
    ]
    masks = torch.cat([scene.masks[:, scene.part("figure")] for scene in shown])
    reach = masks.any(0).nonzero()
    (top, left), (bottom, right) = (reach.amin(0) - 1).tolist(), (reach.amax(0) + 2).tolist()
    return masks[:, None, top:bottom, left:right].float()


def shape_matcher(
    colour: str = "red",
    kinds: Sequence[str] = ("circle", "triangle", "star"),
    *,
    size: int = 48,
    margin: float | int | None = None,
) -> Glass:
    """Which figure of one paint stands in a scene of `shapes`, wherever it stands, by the outline of its paint.

        score_k = max over places of relu(1 - Σ |m - outline_k| / margin),    m = membership in the colour's box

    For figures in the setting `UPRIGHT`; figures of another paint are not seen. Region k: the window that figure
    k lies in, empty where the score is 0. Removal and Shapley value of region k are score_k for class k.

    Args:
        colour: a paint of `shapes`.
        kinds: figures that are told apart.
        size: of the scenes in pixels, which fixes the size of the figures.
        margin: number of pixels at which a detector falls silent; by default the distance between the nearest two
            outlines. A figure between two pixels' centres differs from its outline in up to half of its rim.
    """
    if colour not in PALETTE:
        raise not_found("paint", colour, PALETTE)
    for kind in kinds:
        if kind not in CATEGORIES:
            raise not_found("figure", kind, CATEGORIES)
    boxes = Boxes(torch.tensor([PALETTE[colour]]), HALF, SOFT)
    outlines = figure_outlines(kinds, size)
    found = checked_templates(outlines, nearest_distance(outlines) if margin is None else margin)
    module = chain(
        dict(
            **boxes.layers(),
            **found.layers(),
            best=nn.AdaptiveMaxPool2d(1),
            flat=nn.Flatten(),
            head=linear(torch.eye(len(kinds))),
        )
    )

    def regions(images: Images) -> Bool[Tensor, "n r h w"]:
        return found.best(boxes.member(images))[1]

    def worth(images: Images, kept: Bool[Tensor, "n r"]) -> Float[Tensor, "n k"]:
        return found.best(boxes.member(images))[0] * kept

    own, everything = torch.eye(len(kinds), dtype=torch.bool), torch.ones(len(kinds), 6, dtype=torch.bool)
    truth = Truth(
        "score_k = max over places of relu(1 - Σ |m - outline_k| / margin), m = membership in the colour's box",
        tuple(kinds),
        regions,
        worth,
        {
            "sides": everything,
            "inside": everything[:, :1],
            "inside_on": everything[:, :1],
            "match": own,
            "match_on": own,
            "best": own,
        },
        (colour,),
        {"inside_on": torch.ones(1, 1)},
    )
    return glass("shape_matcher", module, kinds, truth, (size, size))
