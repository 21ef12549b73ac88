"""Class activation maps whose weights are gradients: one pass forward, and back to the layer only."""

import torch
from einops import einsum, rearrange, reduce
from torch import Tensor, nn

from glasshouse.attribute.backprops import Others, guided_backprop
from glasshouse.core import (
    Aim,
    Cost,
    Images,
    LayerMaps,
    Reading,
    Target,
    Units,
    geometry,
    method,
    probe,
    resize,
    select,
    unit_maps,
)
from glasshouse.core.activations import attach, find
from glasshouse.core.gradient import gradient
from glasshouse.core.registry import Claim

CLAIMS: tuple[Claim, ...] = ("dummy", "implementation", "silent", "equivariant")


def maps_and_slopes(
    model: nn.Module, inputs: Images, target: Target, layer: str | None, score: Reading
) -> tuple[Units, Units]:
    """A layer's units A, and g = dy / dA: how much the score gains with each value of each unit.

    The graph begins at the layer, so that nothing before it is kept. Half precision is summed up in single.
    """
    layer = geometry(model, inputs).usual() if layer is None else layer
    units = unit_maps(model, inputs, layer)
    start = attach(find(model, layer), Tensor.requires_grad_)
    try:
        with probe(model, layer) as seen:
            y = select(model(inputs), target, score)
    finally:
        start.remove()
    slopes = gradient(y, seen[layer])
    dtype = torch.promote_types(slopes.dtype, torch.float32)
    return units.maps(seen[layer].detach()).to(dtype), units.maps(slopes).to(dtype)


@method(
    cost=lambda settings, shape: Cost(1, 1), claims=(*CLAIMS, "input_invariant"), paper="Selvaraju et al., ICCV 2017"
)
def grad_cam(
    model: nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    layer: str | None = None,
    relu: bool = True,
    score: Reading = "logit",
) -> LayerMaps:
    """Units of a layer, weighted by how much each raises the target score.

        L = relu(sum_k a_k A_k),   a_k = mean_ij dy / dA_k,ij

    Selvaraju et al., "Grad-CAM", ICCV 2017, eqs. 1-2.

    Args:
        layer: usually the last one with positions (None takes it); earlier layers are sharper and noisier.
        relu: cut negative values off, as the paper does; without it they speak against the target.
    """
    maps, slopes = maps_and_slopes(model, inputs, target, layer, score)
    return weighted(maps, reduce(slopes, "n k i j -> n k", "mean"), relu)


@method(
    cost=lambda settings, shape: Cost(1, 1), claims=(*CLAIMS, "input_invariant"), paper="Chattopadhay et al., WACV 2018"
)
def grad_cam_pp(
    model: nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    layer: str | None = None,
    relu: bool = True,
    score: Reading = "logit",
) -> LayerMaps:
    """Grad-CAM with positions that raise the score weighted by themselves, so that small objects count like large ones.

        L = relu(sum_k w_k A_k),   w_k = sum_ij alpha_k,ij relu(g_k,ij),   alpha_k,ij = 1 / (2 + g_k,ij sum_uv A_k,uv)

    with g = dy / dA. Chattopadhay et al., "Grad-CAM++", WACV 2018, sec. 3.2, for Y = exp(y): its derivatives are
    Y g, Y g^2 and Y g^3, so that alpha = g^2 / (2 g^2 + g^3 sum A), of which g^2 cancels and only g > 0 is used.

    Differs: the factor Y, one positive number for a whole map, is left out. The sum over A runs over its positive
    values, without which alpha has poles in layers that are not behind a ReLU.

    Args:
        layer: usually the last one with positions, which None takes.
        relu: cut negative values off, as the paper does.
    """
    maps, slopes = maps_and_slopes(model, inputs, target, layer, score)
    gain, total = slopes.relu(), reduce(maps.relu(), "n k i j -> n k 1 1", "sum")
    return weighted(maps, reduce(gain / (2 + gain * total), "n k i j -> n k", "sum"), relu)


@method(
    cost=lambda settings, shape: Cost(1, 1), claims=(*CLAIMS, "linear", "input_invariant"), paper="Fu et al., BMVC 2020"
)
def xgrad_cam(
    model: nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    layer: str | None = None,
    relu: bool = False,
    score: Reading = "logit",
) -> LayerMaps:
    """Grad-CAM with the gradient averaged where the unit is active.

        M = sum_k w_k A_k,   w_k = sum_ij A_k,ij g_k,ij / sum_ij A_k,ij

    with g = dy / dA. Fu et al., "Axiom-based Grad-CAM", BMVC 2020. The values sum to sum A g, as those of
    HiResCAM do. A unit whose values sum to 0 has weight 0.

    Args:
        layer: usually the last one with positions, which None takes; one behind a ReLU, since the weight of a unit
            whose values nearly cancel is enormous.
        relu: cut negative values off.
    """
    maps, slopes = maps_and_slopes(model, inputs, target, layer, score)
    total, share = reduce(maps, "n k i j -> n k", "sum"), einsum(maps, slopes, "n k i j, n k i j -> n k")
    return weighted(maps, torch.where(total == 0, 0, share / total), relu)


@method(
    cost=lambda settings, shape: Cost(1, 1),
    claims=(*CLAIMS, "linear", "input_invariant"),
    paper="Draelos & Carin, 2020",
)
def hires_cam(
    model: nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    layer: str | None = None,
    relu: bool = False,
    score: Reading = "logit",
) -> LayerMaps:
    """What each position of a layer adds to the score, were everything behind the layer linear.

        M_ij = sum_k g_k,ij A_k,ij,   g = dy / dA

    Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural networks",
    2020. Where one linear layer follows, the values sum to the score without its bias; where average pooling and one
    linear layer follow, it is CAM divided by the number of positions.

    Args:
        layer: usually the last one with positions, which None takes.
        relu: cut negative values off.
    """
    maps, slopes = maps_and_slopes(model, inputs, target, layer, score)
    return rectified(einsum(slopes, maps, "n k i j, n k i j -> n i j"), relu)


@method(cost=lambda settings, shape: Cost(1, 1), claims=(*CLAIMS, "input_invariant"), paper="Jiang et al., TIP 2021")
def layer_cam(
    model: nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    layer: str | None = None,
    relu: bool = True,
    score: Reading = "logit",
) -> LayerMaps:
    """Units of a layer, each position weighted by how much more of the unit there raises the score.

        M_ij = relu(sum_k relu(g_k,ij) A_k,ij),   g = dy / dA

    Jiang et al., "LayerCAM: exploring hierarchical class activation maps for localization", TIP 2021, sec. III. One
    weight per position keeps the detail of early layers. The paper also takes the maximum over maps of several
    layers, the early ones as tanh(2 M / max M).

    Args:
        layer: usually the last one with positions, which None takes; any other works.
        relu: cut negative values off, as the paper does.
    """
    maps, slopes = maps_and_slopes(model, inputs, target, layer, score)
    return rectified(einsum(slopes.relu(), maps, "n k i j, n k i j -> n i j"), relu)


@method(
    cost=lambda settings, shape: Cost(1, 1), claims=(*CLAIMS, "input_invariant"), paper="Pillai & Pirsiavash, AAAI 2021"
)
def grad_cam_elementwise(
    model: nn.Module, inputs: Images, target: Target = None, *, layer: str | None = None, score: Reading = "logit"
) -> LayerMaps:
    """HiResCAM of what speaks for the target alone: negative products are cut off before they are summed over units.

        M_ij = sum_k relu(g_k,ij A_k,ij),   g = dy / dA

    Pillai and Pirsiavash, "Explainable models with consistent interpretations", AAAI 2021.

    Args:
        layer: usually the last one with positions, which None takes.
    """
    maps, slopes = maps_and_slopes(model, inputs, target, layer, score)
    return reduce((slopes * maps).relu(), "n k i j -> n i j", "sum")


@method(
    reduction="max_abs",
    cost=lambda settings, shape: Cost(2, 2),
    claims=("dummy", "implementation", "silent", "input_invariant"),
    warning="its fine detail is that of guided backprop, which is the same for every class; "
    "only the coarse shape is about this one",
    paper="Selvaraju et al., ICCV 2017",
)
def guided_grad_cam(
    model: nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    layer: str | None = None,
    score: Reading = "logit",
    others: Others = "error",
) -> Images:
    """Guided backprop, cut out where Grad-CAM finds evidence.

        guided backprop * Grad-CAM, enlarged bilinearly to the pixels

    Selvaraju et al., "Grad-CAM", ICCV 2017, sec. 3.2. Signed, for every channel of the image.

    Args:
        layer: of Grad-CAM; usually the last one with positions, which None takes.
        others: what guided backprop does at activation functions other than ReLU.
    """
    aim, (rows, cols) = Aim.of(target), inputs.shape[-2:]
    coarse = grad_cam.__wrapped__(model, inputs, aim, layer=layer, score=score)  # type: ignore[attr-defined]
    fine = guided_backprop.__wrapped__(model, inputs, aim, score=score, others=others)  # type: ignore[attr-defined]
    return fine * resize(rearrange(coarse, "n i j -> n 1 i j"), (rows, cols))


def weighted(maps: Units, weight: Tensor, relu: bool) -> LayerMaps:
    """Units summed with one weight each."""
    return rectified(einsum(weight, maps, "n k, n k i j -> n i j"), relu)


def rectified(values: LayerMaps, relu: bool) -> LayerMaps:
    """The values, without the negative ones if these are not wanted."""
    return values.relu() if relu else values
