"""Class activation maps without gradients: weights from masked images, from ablated units, or from the maps alone."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor, nn

from glasshouse.attribute.baselines import baseline_images
from glasshouse.attribute.cam import PooledHead, pooled_head, read_head
from glasshouse.attribute.gradient_cams import weighted
from glasshouse.core import (
    Aim,
    BadInput,
    Cost,
    Images,
    LayerMaps,
    PerImage,
    Reading,
    Target,
    Units,
    cut,
    geometry,
    in_chunks,
    method,
    probe,
    resize,
    select,
    unit_maps,
)
from glasshouse.core.layers import LayerGeometry, learnt
from glasshouse.core.mask import blend

LOGITS = 1024  # rows of class scores at a time, about as large as one image


def masked_passes(settings: Mapping[str, Any], shape: Sequence[int]) -> Cost | None:
    """Of Score-CAM: the clean image and one masked image per unit; how many units there are only the model knows."""
    return None if settings["top_k"] is None else Cost(1 + settings["top_k"])


@method(
    cost=masked_passes,
    claims=("implementation",),
    paper="Wang et al., CVPR workshops 2020",
    example={"top_k": 4, "chunk": 8},
)
def score_cam(
    model: nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    layer: str | None = None,
    baselines: float | Tensor = 0.0,
    top_k: int | None = None,
    relu: bool = True,
    score: Reading = "logit",
    chunk: int = 16,
) -> tuple[LayerMaps, dict[str, Tensor]]:
    """Units of a layer, weighted by the score of the image seen through each of them alone.

        L = relu(sum_k w_k A_k),   w = softmax_k y(x * H_k),   H_k = A_k enlarged to the pixels and scaled to 0…1

    Wang et al., "Score-CAM", CVPR workshops 2020, algorithm 1. The paper subtracts y(baseline) from every score,
    which the softmax cancels. A unit with the same value everywhere is no mask and has weight 0. `extras["weight"]`
    holds w.

    Args:
        layer: usually the last one with positions, which None takes.
        baselines: what is seen where the mask is 0; a number, or a tensor that broadcasts to the images.
        top_k: look only through the units with the largest mean |A_k|, which is quicker and no longer the paper's;
            None takes all.
        relu: cut negative values off, as the paper does.
        chunk: masked images per forward pass; any number gives the same result.
    """
    if chunk < 1 or (top_k is not None and top_k < 1):
        raise BadInput(f"chunk {chunk} and top_k {top_k} must be at least 1.", "top_k=None takes every unit.")
    layer = geometry(model, inputs).usual() if layer is None else layer
    units, aim, cover = unit_maps(model, inputs, layer), Aim.of(target), baseline_images(baselines, inputs)
    with torch.no_grad():
        with probe(model, layer) as seen:
            select(model(inputs), aim, score)
        maps = units.maps(seen[layer])
        image, unit = telling(maps, top_k).nonzero(as_tuple=True)
        scores = maps.new_full(maps.shape[:2], -torch.inf, dtype=torch.promote_types(maps.dtype, torch.float32))

        def through(rows: Tensor) -> PerImage:
            whose = image[rows]
            mask = masks(maps[whose, unit[rows]], (inputs.shape[-2], inputs.shape[-1]))
            return select(model(blend(inputs[whose], mask, cover[whose])), aim.rows(whose), score)

        for rows, found in in_chunks(through, len(image), chunk, inputs.device):
            scores[image[rows], unit[rows]] = found.to(scores)
    weight = scores.softmax(1).nan_to_num(0)
    return weighted(maps.to(weight), weight, relu), {"weight": weight}


def telling(maps: Units, top_k: int | None) -> Bool[Tensor, "n k"]:
    """Units that can serve as masks: those that are not constant, and of them the strongest."""
    varies = maps.flatten(2).amax(2) > maps.flatten(2).amin(2)
    if top_k is None or top_k >= maps.shape[1]:
        return varies
    strength = reduce(maps.abs(), "n k i j -> n k", "mean").masked_fill(~varies, -1)
    best = strength.topk(top_k, 1).indices
    return varies & torch.zeros_like(varies).scatter(1, best, value=True)


def masks(maps: Float[Tensor, "r i j"], size: tuple[int, int]) -> Float[Tensor, "r h w"]:
    """Each map enlarged to the pixels, then scaled to 0…1."""
    large = resize(maps[:, None], size)[:, 0]
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    return (large - low) / (high - low).clamp(min=torch.finfo(large.dtype).tiny)


def ablated_passes(settings: Mapping[str, Any], shape: Sequence[int]) -> Cost | None:
    """Of Ablation-CAM: one where the pooled head follows, else one more per unit: which it is, only the model knows."""
    return None


@method(
    cost=ablated_passes,
    claims=("dummy", "implementation", "silent", "equivariant", "input_invariant"),
    paper="Desai & Ramaswamy, WACV 2020",
    example={"chunk": 8},
)
def ablation_cam(
    model: nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    layer: str | None = None,
    relu: bool = True,
    score: Reading = "logit",
    chunk: int = 16,
) -> tuple[LayerMaps, dict[str, Tensor]]:
    """Units of a layer, weighted by how much of the score is lost without each.

        L = relu(sum_k w_k A_k),   w_k = (y - y with A_k = 0) / |y|

    Desai and Ramaswamy, "Ablation-CAM", WACV 2020, sec. 3. `extras["weight"]` holds w. Only what follows the layer is
    run again, once per unit that is not 0 everywhere. Where average pooling and one linear layer follow, nothing is:
    there the score without a unit is known exactly. A class token is not ablated.

    Differs: divides by |y|, not y, so that a negative score does not turn the map over; and by 1 where y is 0.

    Args:
        layer: usually the last one with positions, which None takes. It must run once.
        relu: cut negative values off, as the paper does.
        chunk: ablated copies per run; any number gives the same result.
    """
    if chunk < 1:
        raise BadInput(f"chunk {chunk} must be at least 1.")
    layer = geometry(model, inputs).usual() if layer is None else layer
    units, aim, head = unit_maps(model, inputs, layer), Aim.of(target), learnt(model, inputs, pooled_head)
    with torch.no_grad():
        if head and layer in head.makers:
            maps, clean, left = ablated_at_head(model, inputs, aim, score, head, units)
        else:
            maps, clean, left = ablated_before(model, inputs, aim, score, units, chunk)
    weight = (clean[:, None] - left) / clean.abs().where(clean != 0, 1)[:, None]
    return weighted(maps.to(weight), weight, relu), {"weight": weight}


Ablated: TypeAlias = tuple[Units, PerImage, Float[Tensor, "n k"]]
"""The maps of a layer, the score of each image, and what it is without each unit."""


def ablated_at_head(
    model: nn.Module, inputs: Images, aim: Aim, score: Reading, head: PooledHead, units: LayerGeometry
) -> Ablated:
    """Without unit k the head gives z - mean(A_k) W_k: exact, and no further run of the network."""
    pooled = read_head(model, inputs, head, units.name)
    assert pooled.layer is not None
    dtype = torch.promote_types(pooled.output.dtype, torch.float32)
    output, weight = pooled.output.to(dtype), pooled.weight.to(dtype)
    means = reduce(pooled.maps.to(dtype), "n k i j -> n k", "mean")
    clean = select(output, aim, score)

    def without(image: Tensor, unit: Tensor) -> PerImage:
        return select(output[image] - means[image, unit, None] * weight.T[unit], aim.rows(image), score)

    return units.maps(pooled.layer), clean, for_each_unit(without, clean, means != 0, LOGITS)


def ablated_before(
    model: nn.Module, inputs: Images, aim: Aim, score: Reading, units: LayerGeometry, chunk: int
) -> Ablated:
    """The network is run on from the layer, with one unit of one image at 0 in each row."""
    rest = cut(model, inputs, units.name)
    clean, maps = select(rest.output, aim, score), units.maps(rest.activation)

    def without(image: Tensor, unit: Tensor) -> PerImage:
        part = rest.rows(image)
        changed = units.maps(part.activation).clone()
        changed[torch.arange(len(unit)), unit] = 0
        return select(part(units.unmaps(changed, part.activation)), aim.rows(image), score)

    return maps, clean, for_each_unit(without, clean, maps.flatten(2).any(2), chunk)


def for_each_unit(
    without: Callable[[Tensor, Tensor], PerImage], clean: PerImage, alive: Bool[Tensor, "n k"], chunk: int
) -> Float[Tensor, "n k"]:
    """`without(image, unit)` for every unit that is alive; the clean score for the others."""
    image, unit = alive.nonzero(as_tuple=True)
    left = clean[:, None].repeat(1, alive.shape[1]).to(torch.promote_types(clean.dtype, torch.float32))
    for rows, found in in_chunks(lambda rows: without(image[rows], unit[rows]), len(image), chunk, clean.device):
        left[image[rows], unit[rows]] = found.to(left)
    return left


@method(
    cost=lambda settings, shape: Cost(1),
    claims=("dummy", "implementation", "equivariant", "input_invariant"),
    class_sensitive=False,
    warning="it never looks at the class: it shows the strongest pattern of the layer, "
    "which is the same for every class and for a network that always answers alike",
    paper="Muhammad & Yeasin, IJCNN 2020",
)
def eigen_cam(
    model: nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    layer: str | None = None,
    center: bool = False,
    score: Reading = "logit",
) -> LayerMaps:
    """How far each position of a layer follows the pattern of units that is strongest in this image.

        M = A v,   A with one row per position and one column per unit, v its first right-singular vector

    Muhammad and Yeasin, "Eigen-CAM", IJCNN 2020, sec. III. The target only names the score that is reported.

    Differs: the sign of a singular vector is arbitrary; here the value of largest magnitude is positive.

    Args:
        layer: usually the last one with positions, which None takes.
        center: subtract each unit's mean over the positions first, so that what the whole image shares does not count.
    """
    layer = geometry(model, inputs).usual() if layer is None else layer
    units = unit_maps(model, inputs, layer)
    with torch.no_grad():
        with probe(model, layer) as seen:
            select(model(inputs), target, score)
        maps = units.maps(seen[layer])
        rows = rearrange(maps, "n k i j -> n (i j) k").to(torch.promote_types(maps.dtype, torch.float32))
        values = principal(rows - rows.mean(1, keepdim=True) if center else rows)
        values = torch.where(-values.amin(1, keepdim=True) > values.amax(1, keepdim=True), -values, values)
    return rearrange(values, "n (i j) -> n i j", i=maps.shape[2])


def principal(rows: Float[Tensor, "n p k"]) -> Float[Tensor, "n p"]:
    """Rows times their first right-singular vector, from the smaller of the two matrices of inner products."""
    if rows.shape[1] <= rows.shape[2]:
        values, vectors = torch.linalg.eigh(rows @ rows.mT)
        return vectors[..., -1] * values[:, -1:].clamp(min=0).sqrt()
    _, vectors = torch.linalg.eigh(rows.mT @ rows)
    return (rows @ vectors[..., -1:])[..., 0]
