"""Several methods on several photographs, each with its fidelity card: what an explain page shows, as nouns."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from glasshouse import evaluate
from glasshouse.core import (
    BadInput,
    BadModel,
    Explanation,
    GlasshouseError,
    Images,
    Info,
    Model,
    NothingMatched,
    Noun,
    Progress,
    borrow,
    find_method,
)
from glasshouse.core.photo import Photo
from glasshouse.core.target import logits

QUICK = ("grad_cam", "integrated_gradients", "smooth", "occlusion", "saliency", "guided_backprop")
"""The methods of a first look: one of each kind, quick enough for a laptop."""

Tier: TypeAlias = Literal["auto", "none", "free", "lite", "standard"]


@dataclass(frozen=True, repr=False)
class View(Noun):
    """One photograph, what the model says of it, and what each method says of that.

    Attributes:
        photo: its path as it was given, or `photo 1` for one that came as a tensor.
        pixels: what the model saw, in 0…1, with a batch axis of 1.
        top: the model's first classes: number, name, probability.
        explanations: one per method that applies, each with its card if one was asked for.
        skipped: why a method does not apply, by its name.
    """

    photo: str
    pixels: Images
    top: tuple[tuple[int, str, float], ...]
    explanations: tuple[Explanation, ...]
    skipped: dict[str, str]
    seconds: float

    def __repr__(self) -> str:
        methods = ", ".join(e.method for e in self.explanations)
        return f"View({self.photo}: {self.top[0][1]} {100 * self.top[0][2]:.0f} %; {methods})"


def explain(
    model: Model,
    photos: Photo | Sequence[Photo],
    *,
    methods: Sequence[str] = QUICK,
    target: int | str | None = None,
    layer: str | None = None,
    tier: Tier = "auto",
    seed: int = 0,
    chunk: int | None = None,
    progress: Progress | None = None,
) -> tuple[View, ...]:
    """Every method on every photograph, with its card. A method that the network does not suit is noted, not fatal.

    Args:
        target: number or name of the class to explain; None explains each photograph's top class.
        layer: for the methods that look at one; None is the usual layer.
        tier: how much to spend on the card; "none" leaves it out.
        chunk: images per forward pass, for the methods that run many.
        progress: called with how many of all methods on all photographs are done.
    """
    return tuple(views(model, photos, methods, target, layer, tier, seed, chunk, progress))


def views(
    model: Model,
    photos: Photo | Sequence[Photo],
    methods: Sequence[str],
    target: int | str | None,
    layer: str | None,
    tier: Tier,
    seed: int,
    chunk: int | None,
    progress: Progress | None,
) -> Iterator[View]:
    """`explain`, one photograph after the other. All names and photographs are checked before anything runs."""
    if not methods:
        raise BadInput("no method was named.", f"Try {', '.join(QUICK[:3])}.")
    import_module("glasshouse.attribute")  # fills the registry
    infos = [find_method(name, "attribute") for name in dict.fromkeys(methods)]
    aim = None if target is None else model.index(target)
    named = [photos] if isinstance(photos, str | Path) or not isinstance(photos, Sequence) else list(photos)
    device = next((p.device for p in model.module.parameters()), torch.device("cpu"))
    inputs = [model.preprocess([photo]).to(device) for photo in named]
    given = {"layer": layer, "seed": seed, "chunk": chunk}
    steps = len(inputs) * len(infos)
    for number, (photo, images) in enumerate(zip(named, inputs, strict=True)):
        start, done = time.perf_counter(), number * len(infos)
        top = predictions(model, images)
        tick = _ticker(progress, done, steps)
        found, skipped = _ask_all(model, images, infos, top[0][0] if aim is None else aim, given, tier, seed, tick)
        name = str(photo) if isinstance(photo, str | Path) else f"photo {number + 1}"
        pixels = model.preprocess.pixels(images).cpu()
        yield View(name, pixels, top, found, skipped, round(time.perf_counter() - start, 3))


def predictions(model: Model, images: Images, n: int = 5) -> tuple[tuple[int, str, float], ...]:
    """The first classes of one image: number, name and softmax probability."""
    with borrow(model, images) as network, torch.no_grad():
        output = logits(network(images))
    if output.ndim != 2:
        raise BadModel(
            f"'{model.name}' gives {tuple(output.shape[1:])} numbers per image, not one per class.",
            "Explain pages are for classifiers; call the methods of `attribute` with a target function instead.",
        )
    best = output.softmax(1)[0].topk(min(n, output.shape[1]))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return tuple((index, model.label(index), value) for index, value in pairs)


def settings_for(info: Info, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the given settings that a method takes; None means its default."""
    return {name: value for name, value in given.items() if value is not None and name in info.parameters.parameters}


def _ask_all(
    model: Model,
    images: Float[Tensor, "1 c h w"],
    infos: Sequence[Info],
    target: int,
    given: Mapping[str, Any],
    tier: Tier,
    seed: int,
    tick: Callable[[], None],
) -> tuple[tuple[Explanation, ...], dict[str, str]]:
    """The methods on one image. Where none applies, the reason of the last one is raised."""
    found: list[Explanation] = []
    skipped: dict[str, str] = {}
    error: GlasshouseError | None = None
    answers = evaluate.Answers(model, images, [target], chunk=given.get("chunk"))
    for info in infos:
        try:
            explanation = info.function(model, images, target, **settings_for(info, given))
            if tier != "none":
                card = evaluate.card(model, images, explanation, tier=tier, seed=seed, answers=answers)
                explanation = explanation.with_card(card)
            found.append(explanation)
        except (NothingMatched, BadInput) as reason:
            skipped[info.short], error = str(reason), reason
        tick()
    if error and not found:
        raise error
    return tuple(found), skipped


def _ticker(progress: Progress | None, done: int, total: int) -> Callable[[], None]:
    counted = [done]

    def tick() -> None:
        counted[0] += 1
        if progress:
            progress(counted[0], total)

    return tick
