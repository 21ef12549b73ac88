"""Objectives that compare: with other images, between the pictures of a batch, between two objectives.

Activations to compare with are maps `n k i j` of a layer, one row per picture, or a single row for all of them.
"""

from dataclasses import replace

import torch
from einops import einsum, rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from glasshouse.core import BadInput, Images, PerImage, Units
from glasshouse.visualize.objectives import LEAST_COSINE, Objective, Sight, Term, Value, single

FARTHEST = 4


def likeness(layer: str, maps: Units, *, cosine_power: float | int = 0) -> Objective:
    """How far a layer's activation reaches along that of another image, position by position.

        y = <A, B> / (i j) · max(0.1, cos(A, B))^p

    with products over all units and positions. With p = 0 it only grows larger, above 0 it also has to keep its
    direction. Lucid, `dot_compare`.

    Args:
        cosine_power: p.
    """
    other = maps.detach()

    def value(sight: Sight) -> PerImage:
        a, b = paired(sight, layer, other)
        reach = einsum(a, b, "n k i j, n k i j -> n")
        weight = 1.0
        if cosine_power:
            lengths = a.square().sum((1, 2, 3)).add(1e-12).sqrt() * b.square().sum((1, 2, 3)).sqrt()
            weight = (reach / (lengths + 1e-6)).clamp(min=LEAST_COSINE) ** cosine_power
        return reach * weight / (a.shape[2] * a.shape[3])

    power = f", cosine_power={cosine_power:g}" if cosine_power else ""
    return single(f"likeness({layer!r}{power})", value, layer, labelled(f"{layer} likeness", other))


def best_match(layer: str, maps: Units) -> Objective:
    """How well each position of a layer agrees with the position of other images that suits it best.

        y = mean_ij max_q <A_ij, B_q>

    over all positions q of all rows of `maps`: the guided dream of Mordvintsev, Olah and Tyka, 2015. The grids need
    not be of one size.
    """
    patches = rearrange(maps.detach(), "m k i j -> k (m i j)")

    def value(sight: Sight) -> PerImage:
        a = sight.maps[layer]
        if a.shape[1] != len(patches):
            raise BadInput(f"maps of {len(patches)} units for layer '{layer}' of {a.shape[1]}.")
        agreement = einsum(a, patches.to(a), "n k i j, k q -> n i j q")
        return reduce(agreement.amax(3), "n i j -> n", "mean")

    return single(f"best_match({layer!r})", value, layer, [f"{layer} best match"])


def activation_difference(layer: str, maps: Units, *, power: float | int = 1) -> Objective:
    """How far a layer's activation is from that of another image: `y = mean_kij |A - B|^p`. Subtract it to come near.

    Lucid, `activation_difference`, where p is 1.
    """
    other = maps.detach()

    def value(sight: Sight) -> PerImage:
        a, b = paired(sight, layer, other)
        return reduce((a - b).abs() ** power, "n k i j -> n", "mean")

    name = f"activation_difference({layer!r}{'' if power == 1 else f', power={power:g}'})"
    return single(name, value, layer, labelled(f"{layer} difference", other))


def style_difference(layer: str, maps: Units) -> Objective:
    """How differently units occur together, wherever they do: `y = mean_kl |G(A) - G(B)|`. Subtract it.

        G = A Aᵀ / (i j),   A of shape units x positions

    Gatys, Ecker and Bethge, "Image style transfer using convolutional neural networks", CVPR 2016. The grids need not
    be of one size. Differs: absolute differences, as in Lucid, so that no pair of units outweighs the others.
    """
    other = gram(maps.detach())

    def value(sight: Sight) -> PerImage:
        own = gram(sight.maps[layer])
        if own.shape[1:] != other.shape[1:] or len(other) not in (1, len(own)):
            raise BadInput(
                f"style of {other.shape[1]} units in {len(other)} images for layer '{layer}': it has "
                f"{own.shape[1]} units in {len(own)} pictures."
            )
        return (own - other.to(own)).abs().mean((1, 2))

    return single(f"style_difference({layer!r})", value, layer, labelled(f"{layer} style", other))


def change(pixels: Images) -> Objective:
    """How far the picture is from given pixels: `y = mean_chw (p - p0)²`. Subtract it to stay near them."""
    start = pixels.detach()

    def value(sight: Sight) -> PerImage:
        if sight.pixels.shape[1:] != start.shape[1:] or len(start) not in (1, len(sight.pixels)):
            seen, wanted = tuple(start.shape), tuple(sight.pixels.shape)
            raise BadInput(f"change from pixels {seen} for pictures {wanted}.")
        return (sight.pixels - start.to(sight.pixels)).square().mean((1, 2, 3))

    return Objective(((1.0, Term("change()", value, penalty=True)),))


def alignment(layer: str, *, decay_ratio: float | int = 2) -> Objective:
    """How much each picture of a batch resembles its neighbours in a layer, so that they blend into each other.

        y_n = -½ sum_d=1..4 decay_ratio^-d sum_m=n±d mean_kij (A_n - A_m)²

    Summed over the batch, this is Lucid's `alignment` (Mordvintsev et al., "Differentiable image parameterizations",
    Distill 2018, "Aligned feature visualization interpolation").
    """

    def value(sight: Sight) -> PerImage:
        flat = rearrange(sight.maps[layer], "n k i j -> n (k i j)")
        apart = flat.new_zeros(len(flat))
        for distance in range(1, min(FARTHEST, len(flat) - 1) + 1):
            gap = (flat[distance:] - flat[:-distance]).square().mean(1) / decay_ratio**distance
            nothing = gap.new_zeros(distance)
            apart = apart + torch.cat([gap, nothing]) + torch.cat([nothing, gap])
        return -apart / 2

    return single(f"alignment({layer!r})", value, layer, [], penalty=True)


def interpolate(start: Objective, end: Objective, n_images: int) -> Objective:
    """From one objective to another in equal steps, one picture for each: `y_n = (1 - t_n) start_n + t_n end_n`.

    t = 0, 1 / (n - 1), …, 1. With units, Lucid's `channel_interpolate`; with units of unlike scales, scale them first.
    """
    if n_images < 2 or len(start.labels) > 1 or len(end.labels) > 1:
        counts = f"{len(start.labels)} and {len(end.labels)}"
        raise BadInput(
            f"interpolation over {n_images} pictures, between objectives for {counts}.",
            "Give at least 2 pictures, and objectives that name one unit each.",
        )
    t = torch.linspace(0, 1, n_images, dtype=torch.float64)
    labels = tuple(f"{share:.0%} {end!r}" for share in t.tolist())
    parts = [(weight, faded(term, 1 - t, labels)) for weight, term in start.terms]
    return Objective((*parts, *((weight, faded(term, t, labels)) for weight, term in end.terms)))


def faded(term: Term, shares: Float[Tensor, " n"], labels: tuple[str, ...]) -> Term:
    """The term, weighted in each picture by that picture's share."""

    def value(sight: Sight) -> PerImage:
        return shares.to(sight.pixels) * whole(sight)

    whole: Value = term.value
    return replace(term, name=f"({shares[0]:g}…{shares[-1]:g}) {term.name}", value=value, labels=labels)


def paired(sight: Sight, layer: str, other: Tensor) -> tuple[Units, Units]:
    """A layer's maps of the pictures, and those to compare with."""
    maps = sight.maps[layer]
    if other.shape[1:] != maps.shape[1:] or len(other) not in (1, len(maps)):
        raise BadInput(
            f"maps of shape {tuple(other.shape)} to compare with layer '{layer}', which has {tuple(maps.shape)}.",
            "Take them from images of the picture's size: one row, or one per picture.",
        )
    return maps, other.to(maps).expand_as(maps)


def gram(maps: Units) -> Float[Tensor, "n k l"]:
    flat = rearrange(maps, "n k i j -> n k (i j)")
    return flat @ flat.mT / flat.shape[2]


def labelled(name: str, rows: Tensor) -> tuple[str, ...]:
    """A label per row; the same for all, as they are compared alike."""
    return (name,) * len(rows)
