"""Why guided backprop and DeconvNet draw the image: the theory of Nie, Zhang and Patel, in functions to check it with.

Nie, Zhang and Patel, "A theoretical explanation for perplexing behaviors of backpropagation-based visualizations",
ICML 2018. In a random network of one convolution, ReLU and one linear layer, with patches `y_j = D_j x`, filters
`w_i ~ N(0, σ_w²)` and output weights `V_ij ~ N(0, σ_v²)`,

    saliency         Σ V_ij [w_i·y_j > 0] D_jᵀ w_i       has mean 0, because V has
    DeconvNet        Σ V_ij⁺ D_jᵀ w_i                    has mean 0, because w has: it does not see the image at all
    guided backprop  Σ V_ij⁺ [w_i·y_j > 0] D_jᵀ w_i      has mean N σ_v σ_w / 2π · Σ_j D_jᵀ y_j / ‖y_j‖

since E[w 1(w·y > 0)] = σ_w/√2π · y/‖y‖ and E[V⁺] = σ_v/√2π. The last line is the image put together from patches of
equal norm, whatever the class. Max-pooling lets DeconvNet see the image too, through the places of the maxima.
"""

import copy
from collections.abc import Callable, Sequence
from math import pi, prod
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from glasshouse.core import BadInput, Explanation, Images, Score, generator
from glasshouse.core.lift import checked_images

Explain = Callable[[nn.Module, Images, Int[Tensor, " n"]], Explanation]
"""An attribution method, such as `attribute.guided_backprop`."""

Order = Literal["part", "reverse", "only"]


class ThreeLayers(nn.Module):
    """Convolution of stride 1 over every patch, ReLU, perhaps max-pooling, and one linear layer. No biases."""

    def __init__(self, channels: int, size: tuple[int, int], n_filters: int, kernel: int, n_classes: int, pool: int):
        super().__init__()
        self.filters = nn.Conv2d(channels, n_filters, kernel, padding=kernel // 2, bias=False)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(pool, 1, pool // 2) if pool > 1 else nn.Identity()
        self.head = nn.Linear(n_filters * prod(size), n_classes, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.pool(self.relu(self.filters(inputs))).flatten(1))


def random_net(
    images: Images,
    *,
    n_filters: int = 16,
    kernel: int = 7,
    n_classes: int = 10,
    pool: int = 1,
    sigma_w: float = 0.1,
    sigma_v: float = 0.1,
    seed: int = 0,
) -> ThreeLayers:
    """A random network for images of this size, as the theory assumes it. Kernel and filters as in the paper, sec. 3.

    Args:
        pool: side of the max-pooling of stride 1 behind the ReLU; 1 for none. The paper takes 9.
        sigma_w, sigma_v: standard deviations of filters and output weights.
    """
    if kernel % 2 == 0 or pool % 2 == 0:
        raise BadInput(f"kernel {kernel} and pool {pool} must be odd, so that every patch has a middle.")
    _, channels, height, width = images.shape
    net = ThreeLayers(channels, (height, width), n_filters, kernel, n_classes, pool).to(images.dtype)
    draws = generator(seed)
    with torch.no_grad():
        for weight, sigma in ((net.filters.weight, sigma_w), (net.head.weight, sigma_v)):
            weight.copy_(sigma * torch.randn(weight.shape, generator=draws))
    return net.eval().requires_grad_(False)


def equalised(images: Images, kernel: int = 7) -> Images:
    """The image put together from its patches, each divided by its norm: `Σ_j D_jᵀ y_j / ‖y_j‖`.

    What guided backprop of a wide random network shows (Nie, Zhang and Patel, ICML 2018, theorem 1). A patch of zeros
    adds nothing.
    """
    images = checked_images(images)
    patches = F.unfold(images, kernel, padding=kernel // 2)
    norms = patches.norm(dim=1, keepdim=True)
    patches = patches / torch.where(norms > 0, norms, 1)
    return F.fold(patches, (images.shape[-2], images.shape[-1]), kernel, padding=kernel // 2)


def expected_guided_backprop(
    images: Images, *, n_filters: int = 16, kernel: int = 7, sigma_w: float = 0.1, sigma_v: float = 0.1
) -> Images:
    """The mean of guided backprop over all networks that `random_net` may draw: `N σ_v σ_w / 2π · equalised(images)`.

    It holds for every class, and without pooling.
    """
    return n_filters * sigma_v * sigma_w / (2 * pi) * equalised(images, kernel)


def recovery(values: Tensor, images: Images) -> Score:
    """How much of an image a map shows: the cosine between them, both as long vectors. 1 is the image itself.

    Args:
        values: of a method, `n c h w`, as its `native`.
        images: what is to be recovered: the images themselves, or `equalised(images)`.
    """
    if values.shape != images.shape:
        raise BadInput(f"values of shape {tuple(values.shape)} cannot show images of {tuple(images.shape)}.")
    return cosine_score("recovery", values, images, "diagnostic")


def class_similarity(
    explain: Explain,
    model: nn.Module,
    images: Images,
    first: Int[Tensor, " n"],
    second: Int[Tensor, " n"],
) -> Score:
    """How alike the maps of two classes are: their cosine; 1 means that the class does not matter.

    The paper gives the l2 distance of the two as unit vectors, which is `extras["distance"]` = √(2 - 2 cos).
    """
    return cosine_score(
        "class_similarity",
        explain(model, images, first).native,
        explain(model, images, second).native,
        "down",
    )


def adversarial_similarity(
    explain: Explain,
    model: nn.Module,
    images: Images,
    attacked: Images,
) -> Score:
    """How alike the maps of an image and of its adversarial twin are, each about the class that the model then sees.

    A method that explains decisions should change with them (the paper's sec. 4.3); `extras["distance"]` as in
    `class_similarity`.
    """
    with torch.no_grad():
        before, after = model(images).argmax(1), model(attacked).argmax(1)
    return cosine_score(
        "adversarial_similarity",
        explain(model, images, before).native,
        explain(model, attacked, after).native,
        "down",
    )


def cosine_score(name: str, first: Tensor, second: Tensor, direction: Literal["down", "diagnostic"]) -> Score:
    """Cosine per image, undefined where one of the two is all zeros."""
    a, b = first.detach().flatten(1).double(), second.detach().flatten(1).double()
    cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    reason = tuple("" if known else "constant_map" for known in cosine.isfinite().tolist())
    distance = (2 - 2 * cosine).clamp(min=0).sqrt()
    return Score(
        name,
        cosine.float(),
        torch.zeros(len(a)),
        None,
        direction,
        reason,
        extras={"distance": distance.float()},
    )


def layers_with_weights(model: nn.Module) -> list[str]:
    """Convolutions and linear layers, from the input to the output, as they are defined."""
    kinds = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
    return [name for name, module in model.named_modules() if isinstance(module, kinds)]


def partly_random(model: nn.Module, order: Order, depth: int, seed: int = 0) -> nn.Module:
    """A copy of a trained network in which some layers have random weights again (the paper's sec. 4.4).

    Random weights are normal, with the trained layer's own standard deviation; biases become 0. Norms stay.

    Args:
        order: "part": the first `depth` layers stay trained, the rest is random; "reverse": the first `depth` are
            random; "only": all stay trained but layer number `depth`.
    """
    names = layers_with_weights(model)
    if not 0 <= depth < len(names) + (order != "only"):
        raise BadInput(f"depth {depth} is outside 0…{len(names)}: the model has {len(names)} layers with weights.")
    chosen = {"part": names[depth:], "reverse": names[:depth], "only": names[depth : depth + 1]}.get(order)
    if chosen is None:
        raise BadInput(f"order '{order}' is unknown.", "Use 'part', 'reverse' or 'only'.")
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name in chosen:
            layer, draws = other.get_submodule(name), generator(seed * 100_003 + names.index(name))
            weight = layer.get_parameter("weight")
            weight.copy_(float(weight.std()) * torch.randn(weight.shape, generator=draws))
            if layer._parameters.get("bias") is not None:
                layer.get_parameter("bias").zero_()
    return other


def weight_schedule(
    explain: Explain,
    model: nn.Module,
    images: Images,
    target: Int[Tensor, " n"],
    order: Order,
    *,
    depths: Sequence[int] | None = None,
    seed: int = 0,
) -> list[tuple[Score, Score]]:
    """A method on ever more trained weights: likeness to the fully trained map, and to the image, at every depth.

    Returns, for each depth that `partly_random` takes, the cosine with the map of the trained network and the cosine
    with the image.

    Args:
        depths: some of them; None takes all.
    """
    whole = explain(model, images, target).native
    last = len(layers_with_weights(model)) + (order != "only")
    found: list[tuple[Score, Score]] = []
    for depth in range(last) if depths is None else depths:
        values = explain(partly_random(model, order, depth, seed), images, target).native
        found.append((cosine_score("likeness", values, whole, "diagnostic"), recovery(values, images)))
    return found
