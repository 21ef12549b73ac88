"""Localisation by mass: which part of the positive evidence lies in the mask?"""

import torch
from torch import nn

from glasshouse.core import BadInput, Cost, Explanation, Images, Maps, Masks, Model, PerImage, Score, registered
from glasshouse.evaluate.localisation.masks import areas, faults, fitting, in_parts, located, without_evidence


def share_inside(maps: Maps, masks: Masks) -> PerImage:
    """Positive mass inside the mask over all positive mass."""

    def share(some: Maps, inside: Masks) -> PerImage:
        positive = some.clamp(min=0).double().flatten(1)
        every = positive.sum(1)
        return positive.mul_(inside.flatten(1)).sum(1) / every

    return in_parts(share, maps, masks)


@registered("evaluate", cost=lambda settings, shape: Cost(0), paper="Arras et al., Information Fusion 2022")
def relevance_mass(model: Model | nn.Module, inputs: Images, explanation: Explanation, masks: Masks) -> Score:
    """Which part of the map's positive mass lies in the mask.

        sum_{i in s} max(a_i, 0) / sum_i max(a_i, 0)

    Arras, Osman and Samek, "CLEVR-XAI", Information Fusion 2022 ("relevance mass accuracy"); the same number is the
    energy-based pointing game of Wang et al., "Score-CAM", CVPRW 2020. Chance is the mask's share of the image.

    Differs: negative values are left out. With them the ratio is no share, and may be any number.
    """
    masks, heatmap = fitting(masks, explanation, inputs), explanation.heatmap
    causes = {**faults(heatmap, masks), **without_evidence(heatmap)}
    return located("relevance_mass", share_inside(heatmap, masks), causes, areas(masks))


energy_pointing_game = relevance_mass
"""The name that Score-CAM gives to `relevance_mass`."""


@registered("evaluate", cost=lambda settings, shape: Cost(0), paper="Kohlbrenner et al., IJCNN 2020")
def attribution_localisation(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    masks: Masks,
    *,
    weighted: bool = False,
    max_area: float | int = 1.0,
) -> Score:
    """Which part of the positive mass lies in the object's box, for objects that do not fill the image.

        mu = sum_{i in s} max(a_i, 0) / sum_i max(a_i, 0),   weighted: mu * h w / A

    Kohlbrenner et al., "Towards best practice in explaining neural network decisions with LRP", IJCNN 2020. Chance is
    A / (h w), and 1 where weighted. `extras["area"]` is A / (h w).

    Args:
        masks: the paper fills bounding boxes; any mask will do.
        weighted: divide by the mask's share of the image, so that small objects do not count as hard ones.
        max_area: masks that cover more have no value and the reason `large_mask`; the paper reports 0.25 and 0.5.
    """
    if not 0 < max_area <= 1:
        raise BadInput(f"max_area {max_area} is not in 0…1.", "Use 0.25, 0.5, or 1 for all.")
    masks, heatmap = fitting(masks, explanation, inputs), explanation.heatmap
    area = areas(masks)
    value, chance = share_inside(heatmap, masks), area
    if weighted:
        value, chance = value / area, torch.ones_like(area)
    causes = {**faults(heatmap, masks), **without_evidence(heatmap), "large_mask": area > max_area}
    settings = {"weighted": weighted, "max_area": max_area}
    return located("attribution_localisation", value, causes, chance, settings, {"area": area})


@registered("evaluate", cost=lambda settings, shape: Cost(0), paper="Nie et al., ICML 2018")
def class_localisation_gap(
    model: Model | nn.Module, inputs: Images, explanation: Explanation, masks: Masks, other_masks: Masks
) -> Score:
    """How much more of a class's positive mass lies on its own object than on the other object in the image.

        (sum_{i in s} max(a_i, 0) - sum_{i in other} max(a_i, 0)) / sum_i max(a_i, 0)

    1 if all is on the own object, -1 if all is on the other. Chance is the difference of the two areas' shares. The
    question is that of Nie, Zhang and Patel, "A theoretical explanation for perplexing behaviors of
    backpropagation-based visualizations", ICML 2018: a map that only traces edges marks both objects for either class.

    Args:
        masks: the object of the class that is explained.
        other_masks: an object of another class.
    """
    own, other = fitting(masks, explanation, inputs), fitting(other_masks, explanation, inputs)
    heatmap = explanation.heatmap
    here, there = share_inside(heatmap, own), share_inside(heatmap, other)
    causes = {**faults(heatmap, own), "empty_other_mask": ~other.flatten(1).any(1), **without_evidence(heatmap)}
    extras = {"own": here, "other": there}
    return located("class_localisation_gap", here - there, causes, areas(own) - areas(other), {}, extras)
