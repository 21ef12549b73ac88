"""Does the map stay where the image hardly changed? Changes of the map, absolute and per change of the image."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.core import BadInput, Explanation, Images, Model, PerImage, Score, registered
from glasshouse.evaluate.engine import once
from glasshouse.evaluate.metric import belongs
from glasshouse.evaluate.robustness.neighbours import (
    Around,
    Looking,
    Pairs,
    around,
    average,
    largest,
    neighbour_score,
    noise,
)

SHIFTS = ((0, 1), (1, 0), (0, 2), (2, 0), (0, 4), (4, 0))


def relative_change(pairs: Pairs) -> Float[Tensor, "r 1"]:
    """||a' - a|| / ||a||."""
    change = (pairs.moved - pairs.maps).flatten(1).norm(dim=1)
    return (change / pairs.maps.flatten(1).norm(dim=1))[:, None]


def slope(pairs: Pairs) -> Float[Tensor, "r 1"]:
    """||a' - a|| / ||x' - x||."""
    change = (pairs.moved - pairs.maps).flatten(1).norm(dim=1)
    return (change / (pairs.copies - pairs.images).flatten(1).norm(dim=1))[:, None]


Measure: TypeAlias = Callable[[Pairs], Tensor]
MEASURES: tuple[Measure, ...] = (relative_change, slope)
"""What is measured on every noisy copy, so that metrics of the same copies can share them."""


def noisy_score(
    name: str,
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    measure: Measure,
    reduce: Callable[[Tensor, Tensor], tuple[PerImage, PerImage]],
    settings: dict[str, Any],
    empty_allowed: bool = False,
) -> Score:
    """A score from noisy copies, with the arguments that these metrics share."""
    belongs(explanation, inputs)
    n_samples, same = settings["n_samples"], settings["same_prediction"]
    disturb = noise(model, inputs, settings["radius"], n_samples, settings["seed"])

    def look() -> Around | str:
        both = Looking(lambda pairs: torch.cat([each(pairs) for each in MEASURES], 1))
        return around(model, inputs, explanation, disturb, n_samples, both, same)

    subject = (id(model), id(inputs), id(explanation))
    found, fresh = once(("noisy copies", *subject, *settings.values()), look)
    if not isinstance(found, str):
        place, spent = MEASURES.index(measure), found.spent if fresh else (0, 0)
        found = Around(found.value[:, :, [place]], found.counted, spent)
    return neighbour_score(name, explanation, found, reduce, settings, empty_allowed)


@registered("evaluate", paper="Yeh et al., NeurIPS 2019", example={"n_samples": 3})
def max_sensitivity(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    radius: float = 0.2,
    n_samples: int = 10,
    same_prediction: bool = True,
    seed: int = 0,
) -> Score:
    """How much the map can change, relative to itself, when the image changes invisibly: 0 is perfectly stable.

        max_s || a(x + e_s) - a(x) ||_F / || a(x) ||_F,   e_s uniform in [-radius, radius] for every value

    Yeh et al., "On the (in)fidelity and sensitivity of explanations", NeurIPS 2019. Of the method's own
    values (`native`), with their sign. A maximum over draws is a lower bound of the true one; its error is a bootstrap
    over draws. A constant map is perfectly stable: stability is no sign of truth.
    Differs: relative to the norm of the map, so that its scale does not matter. Copies that the model puts into
    another class do not count, because there the map ought to change; `extras["dropped"]` is their share.

    Args:
        radius: in units of the un-normalised image, 0…1: divided by each channel's std for a `Model` that knows its
            preprocessing. For a bare module, in units of its input.
        n_samples: noisy copies per image.
        same_prediction: False counts all copies, as the paper does, and saves a forward pass for each.
    """
    settings = {"radius": radius, "n_samples": n_samples, "same_prediction": same_prediction, "seed": seed}
    return noisy_score("max_sensitivity", model, inputs, explanation, relative_change, largest, settings)


@registered("evaluate", paper="Yeh et al., NeurIPS 2019", example={"n_samples": 3})
def avg_sensitivity(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    radius: float = 0.2,
    n_samples: int = 10,
    same_prediction: bool = True,
    seed: int = 0,
) -> Score:
    """How much the map changes on average, relative to itself, when the image changes invisibly.

        mean_s || a(x + e_s) - a(x) ||_F / || a(x) ||_F

    As `max_sensitivity`, with the mean over copies instead of the maximum: its error is that of a mean, and it does
    not grow with the number of copies.
    """
    settings = {"radius": radius, "n_samples": n_samples, "same_prediction": same_prediction, "seed": seed}
    return noisy_score("avg_sensitivity", model, inputs, explanation, relative_change, average, settings)


@registered("evaluate", paper="Alvarez-Melis & Jaakkola, 2018", example={"n_samples": 3})
def local_lipschitz(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    radius: float = 0.1,
    n_samples: int = 10,
    same_prediction: bool = True,
    seed: int = 0,
) -> Score:
    """How steeply the map changes with the image: the largest change of the map per change of the image nearby.

        max_s || a(x_s) - a(x) ||_2 / || x_s - x ||_2,   x_s uniform in a cube of half-width `radius` around x

    Alvarez-Melis and Jaakkola, "On the robustness of interpretability methods", 2018. Both norms are taken in
    the model's input space. It has the unit of the map per unit of the input, so only maps of the same method, or
    scaled alike, compare. For the gradient of a quadratic score it is at most the largest singular value of the
    Hessian. Error, `extras` and arguments as in `max_sensitivity`.
    Differs: the maximum over random copies, a lower bound, where the paper searches by Bayesian optimisation.
    """
    settings = {"radius": radius, "n_samples": n_samples, "same_prediction": same_prediction, "seed": seed}
    return noisy_score("local_lipschitz", model, inputs, explanation, slope, largest, settings, empty_allowed=True)


def translated(images: Images, down: int, right: int) -> Images:
    """Images moved by whole pixels; the border repeats where nothing moves in."""
    h, w = images.shape[-2:]
    padded = F.pad(images, (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0)), mode="replicate")
    top, left = max(-down, 0), max(-right, 0)
    return padded[..., top : top + h, left : left + w]


def shared_part(maps: Tensor, moved: Tensor, down: int, right: int) -> tuple[Tensor, Tensor]:
    """What both maps show, with the second one moved back."""
    h, w = maps.shape[-2:]
    before = maps[..., max(-down, 0) : h - max(down, 0), max(-right, 0) : w - max(right, 0)]
    after = moved[..., max(down, 0) : h + min(down, 0), max(right, 0) : w + min(right, 0)]
    return before, after


@registered("evaluate", paper="Montavon et al., 2018", example={"shifts": ((0, 1), (2, -1))})
def continuity(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    shifts: Sequence[tuple[int, int]] = SHIFTS,
    equivariant: bool = False,
    same_prediction: bool = True,
) -> Score:
    """How abruptly the map changes when the image moves by a few pixels.

        max_t || a(x_t) - a(x) ||_1 / || x_t - x ||_2,   x_t: the image moved by t

    Montavon, Samek and Mueller, "Methods for interpreting and understanding deep neural networks", 2018, sec. 7.1.
    Of the heat map. The border of the image repeats where nothing moves in. `extras["curve"]` holds the value of each
    shift. A map that follows its object changes as much as the image does and is no worse for it: that is what
    `equivariant` is for. Arguments, `extras["dropped"]` as in `max_sensitivity`; exact, so without error.

    Args:
        shifts: (down, right) in pixels, negative for up and left.
        equivariant: move the map back before it is compared, on the pixels that both show: what is left is change that
            does not follow the image.
    """
    belongs(explanation, inputs)
    h, w = inputs.shape[-2:]
    moves = [(int(down), int(right)) for down, right in shifts]
    wrong = [move for move in moves if move == (0, 0) or abs(move[0]) >= h or abs(move[1]) >= w]
    if wrong or not moves:
        raise BadInput(
            f"shifts {wrong} do not move an image of {h} × {w} pixels, or move it out of sight."
            if wrong
            else "there are no shifts.",
            "Give (down, right) in pixels, such as ((0, 1), (1, 0)).",
        )

    def disturb(image: Int[Tensor, " r"], number: list[int]) -> Images:
        return torch.cat(
            [translated(inputs[i : i + 1], *moves[s]) for i, s in zip(image.tolist(), number, strict=True)]
        )

    def measure(pairs: Pairs) -> Float[Tensor, "r 2"]:
        changes = list[Tensor]()
        for a, b, s in zip(pairs.maps, pairs.moved, pairs.copy, strict=True):
            before, after = shared_part(a, b, *moves[s]) if equivariant else (a, b)
            changes.append((after - before).abs().sum())
        distance = (pairs.copies - pairs.images).flatten(1).norm(dim=1)
        return torch.stack([torch.stack(changes) / distance, distance], 1)

    found = around(model, inputs, explanation, disturb, len(moves), Looking(measure, "heatmap"), same_prediction)
    if not isinstance(found, str):  # an image that looks the same after a move says nothing about it
        found = found._replace(counted=found.counted & (found.value[:, :, 1] > 0))
    settings = {"shifts": tuple(moves), "equivariant": equivariant, "same_prediction": same_prediction}
    curve = {} if isinstance(found, str) else {"curve": found.value[:, :, 0]}
    return neighbour_score("continuity", explanation, found, exactly_largest, settings, True, lambda value: curve)


def exactly_largest(value: Float[Tensor, "n s"], counted: Tensor) -> tuple[PerImage, PerImage]:
    """The largest value that counts, of copies that are not drawn at random."""
    return largest(value, counted)[0], torch.zeros_like(value[:, 0])
