"""Activation times gradient at a layer: what its positions, its units and groups of units add to a score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from einops import einsum, reduce
from jaxtyping import Float
from torch import Tensor, nn

from glasshouse.attribute.gradients import gauss_legendre, relative_gap
from glasshouse.attribute.units import UnitAttribution
from glasshouse.core import (
    Aim,
    BadInput,
    Claim,
    Cost,
    Images,
    LayerMaps,
    Model,
    NothingMatched,
    PerImage,
    Reading,
    Target,
    Units,
    borrow,
    cut,
    geometry,
    method,
    probe,
    registered,
    select,
    steps,
    unit_maps,
)
from glasshouse.core.gradient import gradient
from glasshouse.core.lift import checked_images, setting

Path = Literal["gradient", "ig"]
CLAIMS: tuple[Claim, ...] = ("dummy", "implementation", "silent", "equivariant")
OLAH = "Olah et al., Distill 2018"
CANCELLED = 1e-4  # of the sum of sizes: below it, a sum of parts is their rounding


@dataclass(frozen=True)
class Shares:
    """What every unit at every position of a layer adds to the score.

    Args:
        values: activation times gradient.
        gradient: its second factor, by which other activations can be weighed.
        extras: "prefix", what the tokens before the grid add; "rest", what of the score is left; "gap", with
            path="ig".
    """

    values: Units
    activation: Units
    gradient: Units
    layer: str
    extras: dict[str, PerImage]


def shares(
    model: nn.Module, inputs: Images, aim: Aim, layer: str | None, path: Path, n_steps: int, score: Reading
) -> Shares:
    """Activation times gradient at a layer; with path="ig", times its mean on the way from no activation at all."""
    layer = geometry(model, inputs).usual() if layer is None else layer
    units, extras = unit_maps(model, inputs, layer), dict[str, PerImage]()
    if path == "gradient":
        with probe(model, layer) as seen:
            y = select(model(inputs.requires_grad_()), aim, score)
        activation, slope = seen[layer].detach(), gradient(y, seen[layer])
    elif path == "ig":
        if n_steps < 1:
            raise BadInput(f"n_steps {n_steps} must be at least 1.")
        y, low, activation, slope = along_path(model, inputs, aim, layer, n_steps, score)
        extras["gap"] = relative_gap(activation * slope, y - low)
    else:
        raise BadInput(f"path '{path}' is unknown.", "Use 'gradient' or 'ig'.")
    product = activation * slope
    values = units.maps(product)
    total, on_grid = (reduce(part, "n ... -> n", "sum") for part in (product, values))
    before = total - on_grid if units.prefix else torch.zeros_like(on_grid)
    extras |= {"rest": y.detach() - on_grid - before, "prefix": before}
    return Shares(values, units.maps(activation), units.maps(slope), layer, extras)


def along_path(
    model: nn.Module, inputs: Images, aim: Aim, layer: str, n_steps: int, score: Reading
) -> tuple[PerImage, PerImage, Tensor, Tensor]:
    """The score with a layer as it is and with 0 in its place, the layer, and the mean gradient in between."""
    rest = cut(model, inputs, layer)
    activation = rest.activation
    y, slope = select(rest.output, aim, score), torch.zeros_like(activation)
    with torch.no_grad():
        low = select(rest(torch.zeros_like(activation)), aim, score)
    places, weights = (nodes.tolist() for nodes in gauss_legendre(n_steps))
    for step in steps(n_steps):
        point = (places[step] * activation).requires_grad_()
        slope += weights[step] * gradient(select(rest(point), aim, score), point)
    return y, low, activation, slope


@method(
    cost=lambda settings, shape: Cost(1, 1),
    claims=(*CLAIMS, "linear", "input_invariant"),
    paper="Fong et al., ICCV 2019",
)
def linear_approximation(
    model: nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    layer: str | None = None,
    score: Reading = "logit",
) -> tuple[LayerMaps, dict[str, PerImage]]:
    """What each position of a layer adds to the score, were the rest of the network linear.

        L = sum_k A_k dy / dA_k

    The baseline "linear approximation" of Fong, Patrick and Vedaldi, "Understanding deep networks via extremal
    perturbations and smooth masks", ICCV 2019, and of its library. Signed: no ReLU. Where what follows the layer is
    piecewise linear, the values miss the score by the share of its biases; `extras["rest"]` is what they miss.

    Args:
        layer: None takes the last one with positions. Of tokens, those before the grid (class token, registers) have
            no position; what they add is `extras["prefix"]`.
    """
    found = shares(model, inputs, Aim.of(target), layer, "gradient", 1, score)
    return positions(model, inputs, found), found.extras


def positions(model: nn.Module, inputs: Images, found: Shares) -> LayerMaps:
    """All units together. Where they cancel at every position, what is left is rounding, and an error.

    A layer norm does not care how long a token is, so by Euler's theorem activation times gradient sums to 0 over the
    units of what it reads.
    """
    maps = reduce(found.values, "n k i j -> n i j", "sum")
    left, most = (reduce(part.abs(), "n ... -> n", "sum") for part in (maps, found.values))
    if ((left < CANCELLED * most) & (most > 0)).any():
        layers = list(geometry(model, inputs).layers.values())
        later = layers[[layer.name for layer in layers].index(found.layer.split("#")[0]) + 1 :]
        norms = [layer.name for layer in later if "LayerNorm" in layer.kind and not layer.name.endswith(".input")]
        raise NothingMatched(
            f"the units of layer '{found.layer}' cancel at every position, since a layer norm reads them.",
            f"Look behind the norm, with layer='{norms[0]}'." if norms else "Name another layer.",
        )
    return maps


def passes(settings: Mapping[str, Any], shape: Sequence[int]) -> Cost:
    """One way there and back; along a path, one per step, besides a trial run and both ends."""
    n = settings["n_steps"]
    return Cost(1, 1) if settings["path"] == "gradient" else Cost(n + 3, n)


@method(cost=passes, claims=(*CLAIMS, "linear", "input_invariant"), paper=OLAH)
def spatial_attribution(
    model: nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    layer: str | None = None,
    path: Path = "gradient",
    n_steps: int = 50,
    score: Reading = "logit",
) -> tuple[LayerMaps, dict[str, PerImage]]:
    """What each position of a layer adds to the score, all its units together.

        M(i, j) = sum_k A_k,ij g_k,ij,   g = dy / dA, or its mean over a A for a in 0…1

    Olah et al., "The building blocks of interpretability", Distill 2018. The sum over positions is that of
    `channel_attribution` over units. With path="gradient" this is `linear_approximation`.

    Args:
        layer: None takes the last one with positions. Of tokens, those before the grid (class token, registers) have
            no position; what they add is `extras["prefix"]`, and what nobody adds `extras["rest"]`.
        path: "gradient" at the activation itself, as in the paper; "ig" on the way from a layer that is 0 everywhere,
            which costs `n_steps` runs of what follows the layer, and sums to the difference of the two scores
            (`extras["gap"]`).
    """
    found = shares(model, inputs, Aim.of(target), layer, path, n_steps, score)
    return positions(model, inputs, found), found.extras


@registered("attribute", cost=passes, paper=OLAH)
def channel_attribution(
    model: Model | nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    layer: str | None = None,
    path: Path = "gradient",
    n_steps: int = 50,
    score: Reading = "logit",
) -> UnitAttribution:
    """What each unit of a layer adds to the score, at all positions together.

        m_k = sum_ij A_k,ij g_k,ij,   g = dy / dA, or its mean over a A for a in 0…1

    Olah et al., "The building blocks of interpretability", Distill 2018. The sum over units is that of
    `spatial_attribution` over positions.

    Args:
        layer, path: as for `spatial_attribution`.
    """
    settings = {"layer": layer, "path": path, "n_steps": n_steps, "score": score}
    aim, found = asked(model, inputs, target, layer, path, n_steps, score)
    return answer("channel_attribution", reduce(found.values, "n k i j -> n k", "sum"), aim, found, settings, {})


def group_attribution(
    model: Model | nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    groups: Float[Tensor, "k g"],
    strengths: Float[Tensor, "n g i j"] | None = None,
    layer: str | None = None,
    path: Path = "gradient",
    n_steps: int = 50,
    score: Reading = "logit",
) -> UnitAttribution:
    """What each group of units of a layer adds to the score, a group being a direction that units share.

        A_ij ≈ sum_g S_g,ij W_g,   m_g = sum_ij S_g,ij (W_g · dy / dA_ij)

    Olah et al., "The building blocks of interpretability", Distill 2018. `extras["maps"]` holds the sum's terms for
    each position, `extras["residual"]` what the part of A adds that the groups leave out: groups and residual together
    are what all units add.

    Args:
        groups: W, one column per group, as a factorisation gives them.
        strengths: S; None finds the non-negative ones that leave the least of A out.
        layer, path: as for `spatial_attribution`.
    """
    settings = {"groups": groups, "strengths": strengths, "layer": layer, "path": path, "n_steps": n_steps}
    aim, found = asked(model, inputs, target, layer, path, n_steps, score)
    if len(groups) != found.values.shape[1]:
        raise BadInput(f"groups of {len(groups)} units at layer '{found.layer}', which has {found.values.shape[1]}.")
    groups = groups.to(found.values)
    strengths = nonnegative(found.activation, groups) if strengths is None else strengths.to(found.values)
    maps = strengths * einsum(groups, found.gradient, "k g, n k i j -> n g i j")
    values = reduce(maps, "n g i j -> n g", "sum")
    residual = reduce(found.values, "n k i j -> n", "sum") - values.sum(1)
    extras = {"maps": maps, "strengths": strengths, "residual": residual}
    return answer("group_attribution", values, aim, found, {**settings, "score": score}, extras)


def asked(
    model: Model | nn.Module,
    inputs: Images,
    target: Target,
    layer: str | None,
    path: Path,
    n_steps: int,
    score: Reading,
) -> tuple[Aim, Shares]:
    aim, images = Aim.of(target), checked_images(inputs)
    with borrow(model, images, [layer] if layer else []) as network:
        return aim, shares(network, images.detach().clone(), aim, layer, path, n_steps, score)


def answer(
    name: str, values: Tensor, aim: Aim, found: Shares, settings: dict[str, Any], extras: dict[str, Tensor]
) -> UnitAttribution:
    assert aim.clean is not None
    return UnitAttribution(
        values=values,
        method=name,
        target=tuple(aim.indices.tolist()) if aim.indices is not None else (),
        score=aim.clean.float(),
        layer=found.layer,
        settings={key: setting(value) for key, value in {**settings, "layer": found.layer}.items()},
        extras=extras | found.extras,
    )


def nonnegative(maps: Units, groups: Float[Tensor, "k g"], sweeps: int = 1000) -> Float[Tensor, "n g i j"]:
    """Non-negative least squares at every position, one group after the other until nothing changes any more.

    Franc, Hlaváč and Navara, "Sequential coordinate-wise algorithm for the non-negative least squares problem", CAIP
    2005.
    """
    gram, along = groups.T @ groups, einsum(groups, maps, "k g, n k i j -> g n i j")
    found, size = torch.zeros_like(along), gram.diagonal()
    if not (size > 0).all():
        raise BadInput("a group is 0 for every unit.", "Leave it out.")
    for _ in range(sweeps):
        before = found.clone()
        for group in range(len(gram)):
            slope = along[group] - einsum(gram[group], found, "g, g n i j -> n i j")
            found[group] = (found[group] + slope / size[group]).clamp(min=0)
        if (found - before).abs().max() <= 1e-6 * found.abs().max():
            break
    return found.transpose(0, 1)
