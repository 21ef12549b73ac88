"""Running a method again: with another model, about another class, on another image."""

import re
from typing import Any

from torch import Tensor

from glasshouse.core import Cost, Explanation, Images, Info, Maps
from glasshouse.evaluate.agreement import cosine, spearman, ssim
from glasshouse.evaluate.engine import grid_of
from glasshouse.evaluate.metric import flaws, known_method


def replay(explanation: Explanation) -> tuple[Info, dict[str, Any]] | str:
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
    return info, settings


def is_text(annotation: str, value: str) -> bool:
    """Whether a recorded text is the argument itself and not the description of a tensor or function."""
    return not value.startswith("tensor (") and re.search(r"\b(str|Literal|Any)\b", annotation) is not None


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
    return value, stderr, reason, {"ssim": ssim(a, b), "cosine": cosine(first, second)}
