"""Pictures that answer as a given one does, only more so: caricatures from noise, accents on the photograph itself."""

import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from glasshouse.core import (
    BadInput,
    Images,
    Model,
    PerImage,
    Preprocess,
    Progress,
    borrow,
    generator,
    registered,
)
from glasshouse.core.lift import checked_images, module_of, provenance, setting
from glasshouse.visualize.ascent import ascend
from glasshouse.visualize.composition import change, likeness
from glasshouse.visualize.images import Canvas, Colours, Shape, amplitudes, fourier_image, mix
from glasshouse.visualize.objectives import Objective, Sight, layer_energy
from glasshouse.visualize.picture import Picture
from glasshouse.visualize.synthesis import looker, normalised, render
from glasshouse.visualize.transforms import Transform, move, robust

DARKEST = 1 / 510  # half a grey level: what is darker, or as near to white, starts from there


@registered(
    "visualize",
    paper="Olah, 2018",
    warning="what is missing in a caricature was weak in the layer, not necessarily absent.",
    example={"steps": 4},
)
def caricature(
    model: Model | nn.Module,
    inputs: Images,
    *,
    layer: str,
    cosine_power: float | int = 1,
    image: Canvas | None = None,
    transforms: Sequence[Transform] | None = None,
    steps: int = 512,
    learning_rate: float = 0.05,
    seed: int = 0,
    preprocess: Preprocess | None = None,
    progress: Progress | None = None,
) -> Picture:
    """What a layer makes of a photograph, exaggerated: a picture from noise whose activation reaches far along its own.

        θ* = argmax_θ  E_t <A(t(g(θ))), A(t(x))> / (i j) · max(0.1, cos)^p

    with g the image parameterization and A the layer's activation. The photograph goes through the same random
    transforms t, so that positions stay comparable. Introduced by Olah in Lucid's notebook "Feature inversion
    caricatures", 2018. `reference` of the result is what the photograph reaches itself, |A(x)|² / (i j).

    Args:
        inputs: one picture is drawn for each, of its size.
        cosine_power: p; 0 lets strong units take over.
        image: None is `fourier_image()`.
        transforms: None is `robust()`.
        seed: picture r is drawn with seed + r.
    """
    start = time.perf_counter()
    if steps < 1 or not learning_rate > 0:
        raise BadInput(f"steps={steps} and learning_rate={learning_rate} draw nothing.", "Both must be above 0.")
    known = model if isinstance(model, Model) else Model.of(module_of(model))
    images, preprocess = checked_images(inputs).detach(), preprocess or known.preprocessing
    photo = images if preprocess is None else preprocess.pixels(images)
    canvas, shape, transforms = (
        image or fourier_image(),
        shape_of(photo),
        robust() if transforms is None else transforms,
    )
    generators = [generator(seed + row) for row in range(len(photo))]
    with borrow(known, images, [layer]) as network:
        look = looker(network, known, layer_energy(layer))  # which reads the layer and nothing else

        def alike(pixels: Images, other: Images) -> PerImage:
            with torch.no_grad():
                there = look(other, normalised(other, preprocess).to(images))
            goal = likeness(layer, there.maps[layer], cosine_power=cosine_power)
            return goal(look(pixels, normalised(pixels, preprocess).to(images)))

        def climb(theta: Tensor) -> PerImage:
            pixels = canvas.pixels(theta, shape)
            both = move(torch.cat([pixels, photo.to(pixels)], 1), transforms, generators)
            return alike(*both.chunk(2, 1))

        theta = canvas.start(shape, generators).to(photo.device, torch.promote_types(photo.dtype, torch.float32))
        theta, history, drawn = ascend(climb, theta, steps, learning_rate, progress)
        with torch.no_grad():
            pixels = canvas.pixels(theta, shape)
            activation, reference = alike(pixels, photo), alike(photo, photo)
    return Picture(
        pixels=pixels,
        history=history,
        activation=activation,
        labels=(f"{layer} caricature",) * len(photo),
        objective=repr(likeness(layer, photo, cosine_power=cosine_power)),
        drawn=drawn,
        settings={
            "layer": layer,
            "cosine_power": cosine_power,
            "image": repr(canvas),
            "transforms": setting(tuple(transforms)),
            "steps": steps,
            "learning_rate": learning_rate,
            "seed": seed,
            "preprocess": None if preprocess is None else repr(preprocess),
        },
        reference=reference,
        provenance=provenance(images, time.perf_counter() - start),
    )


@registered(
    "visualize",
    paper="Hamblin et al., 2024",
    warning="with too small a penalty it is a feature visualization that began at a photograph.",
    example={"steps": 4},
)
def accentuate(
    model: Model | nn.Module,
    inputs: Images,
    objective: Objective,
    *,
    penalty: float | int = 1000,
    decay: float | int = 1.5,
    transforms: Sequence[Transform] | None = None,
    steps: int = 100,
    learning_rate: float = 0.01,
    seed: int = 0,
    preprocess: Preprocess | None = None,
    progress: Progress | None = None,
) -> Picture:
    """What in a photograph an objective answers to, made more of: ascent that starts at the photograph and stays near.

        θ* = argmax_θ  E_t f(t(g(θ))) - penalty mean (g(θ) - x)²

    with g the photograph changed by a spectrum (`photo_image`). Hamblin, Fel, Saha, Konkle and Alvarez, "Feature
    accentuation", 2024. `reference` of the result is what each picture's photograph reaches.

    Differs: the penalty is on pixels in 0…1; the paper's, on an earlier layer, is
    `objective - λ activation_difference(layer, maps, power=2)` with `penalty=0`.

    Args:
        inputs: photographs, one per picture; with one for several units, a picture starts there for each.
        penalty: at 1000, a mean change of a pixel by 3 % of its range costs as much as an activation of 1 gains.
        decay: power of the frequency that changes fall with.
    """
    known = model if isinstance(model, Model) else Model.of(module_of(model))
    images, preprocess = checked_images(inputs).detach(), preprocess or known.preprocessing
    photo = images if preprocess is None else preprocess.pixels(images)
    picture = render(
        known,
        objective - penalty * change(photo) if penalty else objective,
        image=photo_image(photo, decay=decay),
        transforms=transforms,
        size=shape_of(photo)[1:],
        channels=photo.shape[1],
        n_images=max(len(photo), len(objective.labels)),
        steps=steps,
        learning_rate=learning_rate,
        seed=seed,
        preprocess=preprocess,
        progress=progress,
    )
    with borrow(known, images, objective.layers) as network, torch.no_grad():
        looks = looker(network, known, objective)(photo, images)
        reference = objective.activation(spread(looks, len(picture)))
    return replace(picture, reference=reference)


def spread(sight: Sight, n: int) -> Sight:
    """What is seen of one image, for n pictures; of several images, as it is."""
    maps = {layer: values.expand(n, -1, -1, -1) for layer, values in sight.maps.items()}
    logits = None if sight.logits is None else sight.logits.expand(n, -1)
    return Sight(sight.pixels.expand(n, -1, -1, -1), maps, logits, sight.index)


def photo_image(pixels: Images, *, decay: float | int = 1.5, colours: Colours = "natural") -> Canvas:
    """Photographs in 0…1, changed by a spectrum: free numbers of 0, the start, are the photograph.

        pixels = sigmoid(logit(x) + M irfft2(θ / max(f, 1 / max(h, w))^decay) / 4)

    Steps of equal size in θ then change coarse structure more than fine, as gradients scaled by 1 / f^decay would.

    Args:
        pixels: one per picture, or one for all; values within half a grey level of 0 or 1 start half a level inside.
    """
    start_at = pixels.detach().clamp(DARKEST, 1 - DARKEST).logit()

    def start(shape: Shape, generators: Sequence[torch.Generator]) -> Tensor:
        if shape != shape_of(pixels) or len(pixels) not in (1, len(generators)):
            seen = f"{len(generators)} pictures of {' x '.join(map(str, shape))}"
            raise BadInput(f"photographs of shape {tuple(pixels.shape)} to begin {seen} with.", "Give one for each.")
        channels, height, width = shape
        return torch.zeros(len(generators), channels, height, width // 2 + 1, 2)

    def drawn(theta: Tensor, shape: Shape) -> Images:
        spectrum = torch.view_as_complex(theta) * amplitudes(shape[1:], float(decay)).to(theta)
        return (start_at.to(theta) + mix(torch.fft.irfft2(spectrum, s=shape[1:], norm="ortho") / 4, colours)).sigmoid()

    return Canvas(f"photo_image({tuple(pixels.shape)}, decay={decay})", start, drawn)


def shape_of(photo: Images) -> Shape:
    return photo.shape[1], photo.shape[2], photo.shape[3]
