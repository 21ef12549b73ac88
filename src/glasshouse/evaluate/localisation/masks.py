"""What metrics against a mask share: the mask is checked, undefined images get a reason, chance goes with the value."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from glasshouse.core import BadInput, Explanation, Images, Maps, Masks, PerImage, Score
from glasshouse.evaluate.metric import Result, belongs, score_of

CHUNK = 2**18
"""Pixels that are looked at together: few enough to stay in a processor's cache."""


def in_parts(reduce: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """`reduce(*tensors)`, a few images at a time."""
    step = max(1, CHUNK // max(1, tensors[0][0].numel()))
    return torch.cat([reduce(*some) for some in zip(*(tensor.split(step) for tensor in tensors), strict=True)])


def fitting(masks: Tensor, explanation: Explanation, inputs: Images) -> Masks:
    """The masks beside the maps, once they are known to be one for each."""
    belongs(explanation, inputs)
    return beside(masks, explanation.heatmap)


def beside(masks: Tensor, heatmap: Tensor) -> Masks:
    """The masks on the maps' device; raises unless they are boolean and of the maps' shape."""
    if masks.dtype != torch.bool:
        raise BadInput(f"the masks are {masks.dtype}, not boolean.", "Type masks > 0.5, or labels == the class.")
    if masks.shape != heatmap.shape:
        raise BadInput(
            f"the masks {tuple(masks.shape)} are not of these maps {tuple(heatmap.shape)}.",
            "Pass one mask `h w` per image, at the images' size.",
        )
    return masks.to(heatmap.device)


def areas(masks: Masks) -> PerImage:
    """Each mask's share of the image, in float64."""
    return masks.flatten(1).sum(1).double() / masks[0].numel()


def faults(maps: Maps, masks: Masks) -> dict[str, Bool[Tensor, " n"]]:
    """Where a map cannot be compared with a mask at all."""
    finite = in_parts(lambda some: some.flatten(1).isfinite().all(1), maps)
    return {"not_finite": ~finite, "empty_mask": ~masks.flatten(1).any(1)}


def without_evidence(maps: Float[Tensor, "n ..."]) -> dict[str, Bool[Tensor, " n"]]:
    """Where a map has nothing positive to divide by."""
    low, high = maps.flatten(1).aminmax(dim=1)
    return {"zero_total": (low == 0) & (high == 0), "no_positive": ~(high > 0)}


def reasons(causes: Mapping[str, Bool[Tensor, " n"]]) -> tuple[str, ...]:
    """The first cause that applies, per image; empty where none does."""
    rows = zip(*(cause.tolist() for cause in causes.values()), strict=True)
    return tuple(next((word for word, so in zip(causes, row, strict=True) if so), "") for row in rows)


def located(
    name: str,
    value: PerImage,
    causes: Mapping[str, Bool[Tensor, " n"]],
    chance: PerImage | None,
    settings: Mapping[str, Any] | None = None,
    extras: Mapping[str, Tensor] | None = None,
    n_forward: int = 0,
    n_backward: int = 0,
) -> Score:
    """An exact score against masks, with each image's own chance level and the lead over it.

    `Score.chance` is the mean chance of the images that have a value: for reading only, no value depends on it.
    """
    reason = reasons(causes)
    good = torch.tensor([not why for why in reason], device=value.device)
    mean, more = None, dict(extras or {})
    if chance is not None:
        mean = float(chance[good].mean()) if bool(good.any()) else None
        more |= {"chance": chance, "lead": torch.where(good, value - chance, torch.nan)}
    result = Result(value, torch.zeros_like(value), reason, more)
    return score_of(name, result, mean, "up", settings or {}, n_forward, n_backward)
