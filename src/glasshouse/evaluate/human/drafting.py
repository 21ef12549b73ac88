"""Which images and maps make a question of each kind, so that guessing is worth exactly what it should be."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch

from glasshouse.core import BadInput, Explanation

Kind: TypeAlias = Literal["agreement", "distinction", "bias"]
OPTIONS: dict[Kind, tuple[str, ...]] = {
    "agreement": ("1", "2", "3", "4"),
    "distinction": ("A", "B", "C", "D"),
    "bias": ("biased", "clean"),
}
"""The answers of each kind of form. Of agreement: sure that it is wrong, rather wrong, rather right, surely right."""

CHANCE: dict[Kind, float] = {"agreement": 0.5, "distinction": 0.25, "bias": 0.5}


class Draft(NamedTuple):
    """A trial before it is given a name, with its answer."""

    images: tuple[int, ...]
    maps: tuple[int, ...]
    label: str
    answer: str
    about: dict[str, Any]


def agreement_drafts(
    explanation: Explanation,
    labels: Sequence[int],
    names: Sequence[str] | None,
    n_trials: int | None,
    draws: torch.Generator,
) -> list[Draft]:
    """As many right predictions as wrong ones."""
    right = [label == guess for label, guess in zip(labels, explanation.target, strict=True)]
    sides = [[row for row, good in enumerate(right) if good is side] for side in (True, False)]
    each = half(n_trials, min(map(len, sides)), f"{len(sides[0])} right and {len(sides[1])} wrong predictions")
    if names is not None and max(explanation.target) >= len(names):
        raise BadInput(f"class {max(explanation.target)} has none of the {len(names)} class_names.")
    drafts: list[Draft] = []
    for rows, answer in zip(sides, ("right", "wrong"), strict=True):
        for place in torch.randperm(len(rows), generator=draws)[:each].tolist():
            row, guess = rows[place], explanation.target[rows[place]]
            label = "" if names is None else str(names[guess])
            drafts.append(Draft((row,), (row,), label, answer, {"image": row, "predicted": guess, "true": labels[row]}))
    return drafts


def distinction_drafts(given: Sequence[Explanation], n_trials: int | None, draws: torch.Generator) -> list[Draft]:
    """The predicted class's map at each of the four places equally often, or once more; the others shuffled."""
    n, letters = len(given[0]), OPTIONS["distinction"]
    for row in range(n):
        classes = [e.target[row] for e in given]
        if len(set(classes)) < len(classes):
            raise BadInput(f"two of the four explanations of image {row} are of one class: {classes}.")
    count = n if n_trials is None else n_trials
    if count > n:
        raise BadInput(f"n_trials {count} is more than the {n} images.")
    odd = torch.randperm(4, generator=draws)  # where trials are no multiple of four, any place may be the one more
    places = odd[torch.arange(count) % 4][torch.randperm(count, generator=draws)].tolist()
    drafts: list[Draft] = []
    for row, place in zip(torch.randperm(n, generator=draws)[:count].tolist(), places, strict=True):
        order = [1 + other for other in torch.randperm(3, generator=draws).tolist()]
        order.insert(place, 0)
        about = {"image": row, "classes": [given[which].target[row] for which in order]}
        drafts.append(Draft((row,) * 4, tuple(which * n + row for which in order), "", letters[place], about))
    return drafts


def bias_drafts(
    given: Sequence[Explanation], biased: Sequence[int], n_trials: int | None, n_maps: int, draws: torch.Generator
) -> list[Draft]:
    """Each set of images once with a biased and once with a clean model; all models equally often on their side."""
    sides = [[model for model, fact in enumerate(biased) if bool(fact) is side] for side in (True, False)]
    if not all(sides):
        raise BadInput(f"{len(sides[0])} models are biased and {len(sides[1])} clean.", "Pass at least one of each.")
    n = len(given[0])
    if not 1 <= n_maps <= n:
        raise BadInput(f"n_maps {n_maps} is not in 1…{n}, the number of images.")
    pairs = n // n_maps if n_trials is None else half(n_trials, n_trials // 2, "")
    rows: list[int] = []
    while len(rows) < pairs * n_maps:  # every image as often as any other, and once in a set
        rows += torch.randperm(n, generator=draws)[: n // n_maps * n_maps].tolist()
    orders = [torch.randperm(len(side), generator=draws).tolist() for side in sides]
    drafts: list[Draft] = []
    for pair in range(pairs):
        images = tuple(rows[pair * n_maps : (pair + 1) * n_maps])
        for side, order, answer in zip(sides, orders, OPTIONS["bias"], strict=True):
            model = side[order[pair % len(side)]]
            about = {"explanation": model, "images": list(images)}
            drafts.append(Draft(images, tuple(model * n + row for row in images), "", answer, about))
    return drafts


def half(n_trials: int | None, most: int, there: str) -> int:
    """Trials on each of two equal sides."""
    if n_trials is not None and n_trials % 2:
        raise BadInput(f"n_trials {n_trials} is odd, so its two kinds cannot be balanced.", f"Use {n_trials + 1}.")
    each = most if n_trials is None else n_trials // 2
    if not 1 <= each <= most:
        raise BadInput(f"there are {there}: not {max(each, 1)} of each.", "Pass more images, or fewer n_trials.")
    return each
