"""Localisation by rank: does the mask hold the map's highest pixels? The size of the values does not matter."""

import torch
from torch import nn

from glasshouse.core import BadInput, Cost, Explanation, Images, Masks, Model, Score, registered
from glasshouse.evaluate.localisation.masks import located
from glasshouse.evaluate.localisation.sorting import Ordering, in_top, ordered


@registered("evaluate", cost=lambda settings, shape: Cost(0), paper="Arras et al., Information Fusion 2022")
def relevance_rank(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    masks: Masks,
    *,
    order: Ordering | None = None,
) -> Score:
    """Which part of the mask the map's highest pixels fill, when as many are taken as the mask has.

        |the A highest pixels, inside the mask| / A,   A pixels in the mask

    Arras, Osman and Samek, "CLEVR-XAI", Information Fusion 2022 ("relevance rank accuracy"). Chance is A / (h w).
    Where equal values do not all fit among the A, the score is its mean over their orders.

    Args:
        order: `ordering(explanation, masks)`, shared by the metrics that rank.
    """
    order = ordered(order, explanation, masks, inputs)
    inside = order.inside.clamp(min=1)
    value = in_top(order, inside) / inside
    return located("relevance_rank", value, order.faults, order.area)


def top_share(
    name: str, inputs: Images, explanation: Explanation, masks: Masks, k: int | None, order: Ordering | None
) -> Score:
    """`top_k_intersection`, and divided by the mask's area for `concept_influence`."""
    d = inputs.shape[-2] * inputs.shape[-1]
    k = max(1, round(0.05 * d)) if k is None else k
    if not 1 <= k <= d:
        raise BadInput(f"k is {k}, and the maps have {d} pixels.", f"Use 1 to {d}.")
    order = ordered(order, explanation, masks, inputs)
    share, chance = in_top(order, torch.full_like(order.inside, k)) / k, order.area
    if name == "concept_influence":
        share, chance = share / chance, torch.ones_like(chance)
    return located(name, share, order.faults, chance, {"k": k})


@registered("evaluate", cost=lambda settings, shape: Cost(0), paper="Theiner et al., WACV 2022")
def top_k_intersection(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    masks: Masks,
    *,
    k: int | None = None,
    order: Ordering | None = None,
) -> Score:
    """Which part of the map's `k` highest pixels lies in the mask.

        |the k highest pixels, inside the mask| / k

    Theiner, Müller-Budack and Ewerth, "Interpretable semantic photo geolocation", WACV 2022. Chance is A / (h w), and a
    mask of A < k pixels scores A / k at most. Ties as in `relevance_rank`.

    Args:
        k: pixels; None takes 5 % of them.
        order: as in `relevance_rank`.
    """
    return top_share("top_k_intersection", inputs, explanation, masks, k, order)


@registered("evaluate", cost=lambda settings, shape: Cost(0), paper="Theiner et al., WACV 2022")
def concept_influence(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    masks: Masks,
    *,
    k: int | None = None,
    order: Ordering | None = None,
) -> Score:
    """How many times more of the map's `k` highest pixels lie in the mask than its area would hold by chance.

        |the k highest pixels, inside the mask| / k  *  h w / A

    Theiner et al., WACV 2022. 1 is chance. Arguments as in `top_k_intersection`. Small masks reach values that large
    ones cannot, so a mean over images speaks of the small ones.
    """
    return top_share("concept_influence", inputs, explanation, masks, k, order)


@registered("evaluate", cost=lambda settings, shape: Cost(0))
def localisation_auc(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    masks: Masks,
    *,
    order: Ordering | None = None,
) -> Score:
    """How likely a pixel in the mask is marked higher than one outside: the area under the ROC curve.

        mean over pixels i inside and j outside of   1[a_i > a_j] + 1[a_i = a_j] / 2

    By the rank-sum formula (Hanley and McNeil, Radiology 1982). Chance is 1/2. Where the object is small, nearly all
    pairs are easy ones and the area is close to 1 for any smooth map on it: `localisation_ap` is stricter there.

    Args:
        order: as in `relevance_rank`.
    """
    order = ordered(order, explanation, masks, inputs)
    value = order.curve_areas[:, 0]
    causes = {**order.faults, "full_mask": order.area == 1}
    return located("localisation_auc", value, causes, torch.full_like(value, 0.5))


@registered("evaluate", cost=lambda settings, shape: Cost(0))
def localisation_ap(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    masks: Masks,
    *,
    order: Ordering | None = None,
) -> Score:
    """How pure the map's highest pixels are, on the way down until the mask is found: average precision.

        sum over distinct values v of   (recall at v - recall above v) * precision at v

    The step sum that scikit-learn uses; equal values are one step. Chance is A / (h w), nearly: of a random order it is
    a little more on small images.

    Args:
        order: as in `relevance_rank`.
    """
    order = ordered(order, explanation, masks, inputs)
    value = order.curve_areas[:, 1]
    return located("localisation_ap", value, order.faults, order.area)
