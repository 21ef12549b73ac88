"""Feature visualization: pictures drawn by optimisation until a part of the network answers most strongly."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glasshouse.core import (
    BadInput,
    Cost,
    Images,
    LayerGeometry,
    Model,
    PerImage,
    Preprocess,
    Progress,
    borrow,
    generator,
    probe,
    registered,
    unit_maps,
)
from glasshouse.core.errors import not_found
from glasshouse.core.lift import checked_images, module_of, provenance, setting
from glasshouse.core.target import logits
from glasshouse.visualize.ascent import ascend
from glasshouse.visualize.images import Canvas, Shape, fourier_image, pixel_image
from glasshouse.visualize.objectives import Objective, Sight
from glasshouse.visualize.picture import Picture
from glasshouse.visualize.transforms import Transform, move, none, robust

REFERENCE_BATCH = 16

Look: TypeAlias = Callable[[Images, Images], Sight]
"""From pictures, and from the inputs that the network is shown of them, to what objectives read."""


@dataclass(frozen=True)
class Preset:
    """A family of regularisers: how the picture is written, and how it is moved."""

    image: Canvas
    transforms: tuple[Transform, ...]


PRESETS: dict[str, Preset] = {
    "unregularised": Preset(pixel_image(), none()),
    "transforms": Preset(pixel_image(), robust()),
    "fourier": Preset(fourier_image(), none()),
    "distill": Preset(fourier_image(), robust()),
}
"""Regulariser families by name, after the table of "Feature visualization" (Olah et al., Distill 2017)."""


@registered(
    "visualize",
    cost=lambda settings, shape: Cost(settings["steps"] + 1, settings["steps"]),
    paper="Olah et al., Distill 2017",
    example={"steps": 4},
)
def render(
    model: Model | nn.Module,
    objective: Objective,
    *,
    preset: str = "distill",
    image: Canvas | None = None,
    transforms: Sequence[Transform] | None = None,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    n_images: int | None = None,
    steps: int = 512,
    learning_rate: float = 0.05,
    seed: int = 0,
    preprocess: Preprocess | None = None,
    reference: Images | None = None,
    progress: Progress | None = None,
) -> Picture:
    """Pictures that the objective answers most strongly, found by gradient ascent from noise.

        θ* = argmax_θ  E_t f(normalise(t(g(θ)))),   pixels = g(θ*)

    with f the objective, g the image parameterization and t random transforms, by Adam (β 0.9 and 0.999).
    Olah, Mordvintsev and Schubert, "Feature visualization", Distill 2017. Where no gradient passes a ReLU in
    the first 16 steps, gradients that would wake it are let through, as in Lucid.

    Differs: the network sees pictures of `size`, also after transforms that pad or crop.

    Args:
        preset: one of `PRESETS`; `image` and `transforms`, where given, replace its parts.
        size: pixels, of a side or (height, width); None takes the input size of the preprocessing.
        channels: of the picture; None takes the preprocessing's, or 3.
        n_images: how many pictures, for an objective that names one unit; with several it is their number.
        seed: picture r is drawn with seed + r, alone or in a batch.
        preprocess: turns pixels (0…1) into inputs; None takes the model's own, or leaves pixels as they are.
        reference: inputs, say of photographs, whose best activation is put beside that of the picture.
    """
    start = time.perf_counter()
    known = model if isinstance(model, Model) else Model.of(module_of(model))
    base = preset_of(preset)
    canvas, transforms = image or base.image, tuple(base.transforms if transforms is None else transforms)
    preprocess = preprocess or known.preprocessing
    shape, labels = shape_of(preprocess, size, channels), labels_of(objective, n_images)
    if steps < 1 or not learning_rate > 0:
        raise BadInput(f"steps={steps} and learning_rate={learning_rate} draw nothing.", "Both must be above 0.")
    generators = [generator(seed + row) for row in range(len(labels))]

    with torch.inference_mode(False), torch.no_grad():
        sample = normalised(torch.rand(1, *shape, generator=generator(seed)).to(place_of(known)), preprocess)
    with borrow(known, sample, objective.layers) as network:
        look = looker(network, known, objective)

        def climb(theta: Tensor) -> PerImage:
            pixels = canvas.pixels(theta, shape)
            return objective(look(pixels, normalised(move(pixels, transforms, generators), preprocess).to(sample)))

        theta = canvas.start(shape, generators).to(sample.device, torch.promote_types(sample.dtype, torch.float32))
        theta, history, drawn = ascend(climb, theta, steps, learning_rate, progress)
        with torch.no_grad():
            pixels = canvas.pixels(theta, shape)
            activation = objective.activation(look(pixels, normalised(pixels, preprocess).to(sample)))
            best = None if reference is None else best_of(reference.to(sample), objective, look, len(labels))

    settings: dict[str, Any] = {
        "preset": preset,
        "image": repr(canvas),
        "transforms": setting(transforms),
        "size": shape[1:],
        "channels": shape[0],
        "steps": steps,
        "learning_rate": learning_rate,
        "seed": seed,
        "preprocess": None if preprocess is None else repr(preprocess),
    }
    return Picture(
        pixels=pixels,
        history=history,
        activation=activation,
        labels=labels,
        objective=repr(objective),
        drawn=drawn,
        settings=settings,
        reference=best,
        provenance=provenance(pixels, time.perf_counter() - start),
    )


def looker(network: nn.Module, model: Model, objective: Objective) -> Look:
    """Shows inputs to the network, no further than the objective asks."""
    layers = objective.layers
    known: dict[tuple[int, ...], dict[str, LayerGeometry]] = {}

    def look(pixels: Images, inputs: Images) -> Sight:
        if not layers and not objective.needs_logits:
            return Sight(pixels, {}, None, model.index)
        size = tuple(inputs.shape[1:])
        if size not in known:
            known[size] = {layer: unit_maps(network, inputs, layer) for layer in layers}
        output = None
        with probe(network, *layers, stop=not objective.needs_logits) as seen:
            output = network(inputs)
        maps = {layer: known[size][layer].maps(seen[layer]) for layer in layers}
        return Sight(pixels, maps, logits(output) if objective.needs_logits else None, model.index)

    return look


def best_of(reference: Images, objective: Objective, look: Look, k: int) -> Float[Tensor, " k"]:
    """The highest activation that any reference input reaches, for each of k pictures."""
    best = torch.full((k,), -torch.inf, dtype=reference.dtype, device=reference.device)
    for batch in checked_images(reference).split(REFERENCE_BATCH):
        sight = look(batch, batch)
        for row in range(len(batch)):
            one = slice(row, row + 1)
            maps = {layer: values[one].expand(k, -1, -1, -1) for layer, values in sight.maps.items()}
            scores = None if sight.logits is None else sight.logits[one].expand(k, -1)
            pixels = batch[one].expand(k, -1, -1, -1)
            best = best.maximum(objective.activation(Sight(pixels, maps, scores, sight.index)).to(best))
    return best


def preset_of(name: str) -> Preset:
    if name not in PRESETS:
        raise not_found("preset", name, PRESETS)
    return PRESETS[name]


def normalised(pixels: Images, preprocess: Preprocess | None) -> Images:
    """Inputs from pixels; without preprocessing, pixels are inputs."""
    return pixels if preprocess is None else preprocess.normalise(pixels)


def place_of(model: Model) -> Tensor:
    """An empty tensor of the model's number type, on its device."""
    weights = (weight for weight in model.module.parameters() if weight.is_floating_point())
    return next(weights, torch.empty(0)).new_empty(0)


def shape_of(preprocess: Preprocess | None, size: int | tuple[int, int] | None, channels: int | None) -> Shape:
    """Channels, height and width of a picture."""
    if size is None and preprocess is None:
        raise BadInput(
            "the size of the picture is unknown: this model has no preprocessing.",
            "Pass size=224, or whatever size the network takes.",
        )
    if size is None:
        assert preprocess is not None
        size = preprocess.size
    height, width = (size, size) if isinstance(size, int) else size
    channels = channels or (3 if preprocess is None else len(preprocess.mean))
    if min(height, width, channels) < 1:
        raise BadInput(f"a picture of {channels} channels and {height} x {width} px is empty.")
    return channels, height, width


def labels_of(objective: Objective, n_images: int | None) -> tuple[str, ...]:
    """What each picture is drawn for; their number is the number of pictures."""
    labels = objective.labels
    if n_images is None or n_images == len(labels):
        return labels
    if len(labels) > 1 or n_images < 1:
        raise BadInput(
            f"n_images={n_images} for an objective of {len(labels)} pictures.",
            "Name a unit several times for several pictures of it, or leave n_images out.",
        )
    return labels * n_images
