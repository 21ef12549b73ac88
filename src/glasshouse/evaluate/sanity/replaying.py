"""Running a method again: with another model, about another class, on another image."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn

from glasshouse.core import Cost, Explanation, Images, Info, Maps, Model
from glasshouse.evaluate.agreement import spearman
from glasshouse.evaluate.metric import Result, flaws, known_method
from glasshouse.evaluate.questions import grid_of
from glasshouse.evaluate.sanity.likeness import likeness

MOST_AT_ONCE = 64  # images per call of a method, if they are small


class Replay(NamedTuple):
    """A method with the settings of one explanation."""

    info: Info
    settings: Mapping[str, Any]


def replay(explanation: Explanation) -> Replay | str:
    """The method and the settings of an explanation, or one word that says why it cannot be run again."""
    if not explanation.target:
        return "custom_target"
    info = known_method(explanation)
    if info is None:
        return "unknown_method"
    known, settings = info.parameters.parameters, dict[str, Any]()
    for name, value in explanation.settings.items():
        if name not in known:
            return "settings_not_kept"
        default = known[name].default
        if not isinstance(value, str) or value == default or is_text(str(known[name].annotation), value):
            settings[name] = value
        elif value != getattr(default, "__name__", None):  # else the default function, recorded by its name
            return "settings_not_kept"
    return Replay(info, settings)


def is_text(annotation: str, value: str) -> bool:
    """Whether a recorded text is the argument itself and not the description of a tensor or function."""
    return not value.startswith("tensor (") and re.search(r"\b(str|Literal|Any)\b", annotation) is not None


def rerun(
    found: Replay,
    model: Model | nn.Module,
    images: Images,
    classes: list[int],
    row: Int[Tensor, " r"],
    n: int,
) -> Explanation:
    """The method on other images or classes in one batch; row r belongs to image `row[r]` of the `n` explained."""
    own = {
        name: value[row.to(value.device)]
        if isinstance(value, Tensor) and value.ndim == 4 and len(value) == n
        else value
        for name, value in found.settings.items()
    }
    return found.info.function(model, images, classes, **own)


def at_once(images: Images) -> int:
    """How many images a method is given in one call."""
    return min(MOST_AT_ONCE, max(1, 2**22 // images[0].numel()))


def price(explanation: Explanation, images: Images) -> Cost | None:
    """What the explanation of one image cost; None where the method does not say."""
    info = known_method(explanation)
    return info.price(explanation.settings, images.shape) if info else None


def passes(explanation: Explanation, images: Images, runs: int) -> tuple[int, int]:
    """Forward and backward passes of running the method again, counted in single images."""
    cost, count = price(explanation, images) or Cost(0), runs * len(images)
    return round(cost.forward * count), round(cost.backward * count)


def compared(
    name: str, first: Maps, second: Maps, seed: int, absolute: bool
) -> tuple[Tensor, Tensor, tuple[str, ...], dict[str, Tensor]]:
    """Spearman correlation of two maps per image, its error, reasons where undefined, other similarities."""
    a, b = (first.abs(), second.abs()) if absolute else (first, second)
    size = (first.shape[-2], first.shape[-1])
    value, stderr = spearman(a, b, seed, grid_of(size))
    reason = tuple(
        mine or (f"{name}_{other}" if other else "" if known else "constant_map")
        for mine, other, known in zip(flaws(first), flaws(second), value.isfinite().tolist(), strict=True)
    )
    return value, stderr, reason, likeness(first, second, absolute)


def same_values(first: Explanation, second: Explanation) -> tuple[Tensor, Tensor] | str:
    """The methods' own values, in float64; one word where a map was made by hand or changed since."""
    a, b = first.native.double(), second.native.double()
    return (a.to(b.device), b) if a.shape == b.shape else "edited_map"


def distances(first: Explanation, second: Explanation) -> Result | str:
    """l2 distance of two answers of a method, each divided by its largest absolute value; also as unit vectors."""
    pair = same_values(first, second)
    if isinstance(pair, str):
        return pair
    a, b = (values.flatten(1) for values in pair)
    value = (a / a.abs().amax(1, keepdim=True) - b / b.abs().amax(1, keepdim=True)).norm(dim=1)
    cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    usable = zip(a.isfinite().all(1).tolist(), a.any(1).tolist(), value.isfinite().tolist(), strict=True)
    reason = tuple(
        "not_finite" if not finite else "zero_total" if not some else "" if known else "other_zero_total"
        for finite, some, known in usable
    )
    extras = {"unit_distance": (2 - 2 * cosine).clamp(min=0).sqrt(), "cosine": cosine}
    return Result(value, torch.zeros_like(value), reason, extras)
