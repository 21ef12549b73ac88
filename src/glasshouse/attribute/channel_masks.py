"""Extremal perturbations inside a network: the few units of a layer that alone give the highest score."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from einops import rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.attribute.areas import Climb, Game, area_counts, climb
from glasshouse.attribute.units import UnitAttribution
from glasshouse.core import (
    Aim,
    BadInput,
    Cost,
    Images,
    Model,
    PerImage,
    Reading,
    Target,
    borrow,
    cut,
    geometry,
    in_chunks,
    registered,
    select,
    unit_maps,
)
from glasshouse.core.gradient import gradient
from glasshouse.core.layers import LayerGeometry
from glasshouse.core.lift import checked_images, setting
from glasshouse.core.suffix import Suffix

LOOSE, FIRM = 0.25, 30.0  # what one unit's distance from its place counts, at first and in the end


def passes(settings: Mapping[str, Any], shape: Sequence[int]) -> Cost | None:
    """One, and of what follows the layer one for each area and step and for each unit, whose number the model knows."""
    return None


@registered(
    "attribute",
    cost=passes,
    paper="Fong et al., ICCV 2019",
    example={"areas": (0.2, 0.5), "n_steps": 8},
)
def channel_extremal_perturbation(
    model: Model | nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    layer: str | None = None,
    areas: Sequence[float | int] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4),
    n_steps: int = 500,
    learning_rate: float = 0.01,
    score: Reading = "logit",
    chunk: int = 64,
) -> UnitAttribution:
    """How soon a unit is among those kept, if only some units of a layer may be: 1 for one that always is.

        m_a = argmax y(f(m · A))  over m in [0, 1]^k of area a,   value = mean_a m_a

    where A is the layer's output, f what follows it, and m fades whole units. Fong, Patrick and Vedaldi,
    "Understanding deep networks via extremal perturbations and smooth masks", ICCV 2019, sec. 4.3. The mean of
    `values` over images of a class ranks the units for that class.

    `extras` holds the masks (`n a k`), the score of each (`reward`), and per unit what simpler methods say:
    `gradient_x_activation` (sum over positions), `gradient` (sum of absolute values) and `ablation`, the fall of the
    score when the unit alone becomes 0.

    Differs: the paper gives neither areas nor a schedule, and its authors published no code. The weight of the area
    grows from 1/4 to 30 for each unit: with that of images (300 over all) the area would be settled before the score is
    heard, by gradient x activation at the first step.

    Args:
        layer: any layer with units; None takes the usual one. Tokens that have no place in the image stay as they are.
        areas: shares of the units that may be kept, or ints: so many units.
        chunk: rows, of one image and area each, that run at once behind the layer; any number gives the same result.
    """
    if n_steps < 1 or learning_rate <= 0 or chunk < 1:
        raise BadInput(f"n_steps {n_steps}, learning_rate {learning_rate} and chunk {chunk} are not all above 0.")
    aim, images, areas = Aim.of(target), checked_images(inputs), tuple(areas)
    with borrow(model, images, [layer] if layer else []) as network:
        images = images.detach().clone()
        layer = geometry(network, images).usual() if layer is None else layer
        rest = Rest(cut(network, images, layer), unit_maps(network, images, layer), aim, score)
        select(rest.suffix.output, aim, score)
        found = search(rest, areas, n_steps, learning_rate, chunk)
        extras = {
            "masks": found.masks.unflatten(0, (-1, len(areas))),
            "reward": found.reward.unflatten(0, (-1, len(areas))),
            **slopes(rest),
            "ablation": ablation(rest, chunk),
        }
    assert aim.clean is not None
    settings = {"layer": layer, "areas": areas, "n_steps": n_steps, "learning_rate": learning_rate}
    settings |= {"score": score, "chunk": chunk}
    return UnitAttribution(
        values=extras["masks"].mean(1),
        method="channel_extremal_perturbation",
        target=tuple(aim.indices.tolist()) if aim.indices is not None else (),
        score=aim.clean.float(),
        layer=layer,
        settings={name: setting(value) for name, value in settings.items()},
        extras=extras,
    )


class Rest(NamedTuple):
    """What follows a layer, how its units lie, and what is asked."""

    suffix: Suffix
    units: LayerGeometry
    aim: Aim
    score: Reading


def search(rest: Rest, areas: tuple[float | int, ...], n_steps: int, learning_rate: float, chunk: int) -> Climb:
    """Masks for every image and area, in this order."""
    image = numbers(rest).repeat_interleave(len(areas))
    k = rest.units.units
    counts = area_counts(areas, k).to(image.device).repeat(len(rest.suffix.inputs))
    start = torch.ones(len(image), k, device=image.device, dtype=precision(rest))

    def play(rows: Int[Tensor, " r"], masks: Float[Tensor, "r k"], step: int) -> PerImage:
        return kept(rest, image[rows], masks)

    def force(step: int) -> float:
        return k * LOOSE * (FIRM / LOOSE) ** (step / n_steps)

    return climb(Game(lambda cells: cells, play, counts, force), start, n_steps, learning_rate, chunk)


def kept(rest: Rest, image: Int[Tensor, " r"], masks: Float[Tensor, "r k"]) -> PerImage:
    """The score of images when each unit is multiplied by its mask."""
    part = rest.suffix.rows(image)
    maps = rest.units.maps(part.activation) * rearrange(masks, "r k -> r k 1 1").to(part.activation)
    output = part(rest.units.unmaps(maps, part.activation))
    return select(output, rest.aim.rows(image), rest.score).to(masks.dtype)


def slopes(rest: Rest) -> dict[str, Float[Tensor, "n k"]]:
    """What the gradient says of each unit, with and without its activation."""
    activation = rest.suffix.activation.clone().requires_grad_()
    y = select(rest.suffix(activation), rest.aim.rows(numbers(rest)), rest.score)
    slope, maps = (rest.units.maps(values) for values in (gradient(y, activation), rest.suffix.activation))
    return {
        "gradient_x_activation": reduce(slope * maps, "n k i j -> n k", "sum"),
        "gradient": reduce(slope.abs(), "n k i j -> n k", "sum"),
    }


@torch.no_grad()
def ablation(rest: Rest, chunk: int) -> Float[Tensor, "n k"]:
    """How far the score falls when one unit becomes 0, exactly."""
    n, k = len(rest.suffix.inputs), rest.units.units
    clean = select(rest.suffix.output, rest.aim.rows(numbers(rest)), rest.score)

    def drop(rows: Int[Tensor, " r"]) -> PerImage:
        others = torch.arange(k, device=rows.device) != rows[:, None] % k
        return clean[rows // k] - kept(rest, rows // k, others.to(precision(rest)))

    return torch.cat([part for _, part in in_chunks(drop, n * k, chunk, clean.device)]).view(n, k)


def numbers(rest: Rest) -> Int[Tensor, " n"]:
    return torch.arange(len(rest.suffix.inputs), device=rest.suffix.inputs.device)


def precision(rest: Rest) -> torch.dtype:
    return torch.promote_types(rest.suffix.activation.dtype, torch.float32)
