"""Gradient methods: how the score answers to a change of each input value."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.attribute.baselines import baseline_images
from glasshouse.core import Aim, BadInput, Claim, Cost, Images, PerImage, Reading, Target, in_chunks, method, select
from glasshouse.core.gradient import gradient

LOCAL: tuple[Claim, ...] = ("dummy", "implementation", "silent", "equivariant")
"""What everything made of gradients alone can promise."""


@method(
    reduction="max_abs",
    cost=lambda settings, shape: Cost(1, 1),
    claims=(*LOCAL, "linear", "symmetric", "input_invariant"),
    paper="Simonyan et al., ICLR workshop 2014",
)
def saliency(model: nn.Module, inputs: Images, target: Target = None, *, score: Reading = "logit") -> Images:
    """How fast the score changes with each input value.

        g = dy / dx,   map = max_c |g_c|

    Simonyan, Vedaldi and Zisserman, "Deep inside convolutional networks", ICLR workshop 2014, sec. 3.1.
    `native` keeps the signed gradient of every channel.
    """
    inputs = inputs.requires_grad_()
    return gradient(select(model(inputs), target, score), inputs)


@method(cost=lambda settings, shape: Cost(1, 1), claims=(*LOCAL, "linear", "symmetric"), paper="Shrikumar et al., 2016")
def input_x_gradient(model: nn.Module, inputs: Images, target: Target = None, *, score: Reading = "logit") -> Images:
    """What each input value adds to the score, were the model linear around this image.

        x * dy / dx

    Shrikumar et al., "Not just a black box", 2016, sec. 2. Sums to the score exactly where the model is piecewise
    linear without biases; the image with all inputs 0 is the silent baseline.
    """
    inputs = inputs.requires_grad_()
    return inputs.detach() * gradient(select(model(inputs), target, score), inputs)


Rule = Literal["gausslegendre", "midpoint", "riemann_right"]


def passes(settings: Mapping[str, Any], shape: Sequence[int]) -> Cost | None:
    """Of integrated gradients: a forward and a backward pass per step, and the scores at both ends of the path.

    None where a `tolerance` decides how many steps there are.
    """
    return Cost(settings["n_steps"] + 2, settings["n_steps"]) if settings["tolerance"] is None else None


@method(
    cost=passes,
    claims=("complete", *LOCAL, "linear", "symmetric"),
    paper="Sundararajan et al., ICML 2017",
    example={"n_steps": 4},
)
def integrated_gradients(
    model: nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    baselines: float | Tensor = 0.0,
    n_steps: int = 50,
    rule: Rule = "gausslegendre",
    tolerance: float | None = None,
    score: Reading = "logit",
    chunk: int = 16,
) -> tuple[Images, dict[str, PerImage]]:
    """What each input value adds to the score on the way from a baseline to the image.

        (x - x0) * mean over a in 0…1 of dy / dx at x0 + a (x - x0)

    Sundararajan, Taly and Yan, "Axiomatic attribution for deep networks", ICML 2017, eq. 1. The values sum to
    `y(x) - y(x0)`; how far they miss it is reported as `extras["gap"]`, relative to that difference.

    Args:
        baselines: x0, in the model's input space; a number, or a tensor that broadcasts to the images.
        n_steps: points on the path.
        rule: how the points are placed and weighted. Where the model is piecewise linear none is better than another.
        tolerance: triple the points (of the midpoint rule, which keeps the old ones) until the gap is below it,
            27 times as many at the most.
        chunk: points per forward pass; any number gives the same result.
    """
    if n_steps < 1 or chunk < 1:
        raise BadInput(f"n_steps {n_steps} and chunk {chunk} must be at least 1.")
    start = baseline_images(baselines, inputs)
    aim = Aim.of(target)
    with torch.no_grad():
        change = select(model(inputs), aim, score)
        change = change - select(model(start), aim.rows(torch.arange(len(inputs))), score)

    def path(places: Float[Tensor, " s"], weights: Float[Tensor, " s"]) -> Tensor:
        return (inputs - start) * path_gradient(model, start, inputs, aim, score, places, weights, chunk)

    if tolerance is None:
        values = path(*nodes(rule, n_steps))
    else:
        values, n = path(*nodes("midpoint", n_steps)), n_steps
        while n < 27 * n_steps and (relative_gap(values, change) > tolerance).any():
            places, _ = nodes("midpoint", 3 * n)
            new = places[torch.arange(3 * n) % 3 != 1]
            values = values / 3 + path(new, torch.full_like(new, 1 / (3 * n)))
            n *= 3
    return values, {"gap": relative_gap(values, change)}


def path_gradient(
    model: nn.Module,
    start: Images,
    end: Images,
    aim: Aim,
    score: Reading,
    places: Float[Tensor, " s"],
    weights: Float[Tensor, " s"],
    chunk: int,
) -> Images:
    """Weighted sum of the gradients at `start + place * (end - start)`; memory does not grow with the places."""
    n, total = len(end), torch.zeros_like(end, dtype=torch.promote_types(end.dtype, torch.float32))
    places, weights = places.to(total), weights.to(total)

    def weighted(rows: Int[Tensor, " r"]) -> Tensor:
        image, place = rows % n, rows // n
        share = rearrange(places[place], "r -> r 1 1 1").to(end.dtype)
        points = torch.lerp(start[image], end[image], share.expand(len(rows), *end.shape[1:])).requires_grad_()
        slope = gradient(select(model(points), aim.rows(image), score), points)
        return slope.to(total) * rearrange(weights[place], "r -> r 1 1 1")

    for rows, slopes in in_chunks(weighted, len(places) * n, chunk, end.device):
        total.index_add_(0, rows % n, slopes)
    return total


def nodes(rule: Rule, n: int) -> tuple[Float[Tensor, " s"], Float[Tensor, " s"]]:
    """Places in 0…1 and weights that sum to 1."""
    if rule == "gausslegendre":
        return gauss_legendre(n)
    if rule == "midpoint":
        places = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    elif rule == "riemann_right":
        places = (torch.arange(n, dtype=torch.float64) + 1) / n
    else:
        raise BadInput(f"rule '{rule}' is unknown.", "Use 'gausslegendre', 'midpoint' or 'riemann_right'.")
    return places, torch.full_like(places, 1 / n)


def gauss_legendre(n: int) -> tuple[Float[Tensor, " s"], Float[Tensor, " s"]]:
    """Eigenvalues of the Jacobi matrix of the Legendre polynomials, moved to 0…1 (Golub and Welsch, 1969)."""
    k = torch.arange(1, n, dtype=torch.float64)
    off = k / (4 * k**2 - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return (values + 1) / 2, vectors[0] ** 2


def relative_gap(values: Images, change: PerImage) -> PerImage:
    """`|sum of values - change| / |change|`."""
    total = values.flatten(1).double().sum(1)
    return ((total - change).abs() / change.double().abs().clamp(min=1e-12)).to(values.dtype)
