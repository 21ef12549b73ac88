"""The shape of a map by itself: how concentrated and how rough it is, which sign it has, whether it traces edges.

None of these needs the model, and none says that a map is right: a dot in the centre of the image is as
concentrated as can be. So none has a chance level, and none is judged.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.core import BadInput, Cost, Explanation, Images, Masks, Model, PerImage, Score, registered
from glasshouse.core.result import Direction
from glasshouse.evaluate.agreement import spearman
from glasshouse.evaluate.metric import Result, belongs, flaws, score_of
from glasshouse.evaluate.questions import grid_of


def shape_score(
    name: str,
    explanation: Explanation,
    value: PerImage,
    direction: Direction,
    extras: Mapping[str, Tensor] = {},
    settings: Mapping[str, float] = {},
) -> Score:
    """An exact score of a map alone; a map without any weight has none."""
    flat = explanation.heatmap.flatten(1)
    finite, weighty = flat.isfinite().all(1).tolist(), (flat != 0).any(1).tolist()
    reason = tuple(
        "" if good and some else "zero_total" if good else "not_finite"
        for good, some in zip(finite, weighty, strict=True)
    )
    return score_of(name, Result(value, torch.zeros_like(value), reason, dict(extras)), None, direction, settings)


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


@registered("evaluate", cost=lambda settings, shape: Cost(0), paper="Nguyen and Martínez, 2020")
def effective_complexity_count(
    model: Model | nn.Module, inputs: Images, explanation: Explanation, *, eps: float = 0.01
) -> Score:
    """How many pixels have a weight worth mentioning: more than `eps` of the map's largest. Lower is better.

        number of i with |a_i| > eps max |a|

    A count that needs no model, and stands in some libraries for the effective complexity of Nguyen and Martínez, 2020;
    theirs asks the model, see `effective_complexity`. `extras["share"]` is divided by d.
    """
    belongs(explanation, inputs)
    if not 0 <= eps < 1:
        raise BadInput(f"eps {eps} is not a part of the largest value.", "Use 0.01.")
    weight = explanation.heatmap.flatten(1).double().abs()
    value = (weight > eps * weight.amax(1, keepdim=True)).sum(1).double()
    extras = {"share": value / weight.shape[1]}
    return shape_score("effective_complexity_count", explanation, value, "down", extras, {"eps": eps})


@registered("evaluate", cost=lambda settings, shape: Cost(0))
def spread(model: Model | nn.Module, inputs: Images, explanation: Explanation, *, share: float = 0.05) -> Score:
    """How far the map's top pixels lie from each other: 0 for one spot, about 1 if they lie all over the image.

        mean distance of the top pixels to their centre / mean distance of all pixels to the image's centre

    `extras["components"]` is the number of connected parts that they form (8 neighbours), `extras["pixels"]` how many
    they are: those whose |a| is as large as that of the last in the top `share`, and not 0.
    """
    belongs(explanation, inputs)
    if not 0 < share <= 1:
        raise BadInput(f"share {share} is not above 0 and at most 1.", "Use 0.05.")
    weight = explanation.heatmap.double().abs()
    flat = weight.flatten(1)
    least = flat.topk(max(1, round(share * flat.shape[1])), dim=1).values[:, -1]
    top = (weight >= least[:, None, None]) & (weight > 0)
    value = distance_to_centre(top) / distance_to_centre(torch.ones_like(top)).clamp(min=1e-12)
    numbers = parts(top).flatten(1)
    own = torch.arange(1, numbers.shape[1] + 1, device=numbers.device)
    extras = {"components": (numbers == own).sum(1).double(), "pixels": top.flatten(1).sum(1).double()}
    return shape_score("spread", explanation, value, "diagnostic", extras, {"share": share})


def distance_to_centre(masks: Masks) -> PerImage:
    """Mean distance in pixels of marked pixels to the mean of their places; 0 where none is marked."""
    h, w = masks.shape[1:]
    place = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")).flatten(1).double()
    weight = masks.flatten(1).double()
    weight = weight / weight.sum(1, keepdim=True).clamp(min=1)
    away = place.to(weight) - (weight @ place.to(weight).T)[:, :, None]
    return (weight * away.square().sum(1).sqrt()).sum(1)


def parts(masks: Masks) -> Int[Tensor, "n h w"]:
    """For each marked pixel the number of the part it is connected to, counted from 1; 0 elsewhere.

    A part has the largest number of its pixels, 1 … h w in reading order. Every pixel takes the largest among its
    neighbours, and then what the pixel of that number has, until nothing changes.
    """
    n, h, w = masks.shape
    number = torch.arange(1, h * w + 1, device=masks.device).view(h, w) * masks
    while True:
        largest = F.max_pool2d(number[:, None].double(), 3, 1, 1)[:, 0].long() * masks
        leap = largest.flatten(1).gather(1, (largest.flatten(1) - 1).clamp(min=0)).view(n, h, w) * masks
        if leap.equal(number):
            return number
        number = leap


@registered("evaluate", cost=lambda settings, shape: Cost(0))
def total_variation(model: Model | nn.Module, inputs: Images, explanation: Explanation) -> Score:
    """How rough the map is, per unit of its weight: 0 if even, at most 4, for values that alternate in sign.

        sum over neighbours, across and down, of |a_i - a_j| / sum |a|

    White noise has about 2.8 (Gaussian). A blob of fixed shape has less in a larger image: compare maps of one size.
    """
    belongs(explanation, inputs)
    heatmap = explanation.heatmap.double()
    down, across = heatmap.diff(dim=1).abs().sum((1, 2)), heatmap.diff(dim=2).abs().sum((1, 2))
    return shape_score("total_variation", explanation, (down + across) / heatmap.abs().sum((1, 2)), "diagnostic")


@registered("evaluate", cost=lambda settings, shape: Cost(0), paper="Odena et al., Distill 2016")
def high_frequency(
    model: Model | nn.Module, inputs: Images, explanation: Explanation, *, longest_px: float = 4.0
) -> Score:
    """Share of the map's variance in patterns finer than about 4 pixels, across or down. A checkerboard has 1.

        sum of |spectrum|² at frequencies >= 1/4 in either direction / sum over all frequencies but 0

    Strided convolutions leave such patterns in gradients (Odena, Dumoulin and Olah, "Deconvolution and checkerboard
    artifacts", Distill 2016). White noise has about 3/4. The map is continued by its mirror image, so that its borders
    make no jump.

    Args:
        longest_px: longest period that counts, in pixels; one of just this length counts in part.
    """
    belongs(explanation, inputs)
    if longest_px < 2:
        raise BadInput(f"longest_px {longest_px} is below 2, the shortest there is.", "Use 4.")
    heatmap = explanation.heatmap.double()
    centred = heatmap - heatmap.mean((1, 2), keepdim=True)
    mirrored = torch.cat([centred, centred.flip(1)], 1)
    mirrored = torch.cat([mirrored, mirrored.flip(2)], 2)
    energy = torch.fft.fft2(mirrored).abs().square()
    down, across = (torch.fft.fftfreq(size, dtype=torch.float64).abs() for size in energy.shape[1:])
    high = (torch.maximum(down[:, None], across) >= 1 / longest_px).to(energy.device)
    value = (energy * high).sum((1, 2)) / energy.sum((1, 2))
    zero = torch.zeros_like(value)
    return score_of(
        "high_frequency", Result(value, zero, flaws(heatmap)), None, "diagnostic", {"longest_px": longest_px}
    )
