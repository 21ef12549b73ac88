"""Inversion: images that a layer cannot tell from a given one, found by optimisation."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.core import (
    BadInput,
    Cost,
    Images,
    Model,
    PerImage,
    Preprocess,
    Progress,
    Units,
    borrow,
    generator,
    geometry,
    probe,
    registered,
    unit_maps,
)
from glasshouse.core.activations import Edit
from glasshouse.core.lift import checked_images, module_of, provenance, setting
from glasshouse.visualize.ascent import ascend
from glasshouse.visualize.images import noise
from glasshouse.visualize.inverted import Inversion
from glasshouse.visualize.synthesis import REFERENCE_BATCH, normalised

ALPHA = 6
BOUND = 80 / 255  # how far pixels usually are from the mean
STEEPNESS = 6.5  # how many times less neighbouring pixels differ
GREY = 0.5
START = 0.1
STAGES = 4

Read: TypeAlias = Callable[[Images], Units]


@registered(
    "visualize",
    cost=lambda settings, shape: passes(settings),
    paper="Mahendran and Vedaldi, CVPR 2015",
    warning="the prior fills in what the layer has lost: smoothness there is not the network's.",
    example={"steps": 4},
)
def invert(
    model: Model | nn.Module,
    inputs: Images,
    *,
    layer: str | Sequence[str] | None = None,
    change: Edit | None = None,
    weight: float | int | Sequence[float | int] = 300,
    steps: int = 400,
    learning_rate: float = 0.05,
    seed: int = 0,
    preprocess: Preprocess | None = None,
    reference: Float[Tensor, "r c h w"] | None = None,
    progress: Progress | None = None,
) -> Inversion:
    """Natural-looking images whose features at `layer` are those of `inputs`: what the layer has kept of them.

        x* = argmin_x  C |Φ(x) - Φ0|² / |Φ0|² + Σ (x - μ)^6 / (h w B^6) + Σ |∇x|² / (h w V²)

    with μ the preprocessing's mean, B = 80 / 255 and V = B / 6.5 for pixels in 0…1, and ∇ the differences to the next
    row and column. Mahendran and Vedaldi, "Understanding deep image representations by inverting them", CVPR 2015,
    eqs. 1-4, with the weights of "Visualizing deep convolutional neural networks using natural pre-images", IJCV 2016.

    Differs: Adam instead of gradient descent with momentum, since its step does not depend on the layer's scale; the
    step size is halved after each quarter of the steps. The result is clipped to 0…1.

    Args:
        inputs: what the network is fed, each image inverted for itself.
        layer: one or several, each inverted for itself; None takes the last one with positions. Tokens before the
            grid (a class token) are no part of Φ.
        change: rewrites the features `n k i j` before they are inverted: `core.ablate([3])`, `only([3])`,
            `core.replace(class_means(…))`.
        weight: C, one for all layers or one for each. The larger, the closer the features and the noisier the image;
            the paper goes from 300 for early layers down to 1 for the last.
        seed: image r starts from noise of seed + r, alone or in a batch, in every layer.
        preprocess: what turned pixels (0…1) into `inputs`; None takes the model's own, or takes inputs for pixels.
        reference: inputs that tell how far features of images are apart; None takes `inputs`.
    """
    start = time.perf_counter()
    known = model if isinstance(model, Model) else Model.of(module_of(model))
    preprocess = preprocess or known.preprocessing
    if steps < 1 or not learning_rate > 0:
        raise BadInput(f"steps={steps} and learning_rate={learning_rate} find nothing.", "Both must be above 0.")
    with torch.inference_mode(False), torch.no_grad():
        images = checked_images(inputs).detach().clone()
        originals = pixels_of(images, preprocess)
        others = None if reference is None else checked_images(reference).to(images).split(REFERENCE_BATCH)
    layers = layers_of(known, images, layer)
    weights = weights_of(weight, layers)
    rows: list[tuple[Tensor, ...]] = []
    for number, name in enumerate(layers):
        told = None if progress is None else after(number * steps, len(layers) * steps, progress)
        with borrow(known, images, [name]) as network:
            read = reader(network, images, name)
            with torch.no_grad():
                features = read(images)
                target = changed(features, change, name)
                spread = pair_distance(features if others is None else torch.cat([read(part) for part in others]))
            descent = Descent(read, target, preprocess, images, weights[number])
            rows.append((*descent.run(steps, learning_rate, seed, told), spread))
    pixels, distance, norm, history, spread = (torch.stack(parts) for parts in zip(*rows, strict=True))
    settings: dict[str, Any] = {
        "change": setting(change),
        "weight": weights,
        "steps": steps,
        "learning_rate": learning_rate,
        "seed": seed,
        "preprocess": None if preprocess is None else repr(preprocess),
    }
    source = provenance(images, time.perf_counter() - start)
    return Inversion(layers, pixels, originals, distance, norm, spread, history, settings, source)


@dataclass(frozen=True)
class Descent:
    """The search for images with the features `target`. Its free numbers are (pixels - mean) / B."""

    read: Read
    target: Units
    preprocess: Preprocess | None
    images: Images
    weight: float

    @property
    def norm(self) -> PerImage:
        return self.target.flatten(1).norm(dim=1)

    def pixels(self, theta: Images) -> Images:
        zero = torch.zeros_like(self.images[:1, :, :1, :1], dtype=theta.dtype)
        mean = zero + GREY if self.preprocess is None else self.preprocess.pixels(zero)
        return mean + BOUND * theta

    def distance(self, pixels: Images) -> PerImage:
        """How far the features of these pixels are from those asked for."""
        features = self.read(normalised(pixels, self.preprocess).to(self.images))
        return (features - self.target).square().flatten(1).sum(1).sqrt()

    def objective(self, theta: Images) -> PerImage:
        features = self.read(normalised(self.pixels(theta), self.preprocess).to(self.images))
        missed = (features - self.target).square().flatten(1).sum(1) / self.norm.square()
        return self.weight * missed + prior(theta)

    def run(self, steps: int, rate: float, seed: int, progress: Progress | None) -> tuple[Tensor, ...]:
        """Pixels, the distance of their features, the norm of those asked for, and the objective at each step."""
        generators = [generator(seed + row) for row in range(len(self.images))]
        precision = torch.promote_types(self.images.dtype, torch.float32)
        theta = START * noise(tuple(self.images.shape[1:]), generators).to(self.images.device, precision)
        history: list[Tensor] = []
        for stage, part in enumerate(torch.arange(steps).tensor_split(min(STAGES, steps))):
            told = None if progress is None else after(int(part[0]), steps, progress)
            theta, climbed, _ = ascend(lambda x: -self.objective(x), theta, len(part), rate / 2**stage, told)
            history.append(-climbed)
        with torch.no_grad():
            pixels = self.pixels(theta).clamp(0, 1)
            return pixels, self.distance(pixels), self.norm, torch.cat(history, 1)


def prior(theta: Images) -> PerImage:
    """What an image pays for strong colours and for roughness, each about 1 for a photograph.

    Σ θ^6 / (h w) + 6.5² Σ (θ_i,j+1 - θ_ij)² + (θ_i+1,j - θ_ij)² / (h w),   θ = (pixels - mean) / B
    """
    size = theta.shape[2] * theta.shape[3]
    strong = theta.pow(ALPHA).flatten(1).sum(1)
    rough = theta.diff(dim=2).square().flatten(1).sum(1) + theta.diff(dim=3).square().flatten(1).sum(1)
    return (strong + STEEPNESS**2 * rough) / size


def only(units: Sequence[int]) -> Edit:
    """Keep these units of a layer and switch all others off: what do they alone say of the image?"""

    def kept(maps: Units) -> Units:
        if not units or min(units) < 0 or max(units) >= maps.shape[1]:
            raise BadInput(f"units {list(units)} are not in this layer.", f"It has 0…{maps.shape[1] - 1}.")
        mask = torch.zeros(maps.shape[1], dtype=torch.bool, device=maps.device)
        mask[list(units)] = True
        return torch.where(mask[:, None, None], maps, 0)

    return kept


def permuted(seed: int = 0) -> Edit:
    """Shuffle the units of a layer, in the same way at all positions: how much lies in *which* unit is active?"""

    def shuffled(maps: Units) -> Units:
        return maps[:, torch.randperm(maps.shape[1], generator=generator(seed)).to(maps.device)]

    return shuffled


def class_means(maps: Units, targets: Int[Tensor, " n"]) -> Float[Tensor, "m k i j"]:
    """The mean features of each class among `targets`, in the order of their numbers."""
    return torch.stack([maps[targets == label].mean(0) for label in targets.unique()])


def reader(network: nn.Module, images: Images, layer: str) -> Read:
    """From inputs to the features `n k i j` of a layer, at least float32; runs the network no further."""
    place = unit_maps(network, images, layer)

    def read(inputs: Images) -> Units:
        with probe(network, layer, stop=True) as seen:
            network(inputs)
        maps = place.maps(seen[layer])
        return maps.float() if maps.dtype.itemsize < 4 else maps

    return read


def pixels_of(images: Images, preprocess: Preprocess | None) -> Images:
    """The pixels (0…1) that inputs stand for; without preprocessing they must be pixels themselves."""
    if preprocess is not None:
        return preprocess.pixels(images)
    low, high = images.min().item(), images.max().item()
    if low < 0 or high > 1:
        raise BadInput(
            f"inputs reach from {low:.3g} to {high:.3g}, so they are not pixels, and their preprocessing is unknown.",
            "Pass preprocess=Preprocess(size=(h, w), mean=(…), std=(…)), or a model from zoo.load.",
        )
    return images


def layers_of(model: Model, images: Images, layer: str | Sequence[str] | None) -> tuple[str, ...]:
    """The layers by name; None is the usual one."""
    if layer is None:
        with borrow(model, images) as network:
            return (geometry(network, images).usual(),)
    layers = (layer,) if isinstance(layer, str) else tuple(layer)
    if not layers:
        raise BadInput("no layer was named.", "Give one, several, or None for the last one with positions.")
    return layers


def weights_of(weight: float | int | Sequence[float | int], layers: tuple[str, ...]) -> tuple[float, ...]:
    """One weight for each layer, checked."""
    weights = tuple(map(float, (weight,) * len(layers) if isinstance(weight, int | float) else weight))
    if len(weights) != len(layers) or not min(weights) > 0:
        raise BadInput(f"weight={weight} for {len(layers)} layers.", "Give one number above 0, or one for each layer.")
    return weights


def changed(maps: Units, change: Edit | None, layer: str) -> Units:
    """Features as they are asked for, checked."""
    target = maps if change is None else change(maps)
    if target.shape != maps.shape:
        raise BadInput(f"change gave {tuple(target.shape)} for features {tuple(maps.shape)} of layer '{layer}'.")
    if not (target.flatten(1) != 0).any(1).all():
        raise BadInput(
            f"all features asked for at layer '{layer}' are 0, so distances have no measure.",
            "Choose units that are active in these images, or another layer.",
        )
    return target


def pair_distance(features: Float[Tensor, "n ..."]) -> Float[Tensor, ""]:
    """Mean Euclidean distance over all pairs; NaN for a single one."""
    return F.pdist(features.flatten(1)).mean()


def passes(settings: Mapping[str, Any]) -> Cost:
    """Passes to the layer and back, for each layer."""
    layers = settings["layer"]
    count = 1 if layers is None or isinstance(layers, str) else len(layers)
    return Cost(count * (settings["steps"] + 2), count * settings["steps"])


def after(done: int, total: int, progress: Progress) -> Progress:
    """Progress of a part that begins after `done` steps of `total`."""
    return lambda step, _: progress(done + step, total)
