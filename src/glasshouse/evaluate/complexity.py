"""The shape of a map by itself: how concentrated it is, which sign it has, whether it traces edges.

None of these needs the model, and none says that a map is right: a dot in the centre of the image is as
concentrated as can be. So none has a chance level, and none is judged.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from glasshouse.core import Cost, Explanation, Images, Model, PerImage, Score, registered
from glasshouse.core.result import Direction
from glasshouse.evaluate.agreement import spearman
from glasshouse.evaluate.engine import grid_of
from glasshouse.evaluate.metric import Result, belongs, flaws, score_of


def shape_score(
    name: str, explanation: Explanation, value: PerImage, direction: Direction, extras: dict[str, Tensor] | None = None
) -> Score:
    """An exact score of a map alone; a map without any weight has none."""
    flat = explanation.heatmap.flatten(1)
    finite, weighty = flat.isfinite().all(1).tolist(), (flat != 0).any(1).tolist()
    reason = tuple(
        "" if good and some else "zero_total" if good else "not_finite"
        for good, some in zip(finite, weighty, strict=True)
    )
    return score_of(name, Result(value, torch.zeros_like(value), reason, extras or {}), None, direction, {})


def shares(explanation: Explanation) -> Float[Tensor, "n d"]:
    """Each pixel's part of the map's absolute weight, in float64."""
    weight = explanation.heatmap.flatten(1).double().abs()
    return weight / weight.sum(1, keepdim=True)


@registered("evaluate", cost=lambda settings, shape: Cost(0), paper="Chalasani et al., ICML 2020")
def sparseness(model: Model | nn.Module, inputs: Images, explanation: Explanation) -> Score:
    """How concentrated the map is, from 0 (spread evenly) to 1 - 1/d (a single pixel): the Gini index of |a|.

        sum_i (2 i - d - 1) |a|_(i) / (d sum_i |a|_i),   i = 1…d in ascending order

    Chalasani et al., "Concise explanations of neural networks using adversarial training", ICML 2020.
    """
    belongs(explanation, inputs)
    ascending = shares(explanation).sort(1).values
    d = ascending.shape[1]
    place = 2 * torch.arange(1, d + 1, dtype=torch.float64, device=ascending.device) - d - 1
    return shape_score("sparseness", explanation, (ascending @ place) / d, "up")


@registered("evaluate", cost=lambda settings, shape: Cost(0), paper="Bhatt et al., IJCAI 2020")
def entropy(model: Model | nn.Module, inputs: Images, explanation: Explanation) -> Score:
    """How many pixels share the map's weight, as an entropy in nats: 0 for one pixel, ln d for all d.

        -sum_i p_i ln p_i,   p_i = |a_i| / sum |a|

    Bhatt, Weller and Moura, IJCAI 2020, eq. 5 ("complexity"). `extras["normalised"]` is divided by ln d, and
    `extras["support"]` is exp(entropy), the number of pixels that evenly shared weight would have.
    """
    belongs(explanation, inputs)
    share = shares(explanation)
    value, most = torch.special.entr(share).sum(1), math.log(share.shape[1])
    extras = {"normalised": value / max(most, 1e-12), "support": value.exp()}
    return shape_score("entropy", explanation, value, "down", extras)


@registered("evaluate", cost=lambda settings, shape: Cost(0))
def sign_balance(model: Model | nn.Module, inputs: Images, explanation: Explanation) -> Score:
    """Share of evidence for the target minus share against it: 1 if all is positive, -1 if all is negative.

    sum a / sum |a|
    """
    belongs(explanation, inputs)
    heatmap = explanation.heatmap.flatten(1).double()
    return shape_score("sign_balance", explanation, heatmap.sum(1) / heatmap.abs().sum(1), "diagnostic")


@registered("evaluate", cost=lambda settings, shape: Cost(0), paper="Adebayo et al., NeurIPS 2018")
def edge_correlation(model: Model | nn.Module, inputs: Images, explanation: Explanation, *, seed: int = 0) -> Score:
    """Whether the map traces the image's edges: Spearman correlation of |a| with the image's Sobel magnitude.

    Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018, show that a map can look convincing by
    being an edge detector. High values call for `randomise_parameters`; by themselves they prove nothing.
    """
    belongs(explanation, inputs)
    heatmap = explanation.heatmap.to(inputs.device)
    size = (heatmap.shape[-2], heatmap.shape[-1])
    value, stderr = spearman(heatmap.abs(), edges(inputs), seed, grid_of(size))
    reason = [
        fault or ("" if known else "no_variation")
        for fault, known in zip(flaws(heatmap), value.isfinite().tolist(), strict=True)
    ]
    return score_of("edge_correlation", Result(value, stderr, tuple(reason)), None, "diagnostic", {"seed": seed})


def edges(images: Images) -> Float[Tensor, "n h w"]:
    """Magnitude of the Sobel gradient of the mean over channels."""
    grey = F.pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]).to(grey)
    return F.conv2d(grey, torch.stack([across, across.T])[:, None]).square().sum(1).sqrt()
