"""Localisation by overlap: cut the map at a threshold, and compare what remains with the mask."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from glasshouse.core import BadInput, Cost, Explanation, Images, Masks, Model, PerImage, Score, registered
from glasshouse.evaluate.localisation.masks import in_parts, located, without_evidence
from glasshouse.evaluate.localisation.sorting import Ordering, at_or_above, ordered

Threshold: TypeAlias = Literal["max", "mean", "energy"]
"""What a level is a share of. "max": marked is what reaches that share of the map's maximum. "mean": that multiple of
the mean of max(a, 0). "energy": the fewest highest pixels that hold that share of all positive mass, with all pixels
that equal the last of them. Only positive values are ever marked."""


def usual_levels(thresholds: Threshold) -> list[float]:
    """0 to 0.95 in steps of 0.05; of the mean, 0 to 10 in steps of 0.5."""
    return [step / 2 for step in range(21)] if thresholds == "mean" else [step / 20 for step in range(20)]


def cuts(order: Ordering, thresholds: Threshold, levels: Float[Tensor, " t"]) -> Float[Tensor, "n t"]:
    """The value from which on a pixel is marked, for each level."""

    def cut(values: Float[Tensor, "r d"]) -> Float[Tensor, "r t"]:
        positive = values.clamp(min=0)
        if thresholds != "energy":
            scale = positive[:, -1:] if thresholds == "max" else positive.mean(1, keepdim=True, dtype=torch.float64)
            return (scale.double() * levels).to(values)
        descending = positive.flip(1)
        held = descending.cumsum(1, dtype=torch.float64)
        last = torch.searchsorted(held, (held[:, -1:] * levels).contiguous()).clamp(max=values.shape[1] - 1)
        return descending.gather(1, last)

    nothing = order.values.new_zeros(())
    return in_parts(cut, order.values).clamp(min=nothing.nextafter(nothing + 1))


def iou_curve(
    order: Ordering, thresholds: Threshold, levels: Sequence[float | int] | None
) -> tuple[Float[Tensor, " t"], Float[Tensor, "n t"]]:
    """The levels, and the intersection over union at each."""
    if thresholds not in ("max", "mean", "energy"):
        raise BadInput(f"thresholds '{thresholds}' is unknown.", "Use 'max', 'mean' or 'energy'.")
    chosen = list(usual_levels(thresholds) if levels is None else levels)
    if not chosen or not all(0 <= level <= (float("inf") if thresholds == "mean" else 1) for level in chosen):
        raise BadInput(f"levels {chosen[:4]} are not shares.", "Use numbers in 0…1, or multiples of the mean.")
    at = torch.tensor(chosen, dtype=torch.float64, device=order.values.device)
    marked, found = at_or_above(order, cuts(order, thresholds, at))
    return at, found / (order.inside[:, None] + marked - found)


def overlap_score(
    name: str, order: Ordering, value: PerImage, settings: dict[str, Any], extras: dict[str, Tensor]
) -> Score:
    causes: dict[str, Bool[Tensor, " n"]] = {**order.faults, **without_evidence(order.values[:, [0, -1]])}
    return located(name, value, causes, None, settings, extras)


@registered("evaluate", cost=lambda settings, shape: Cost(0), paper="Fong and Vedaldi, ICCV 2017")
def iou_at(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    masks: Masks,
    *,
    level: float | int = 0.5,
    thresholds: Threshold = "max",
    order: Ordering | None = None,
) -> Score:
    """How well the map, cut at one threshold, covers the mask: intersection over union, 0 to 1.

        |marked and s| / |marked or s|,   marked where a_i >= level * max a and a_i > 0

    Thresholds of Fong and Vedaldi, "Interpretable explanations of black boxes by meaningful perturbation", ICCV 2017,
    sec. 5.2. Choose the level on other images than those you report.

    Args:
        level: which share of the maximum (or see `overlap.Threshold`).
        thresholds: "max", "mean" or "energy".
        order: as in `relevance_rank`.
    """
    order = ordered(order, explanation, masks, inputs)
    _, curve = iou_curve(order, thresholds, [level])
    return overlap_score("iou_at", order, curve[:, 0], {"level": level, "thresholds": thresholds}, {})


@registered("evaluate", cost=lambda settings, shape: Cost(0), paper="Fong and Vedaldi, ICCV 2017")
def best_iou(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    masks: Masks,
    *,
    thresholds: Threshold = "max",
    levels: Sequence[float | int] | None = None,
    order: Ordering | None = None,
) -> Score:
    """How well the map covers the mask when each image gets its best threshold: an upper bound.

        max over levels of   |marked and s| / |marked or s|

    `extras["curve"]` is the overlap at each of `extras["levels"]`, `extras["best"]` the lowest level that reaches the
    maximum. The threshold is chosen by looking at the mask: to compare methods, use `mean_iou`, or `iou_at` with a
    level from other images.

    Args:
        levels: None takes 0 to 0.95 in steps of 0.05, for "mean" 0 to 10 in steps of 0.5.
        thresholds, order: as in `iou_at`.
    """
    order = ordered(order, explanation, masks, inputs)
    at, curve = iou_curve(order, thresholds, levels)
    best = torch.where(curve == curve.amax(1, keepdim=True), at, torch.inf).amin(1)
    extras = {"curve": curve, "levels": at, "best": best}
    return overlap_score("best_iou", order, curve.amax(1), {"thresholds": thresholds}, extras)


@registered("evaluate", cost=lambda settings, shape: Cost(0), paper="Fong and Vedaldi, ICCV 2017")
def mean_iou(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    masks: Masks,
    *,
    thresholds: Threshold = "max",
    levels: Sequence[float | int] | None = None,
    order: Ordering | None = None,
) -> Score:
    """How well the map covers the mask on average over thresholds, so that none has to be chosen.

        mean over levels of   |marked and s| / |marked or s|

    Arguments and extras as in `best_iou`.
    """
    order = ordered(order, explanation, masks, inputs)
    at, curve = iou_curve(order, thresholds, levels)
    extras = {"curve": curve, "levels": at}
    return overlap_score("mean_iou", order, curve.mean(1), {"thresholds": thresholds}, extras)
