"""DeepDream: a photograph, changed step by step towards what a network sees in it, at several sizes."""

import time
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glasshouse.core import (
    BadInput,
    Images,
    Model,
    PerImage,
    Preprocess,
    Progress,
    Units,
    borrow,
    generator,
    probe,
    registered,
    resize,
    unit_maps,
)
from glasshouse.core.lift import checked_images, module_of, provenance, setting
from glasshouse.visualize.composition import best_match
from glasshouse.visualize.objectives import Objective, Sight, layer_energy
from glasshouse.visualize.picture import Picture
from glasshouse.visualize.regularisers import collapsed, laplacian_pyramid, root_mean_square
from glasshouse.visualize.synthesis import labels_of, looker, normalised


@registered(
    "visualize",
    paper="Mordvintsev et al., 2015",
    warning="a dream adds what the network knows; what it shows need not be in the photograph.",
    example={"octaves": 2, "steps": 2},
)
def dream(
    model: Model | nn.Module,
    inputs: Images,
    *,
    layer: str | None = None,
    objective: Objective | None = None,
    guide: Float[Tensor, "m c y x"] | None = None,
    octaves: int = 4,
    octave_scale: float | int = 1.4,
    steps: int = 10,
    step_size: float = 1.5 / 255,
    jitter: int = 32,
    laplacian_levels: int = 0,
    tile: int | None = None,
    seed: int = 0,
    preprocess: Preprocess | None = None,
    progress: Progress | None = None,
) -> Picture:
    """Photographs with more of what a layer finds in them: gradient ascent from small sizes to large ones.

        p ← clip(p + step_size g / mean |g|, 0, 1),   g = df / dp,   f = mean_kij A²

    on the photograph reduced to 1 / 1.4³, then 1 / 1.4², …, 1 of its size; what was changed at one size is enlarged
    and added to the photograph at the next. Mordvintsev, Olah and Tyka, "Inceptionism", 2015, and the notebook that
    came with it. `reference` of the result is what the photograph reaches by itself.

    Differs: sizes are reduced from the photograph directly, and smoothed against aliasing.

    Args:
        inputs: photographs of any size that the network takes, also larger than it was trained on.
        layer: whose energy rises, or that a guide is compared in; `objective` replaces it.
        guide: inputs; each position then grows towards the part of the guide that suits it best (`best_match`).
        step_size: mean change of a pixel in a step, for pixels in 0…1.
        jitter: the picture is shifted around its edges by up to this many pixels at each step.
        laplacian_levels: above 0, the gradient is split into this many bands of frequency and a rest, and each is
            divided by its standard deviation; 4 in the notebook.
        tile: the gradient is taken in parts of at most this many pixels a side, for pictures that do not fit into
            memory at once. An objective then is the mean over parts, so a neuron or class is looked for in each.
        seed: picture r is shifted by draws of seed + r.
    """
    start = time.perf_counter()
    if min(octaves, tile or 1) < 1 or tile == 0 or not octave_scale > 1 or min(steps, jitter, laplacian_levels) < 0:
        raise BadInput(
            f"octaves={octaves}, octave_scale={octave_scale}, steps={steps}, jitter={jitter}, "
            f"laplacian_levels={laplacian_levels}, tile={tile} make no dream.",
            "Octaves and tiles are 1 or more, octave_scale is above 1, the others are 0 or more.",
        )
    known = model if isinstance(model, Model) else Model.of(module_of(model))
    images, preprocess = checked_images(inputs).detach(), preprocess or known.preprocessing
    photo = images if preprocess is None else preprocess.pixels(images)
    bounds = photo.amin((1, 2, 3), keepdim=True).clamp(max=0), photo.amax((1, 2, 3), keepdim=True).clamp(min=1)
    generators = [generator(seed + row) for row in range(len(images))]
    reach = jitter if tile is None else max(jitter, tile // 2)
    with borrow(known, images, objective.layers if objective else [layer] if layer else []) as network:
        goal = goal_of(network, layer, objective, guide)
        labels, look = labels_of(goal, len(images)), looker(network, known, goal)

        def answer(pixels: Images) -> Sight:
            return look(pixels, normalised(pixels, preprocess))

        change, history = torch.zeros_like(photo), list[Tensor]()
        for size in sizes(photo, octaves, octave_scale):
            base = resize(photo, size)
            pixels = base + resize(change, size)
            for _ in range(steps):
                shifts = [torch.randint(-reach, reach + 1, (2,), generator=draws).tolist() for draws in generators]
                value, gradient = slope(rolled(pixels, shifts), goal, answer, tile)
                gradient = equalised(rolled(gradient, [[-y, -x] for y, x in shifts]), laplacian_levels)
                length = gradient.abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-20)
                pixels = (pixels + step_size * gradient / length).clamp(*bounds)
                history.append(value)
                if progress is not None:
                    progress(len(history), octaves * steps)
            change = pixels - base
        finished = photo + change
        with torch.no_grad():
            activation, before = (goal.activation(answer(pixels)) for pixels in (finished, photo))
    return Picture(
        pixels=finished,
        history=torch.stack(history, 1) if history else activation.new_zeros(len(images), 0),
        activation=activation,
        labels=labels,
        objective=repr(goal),
        drawn=(change != 0).flatten(1).any(1),
        settings={
            "layer": layer,
            "guide": setting(guide),
            "octaves": octaves,
            "octave_scale": octave_scale,
            "steps": steps,
            "step_size": step_size,
            "jitter": jitter,
            "laplacian_levels": laplacian_levels,
            "tile": tile,
            "seed": seed,
            "preprocess": None if preprocess is None else repr(preprocess),
        },
        reference=before,
        provenance=provenance(images, time.perf_counter() - start),
    )


def goal_of(network: nn.Module, layer: str | None, objective: Objective | None, guide: Tensor | None) -> Objective:
    """What the dream climbs."""
    if (layer is None) == (objective is None) or (objective is not None and guide is not None):
        raise BadInput(
            "a dream needs a layer, or an objective in its place; a guide is compared in a layer.",
            "Try dream(model, images, layer='layer3').",
        )
    if objective is not None:
        return objective
    assert layer is not None
    return layer_energy(layer) if guide is None else best_match(layer, maps_of(network, checked_images(guide), layer))


def maps_of(network: nn.Module, inputs: Images, layer: str) -> Units:
    """What inputs do in a layer."""
    with torch.no_grad(), probe(network, layer, stop=True) as seen:
        found = unit_maps(network, inputs, layer)
        network(inputs)
    return found.maps(seen[layer])


def sizes(photo: Images, octaves: int, scale: float | int) -> list[tuple[int, int]]:
    """Height and width at each octave, the photograph's own last."""
    height, width = photo.shape[-2:]
    shrunk = [scale**-octave for octave in reversed(range(octaves))]
    return [(max(1, round(height * share)), max(1, round(width * share))) for share in shrunk]


def slope(
    pixels: Images, goal: Objective, answer: Callable[[Images], Sight], tile: int | None
) -> tuple[PerImage, Images]:
    """Value and gradient: the mean over tiles, each weighted by its share of the picture."""
    rows, columns = spans(pixels.shape[2], tile), spans(pixels.shape[3], tile)
    total, gradient = pixels.new_zeros(len(pixels)), torch.empty_like(pixels)
    for top, bottom in rows:
        for left, right in columns:
            part = pixels[:, :, top:bottom, left:right].detach().requires_grad_()
            share = (bottom - top) * (right - left) / (pixels.shape[2] * pixels.shape[3])
            value = share * goal(answer(part))
            (gradient[:, :, top:bottom, left:right],) = torch.autograd.grad(value.sum(), part)
            total = total + value.detach()
    return total, gradient


def spans(length: int, tile: int | None) -> list[tuple[int, int]]:
    """Parts of a side, of nearly equal length and none longer than a tile."""
    parts = 1 if tile is None else -(-length // tile)
    return [(part * length // parts, (part + 1) * length // parts) for part in range(parts)]


def rolled(images: Images, shifts: Sequence[Sequence[int]]) -> Images:
    """Each image shifted by its own number of rows and columns, around the edges."""
    return torch.stack([torch.roll(image, tuple(shift), (1, 2)) for image, shift in zip(images, shifts, strict=True)])


def equalised(gradient: Images, levels: int) -> Images:
    """The gradient with bands of frequency of equal strength: those of a Laplacian pyramid, and its rest."""
    if not levels:
        return gradient
    return collapsed([band / root_mean_square(band) for band in laplacian_pyramid(gradient, levels)])
