"""Several methods on several photographs, each with its fidelity card: what an explain page shows, as nouns."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from glasshouse import attribute, evaluate
from glasshouse.core import (
    BadInput,
    BadModel,
    Explanation,
    Images,
    Info,
    Model,
    NothingMatched,
    Noun,
    Progress,
    borrow,
    find_method,
)
from glasshouse.core.attention import token_layout
from glasshouse.core.photo import Photo
from glasshouse.core.target import logits

QUICK = ("grad_cam", "occlusion", "lrp", "integrated_gradients", "smooth", "guided_backprop")
"""The methods of a first look: one of each kind, quick enough for a laptop."""

QUICK_ON_TOKENS = ("attention_relevance", "occlusion", "lrp", "integrated_gradients", "grad_cam", "token_occlusion")
"""The same for Vision Transformers."""

Tier: TypeAlias = Literal["auto", "none", "free", "lite", "standard", "full"]
Class: TypeAlias = int | str
TICKS, MAPS = 1000, 600  # of progress for one photograph, and those of them that its maps take; the rest are its cards'


@dataclass(frozen=True, repr=False)
class View(Noun):
    """One photograph, what the model says of it, and what each method says of that.

    Attributes:
        photo: its path as it was given, or `photo 1` for one that came as a tensor.
        pixels: what the model saw, in 0…1, with a batch axis of 1.
        top: the model's first classes: number, name, probability.
        explanations: one per method that applies and class that was asked about, each with its card if one was wanted.
        skipped: why a method does not apply, by its name.
    """

    photo: str
    pixels: Images
    top: tuple[tuple[int, str, float], ...]
    explanations: tuple[Explanation, ...]
    skipped: dict[str, str]
    seconds: float

    def __repr__(self) -> str:
        methods = ", ".join(dict.fromkeys(e.method for e in self.explanations))
        return f"View({self.photo}: {self.top[0][1]} {100 * self.top[0][2]:.0f} %; {methods})"


def explain(
    model: Model,
    photos: Photo | Sequence[Photo],
    *,
    methods: Sequence[str] | None = None,
    target: Class | Sequence[Class] | None = None,
    layer: str | None = None,
    tier: Tier = "auto",
    seed: int = 0,
    chunk: int | None = None,
    progress: Progress | None = None,
) -> tuple[View, ...]:
    """Every method on every photograph, with its card. A method that the network does not suit is noted, not fatal.

    Args:
        methods: names of `list_methods("attribute.*")`; None takes one of each kind that suits the network.
        target: number or name of the class to explain, or several; None explains each photograph's top class.
        layer: for the methods that look at one; None is the usual layer.
        tier: how much to spend on the card; "none" leaves it out.
        chunk: images per forward pass, for the methods that run many.
        progress: called with how much is done, in thousandths of a photograph.
    """
    return tuple(views(model, photos, methods, target, layer, tier, seed, chunk, progress))


def views(
    model: Model,
    photos: Photo | Sequence[Photo],
    methods: Sequence[str] | None,
    target: Class | Sequence[Class] | None,
    layer: str | None,
    tier: Tier,
    seed: int,
    chunk: int | None,
    progress: Progress | None,
) -> Iterator[View]:
    """`explain`, one photograph after the other. All names and photographs are checked before anything runs."""
    if methods is not None and not methods:
        raise BadInput("no method was named.", f"Try {', '.join(QUICK[:3])}.")
    infos = [find_method(name, "attribute") for name in dict.fromkeys(methods or ())]
    listed = [target] if target is None or isinstance(target, int | str) else list(target)
    aims = list(dict.fromkeys(None if name is None else model.index(name) for name in listed))
    named = [photos] if isinstance(photos, str | Path) or not isinstance(photos, Sequence) else list(photos)
    device = next((p.device for p in model.module.parameters()), torch.device("cpu"))
    inputs = [model.preprocess([photo]).to(device) for photo in named]
    given = {"layer": layer, "seed": seed, "chunk": chunk}
    infos = infos or [find_method(name, "attribute") for name in first_look(model, inputs[0])]
    for number, (photo, images) in enumerate(zip(named, inputs, strict=True)):
        start = time.perf_counter()
        top = predictions(model, images)
        classes = [top[0][0] if aim is None else aim for aim in aims]
        told = _part_of(progress, number, len(inputs))
        found, skipped = _ask_all(model, images, infos, classes, given, tier, seed, told)
        name = str(photo) if isinstance(photo, str | Path) else f"photo {number + 1}"
        pixels = model.preprocess.pixels(images).cpu()
        yield View(name, pixels, top, found, skipped, round(time.perf_counter() - start, 3))


def first_look(model: Model, images: Images) -> tuple[str, ...]:
    """The methods that are asked where none is named."""
    try:
        with borrow(model, images) as network:
            token_layout(network, images)
    except (NothingMatched, BadModel):
        return QUICK
    return QUICK_ON_TOKENS


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
    targets: Sequence[int],
    given: Mapping[str, Any],
    tier: Tier,
    seed: int,
    progress: Progress,
) -> tuple[tuple[Explanation, ...], dict[str, str]]:
    """The methods on one image, sharing their passes, and then the cards. Where none applies, the reason is raised."""
    settings = {info.short: settings_for(info, given) for info in infos}
    compared = attribute.compare(
        model,
        images,
        list(settings),
        list(targets),
        settings=settings,
        progress=lambda done, total: progress(MAPS * done // total, TICKS),
    )
    maps = [e for about in zip(*compared.explanations.values(), strict=True) for e in about]
    if tier != "none":
        answers = {asked: evaluate.Answers(model, images, [asked], chunk=given.get("chunk")) for asked in targets}
        for place, e in enumerate(maps):
            card = evaluate.card(model, images, e, tier=tier, seed=seed, answers=answers[e.target[0]])
            maps[place] = e.with_card(card)
            progress(MAPS + (TICKS - MAPS) * (place + 1) // len(maps), TICKS)
    progress(TICKS, TICKS)
    return tuple(maps), compared.skipped


def _part_of(progress: Progress | None, number: int, count: int) -> Progress:
    """The listener of one photograph of several."""
    return lambda done, total: progress(number * TICKS + done, count * TICKS) if progress else None
