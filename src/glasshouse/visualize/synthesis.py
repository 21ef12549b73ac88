"""Feature visualization: pictures drawn by optimisation until a part of the network answers most strongly."""

import time
from collections.abc import Callable, Sequence
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
from glasshouse.core.lift import checked_images, module_of, provenance, setting
from glasshouse.core.target import logits
from glasshouse.visualize.ascent import ascend
from glasshouse.visualize.images import Canvas, Shape
from glasshouse.visualize.objectives import Objective, Sight
from glasshouse.visualize.picture import Picture
from glasshouse.visualize.presets import Preset, preset_of
from glasshouse.visualize.transforms import Transform, move

REFERENCE_BATCH = 16

Look: TypeAlias = Callable[[Images, Images], Sight]
"""From pictures, and from the inputs that the network is shown of them, to what objectives read."""


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
    preset: str | Preset = "distill",
    image: Canvas | None = None,
    transforms: Sequence[Transform] | None = None,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    n_images: int | None = None,
    steps: int = 512,
    learning_rate: float | int | None = None,
    seed: int = 0,
    preprocess: Preprocess | None = None,
    reference: Images | None = None,
    progress: Progress | None = None,
) -> Picture:
    """Pictures that the objective answers most strongly, found by gradient ascent from noise.

        θ* = argmax_θ  E_t f(normalise(t(g(θ)))),   pixels = g(θ*)

    with f the objective, g the image parameterization and t random transforms, by default with Adam (β 0.9 and
    0.999). Olah, Mordvintsev and Schubert, "Feature visualization", Distill 2017. Where no gradient passes a ReLU
    in the first 16 steps, gradients that would wake it are let through, as in Lucid.

    Differs: the network sees pictures of `size`, also after transforms that pad or crop.

    Args:
        preset: one of `PRESETS`, or your own; `image`, `transforms` and `learning_rate`, where given, replace its
            parts.
        size: pixels, of a side or (height, width); None takes the input size of the preprocessing.
        channels: of the picture; None takes the preprocessing's, or 3.
        n_images: how many pictures, for an objective that names one unit; with several it is their number.
        seed: picture r is drawn with seed + r, alone or in a batch.
        preprocess: turns pixels (0…1) into inputs; None takes the model's own, or leaves pixels as they are.
        reference: inputs, say of photographs, whose best activation, and that of their best patch, are put beside
            those of the picture.
    """
    start = time.perf_counter()
    known = model if isinstance(model, Model) else Model.of(module_of(model))
    base = preset_of(preset)
    canvas, transforms = image or base.image, tuple(base.transforms if transforms is None else transforms)
    rate = base.learning_rate if learning_rate is None else learning_rate
    preprocess = preprocess or known.preprocessing
    shape, labels = shape_of(preprocess, size, channels), labels_of(objective, n_images)
    if steps < 1 or not rate > 0:
        raise BadInput(f"steps={steps} and learning_rate={rate} draw nothing.", "Both must be above 0.")
    generators = [generator(seed + row) for row in range(len(labels))]

    with torch.inference_mode(False), torch.no_grad():
        sample = normalised(torch.rand(1, *shape, generator=generator(seed)).to(place_of(known)), preprocess)
    with borrow(known, sample, objective.layers) as network:
        look = looker(network, known, objective)

        def climb(theta: Tensor) -> PerImage:
            pixels = canvas.pixels(theta, shape)
            return objective(look(pixels, normalised(move(pixels, transforms, generators), preprocess).to(sample)))

        theta = canvas.start(shape, generators).to(sample.device, torch.promote_types(sample.dtype, torch.float32))
        if base.in_pixels and tuple(theta.shape[1:]) != shape:
            raise BadInput(
                f"this preset filters pixels, and {canvas} is not written in them.",
                "Use image=clipped_image() or pixel_image(), or a preset without filters.",
            )
        theta, history, drawn = ascend(
            climb,
            theta,
            steps,
            rate,
            progress,
            optimiser=base.optimiser,
            gradients=base.gradients,
            filters=base.filters,
        )
        with torch.no_grad():
            pixels = canvas.pixels(theta, shape)
            wanted, sight = objective.activation, look(pixels, normalised(pixels, preprocess).to(sample))
            activation, peak = wanted(sight), wanted.at_best(sight)
            best, patch = (
                (None, None) if reference is None else best_of(reference.to(sample), wanted, look, len(labels))
            )

    settings: dict[str, Any] = {
        "preset": preset if isinstance(preset, str) else "own",
        "image": repr(canvas),
        "transforms": setting(transforms),
        "gradients": setting(base.gradients),
        "filters": setting(base.filters),
        "optimiser": setting(base.optimiser),
        "size": shape[1:],
        "channels": shape[0],
        "steps": steps,
        "learning_rate": rate,
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
        peak=peak,
        patch=patch,
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


def best_of(
    reference: Images, objective: Objective, look: Look, k: int
) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"] | None]:
    """The highest value that any reference input reaches for each of k pictures, and at any single position."""
    whole: list[Tensor] = []
    places: list[Tensor] = []
    for batch in checked_images(reference).split(REFERENCE_BATCH):
        sight = look(batch, batch)
        for row in range(len(batch)):
            one = slice(row, row + 1)
            maps = {layer: values[one].expand(k, -1, -1, -1) for layer, values in sight.maps.items()}
            scores = None if sight.logits is None else sight.logits[one].expand(k, -1)
            shown = Sight(batch[one].expand(k, -1, -1, -1), maps, scores, sight.index)
            whole.append(objective(shown))
            if (peak := objective.at_best(shown)) is not None:
                places.append(peak)
    return torch.stack(whole).amax(0), torch.stack(places).amax(0) if places else None


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
