"""Explanations of many disturbed copies of each image, made in stacked batches.

Disturbances are drawn by the number of the copy and are the same for every image, so no result depends on the other
images of a batch, nor on how many copies are explained at once.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from glasshouse.core import (
    BadInput,
    Explanation,
    GlasshouseError,
    Images,
    Model,
    PerImage,
    Score,
    generator,
    in_chunks,
)
from glasshouse.evaluate.metric import Result, score_of, undefined
from glasshouse.evaluate.sanity.predicting import read
from glasshouse.evaluate.sanity.replaying import at_once, passes, replay, rerun

Disturb: TypeAlias = Callable[[Int[Tensor, " r"], list[int]], Images]
"""From numbers of images and of copies to the disturbed copies."""


class Pairs(NamedTuple):
    """Images and disturbed copies of them, row by row, in float64.

    Args:
        maps, moved: what the method says of the image, and of the copy.
        seen, seen_there: what the model reads in both: a layer, or its scores.
        copy: which copy it is.
    """

    images: Tensor
    copies: Tensor
    maps: Tensor
    moved: Tensor
    seen: Tensor
    seen_there: Tensor
    copy: list[int]


class Around(NamedTuple):
    """What was measured on each copy of each image, which copies count, and the passes that it took."""

    value: Float[Tensor, "n s q"]
    counted: Bool[Tensor, "n s"]
    spent: tuple[int, int]


class Looking(NamedTuple):
    """How neighbours are compared.

    Args:
        measure: `r q` numbers from `r` pairs.
        of: the method's own values, or the heat map on the pixel grid.
        layer: what of the model `measure` needs, besides its scores.
        scores: whether it needs the model at all.
    """

    measure: Callable[[Pairs], Float[Tensor, "r q"]]
    of: Literal["native", "heatmap"] = "native"
    layer: str | None = None
    scores: bool = False


def around(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    disturb: Disturb,
    n_samples: int,
    looking: Looking,
    same_prediction: bool,
) -> Around | str:
    """Explain `n_samples` copies of every image and measure each against its original; or one word, why not."""
    found, n = replay(explanation), len(inputs)
    if isinstance(found, str):
        return found
    maps: Tensor = getattr(explanation, looking.of).to(inputs.device)
    ask = same_prediction or looking.scores
    scores, seen = read(model, inputs, looking.layer) if ask else (inputs.new_zeros(n, 1),) * 2
    counted = torch.ones(n, n_samples, dtype=torch.bool, device=inputs.device)
    value: Tensor | None = None

    def run(rows: Int[Tensor, " r"]) -> tuple[Tensor, Tensor] | None:
        image, number = rows % n, (rows // n).tolist()
        copies = disturb(image, number)
        there, seen_there = read(model, copies, looking.layer) if ask else (scores[image], seen[image])
        answer = rerun(found, model, copies, [explanation.target[i] for i in image.tolist()], image, n)
        moved = getattr(answer, looking.of).to(inputs.device)
        if moved.shape[1:] != maps.shape[1:]:
            return None
        x, y, before, after = (tensor.double() for tensor in (inputs[image], copies, maps[image], moved))
        pairs = Pairs(x, y, before, after, seen[image].double(), seen_there.double(), number)
        return looking.measure(pairs), there.argmax(1) == scores[image].argmax(1)

    try:
        for rows, result in in_chunks(run, n * n_samples, at_once(inputs), inputs.device):
            if result is None:
                return "edited_map"
            if value is None:
                value = result[0].new_zeros(n, n_samples, result[0].shape[1])
            value[rows % n, rows // n] = result[0]
            if same_prediction:
                counted[rows % n, rows // n] = result[1]
    except GlasshouseError:
        return "rerun_failed"
    assert value is not None
    forward, backward = passes(explanation, inputs, n_samples)
    return Around(value, counted, (forward + ask * n * (n_samples + 1), backward))


def pixel_scale(model: Model | nn.Module, inputs: Images) -> Float[Tensor, "1 c 1 1"]:
    """Units of the input per unit of a pixel (0…1): 1 / std where the preprocessing is known, else 1."""
    known = model.preprocessing if isinstance(model, Model) else None
    std = inputs.new_ones(inputs.shape[1]) if known is None else inputs.new_tensor(known.std)
    if len(std) != inputs.shape[1]:
        raise BadInput(f"images have {inputs.shape[1]} channels where the preprocessing has {len(std)}.")
    return (1 / std).view(1, -1, 1, 1)


def noise(model: Model | nn.Module, inputs: Images, radius: float, n_samples: int, seed: int) -> Disturb:
    """Noise that is uniform in a cube: each value moves by up to `radius`, in units of the un-normalised image."""
    if n_samples < 1 or not radius > 0:
        raise BadInput(f"n_samples {n_samples} and radius {radius} must be above 0.", "Try 10 and 0.02.")
    reach = radius * pixel_scale(model, inputs)

    def disturb(image: Int[Tensor, " r"], number: list[int]) -> Images:
        drawn = {s: uniform(inputs, seed, s) for s in set(number)}
        return inputs[image] + reach * torch.stack([drawn[s] for s in number])

    return disturb


def uniform(inputs: Images, seed: int, number: int) -> Float[Tensor, "c h w"]:
    """Noise of one copy, uniform in -1…1."""
    source = generator((seed * 1_000_003 + number) % 2**63)
    return (2 * torch.rand(inputs.shape[1:], generator=source, dtype=torch.float64) - 1).to(inputs)


def largest(value: Float[Tensor, "n s"], counted: Bool[Tensor, "n s"]) -> tuple[PerImage, PerImage]:
    """The largest value that counts, and how far the largest of as many bootstrapped copies strays, in closed form.

    Of m values, the j-th smallest is the largest of m draws with probability (j/m)^m - ((j-1)/m)^m.
    """
    infinite = torch.where(counted, value, torch.inf).sort(1).values
    m = counted.sum(1, keepdim=True).clamp(min=1).double()
    place = torch.arange(1, value.shape[1] + 1, device=value.device).double()
    chance = torch.where(place <= m, (place / m).clamp(max=1) ** m - ((place - 1) / m).clamp(max=1) ** m, 0.0)
    ascending = torch.where(place <= m, infinite, 0.0)
    mean = (chance * ascending).sum(1, keepdim=True)
    error = (chance * (ascending - mean).square()).sum(1).sqrt()
    return torch.where(counted, value, -torch.inf).amax(1), error


def average(value: Float[Tensor, "n s"], counted: Bool[Tensor, "n s"]) -> tuple[PerImage, PerImage]:
    """The mean of the values that count, and its standard error."""
    m = counted.sum(1).double()
    mean = torch.where(counted, value, 0.0).sum(1) / m
    squares = torch.where(counted, (value - mean[:, None]).square(), 0.0).sum(1)
    return mean, (squares / (m - 1).clamp(min=1) / m).sqrt()


def neighbour_score(
    name: str,
    explanation: Explanation,
    found: Around | str,
    reduce: Callable[[Tensor, Tensor], tuple[PerImage, PerImage]],
    settings: Mapping[str, Any],
    empty_allowed: bool = False,
    extras: Callable[[PerImage], dict[str, Tensor]] = lambda value: {},
) -> Score:
    """A score, lower is better, from the first number measured on each copy.

    Args:
        empty_allowed: whether a map without any weight has a score.
        extras: further tensors, made of the value.
    """
    if isinstance(found, str):
        return undefined(name, explanation, found, "down")
    value, error = reduce(found.value[:, :, 0], found.counted)
    flat, counted = explanation.native.flatten(1), found.counted
    good = (found.value[:, :, 0].isfinite() | ~counted).all(1)
    flags = zip(
        flat.isfinite().all(1).tolist(), flat.any(1).tolist(), counted.any(1).tolist(), good.tolist(), strict=True
    )
    reason = tuple(
        "not_finite"
        if not finite
        else "zero_total"
        if not (some or empty_allowed)
        else "no_neighbour"
        if not left
        else ""
        if usable
        else "neighbour_not_finite"
        for finite, some, left, usable in flags
    )
    dropped = 1 - counted.double().mean(1)
    result = Result(value, error, reason, {"dropped": dropped, **extras(value)})
    return score_of(name, result, None, "down", settings, *found.spent)
