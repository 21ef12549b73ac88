"""Games without masks: put several images together, and see on which of them the map of a class lies."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Int
from torch import Tensor, nn

from glasshouse.core import BadInput, Explanation, Images, Maps, Masks, Model, Score, generator
from glasshouse.evaluate.localisation.masks import areas, faults, located, without_evidence
from glasshouse.evaluate.localisation.mass import share_inside
from glasshouse.evaluate.sanity.replaying import passes

Explain: TypeAlias = Callable[[Model | nn.Module, Images, list[int]], Explanation | Maps]
"""From a model, images and one class per image to their maps: `attribute.grad_cam`, or any function like it."""


class Mosaics(NamedTuple):
    """Mosaics of images, the class to explain in each, and the cells that show it: `masks` for any other metric."""

    images: Images
    target: list[int]
    masks: Masks


def laid_out(
    images: Images, chosen: Int[Tensor, "q m"], right: Bool[Tensor, "q m"], target: list[int], side: int
) -> Mosaics:
    """Images `chosen[q]` in `side` rows and columns, in reading order; `right` are the cells of the target."""
    h, w = images.shape[-2:]
    mosaic = rearrange(images[chosen.to(images.device)], "q (a b) c h w -> q c (a h) (b w)", a=side)
    masks = repeat(right.to(images.device), "q (a b) -> q (a h) (b w)", a=side, h=h, w=w)
    return Mosaics(mosaic, target, masks)


def labels_of(images: Images, classes: Sequence[int]) -> Int[Tensor, " n"]:
    if len(classes) != len(images):
        raise BadInput(f"{len(classes)} classes for {len(images)} images.", "Pass one class per image.")
    return torch.tensor([int(label) for label in classes])


def first_of_each(order: Int[Tensor, " m"], labels: Int[Tensor, " n"], count: int) -> list[int]:
    """The first image of each class, in this order, until there are `count`."""
    seen = dict[int, int]()
    for image in order.tolist():
        seen.setdefault(int(labels[image]), image)
        if len(seen) == count:
            break
    return list(seen.values())


def grid_mosaics(
    inputs: Images, classes: Sequence[int], *, side: int = 2, n_mosaics: int = 16, seed: int = 0
) -> Mosaics:
    """Mosaics of side × side images of different classes; each comes once for every one of its classes."""
    labels, draws, cells = labels_of(inputs, classes), generator(seed), side * side
    kinds = len(labels.unique())
    if side < 2 or n_mosaics < 1 or kinds < cells:
        raise BadInput(
            f"{n_mosaics} mosaics of {side} × {side} images cannot be made from {kinds} classes.",
            f"Pass images of {max(4, cells)} classes at least.",
        )
    shuffled = (torch.randperm(len(labels), generator=draws) for _ in range(n_mosaics))
    chosen = torch.tensor([first_of_each(order, labels, cells) for order in shuffled]).repeat_interleave(cells, 0)
    right = torch.eye(cells, dtype=torch.bool).repeat(n_mosaics, 1)
    return laid_out(inputs, chosen, right, labels[chosen[right]].tolist(), side)


def focus_mosaics(inputs: Images, classes: Sequence[int], *, n_mosaics: int = 16, seed: int = 0) -> Mosaics:
    """Mosaics of 2 × 2 images, in random places: two of the class that is explained, two of two other classes."""
    labels, draws = labels_of(inputs, classes), generator(seed)
    kinds, count = labels.unique(return_counts=True)
    if n_mosaics < 1 or len(kinds) < 3 or int(count.max()) < 2:
        raise BadInput(
            f"{n_mosaics} mosaics need two images of a class and two of other classes; "
            f"there are {len(labels)} images of {len(kinds)} classes.",
            "Pass more images.",
        )
    several, chosen, right, target = set(kinds[count > 1].tolist()), list[Tensor](), list[Tensor](), list[int]()
    for _ in range(n_mosaics):
        order = torch.randperm(len(labels), generator=draws)
        label = next(int(labels[image]) for image in order if int(labels[image]) in several)
        pair = order[labels[order] == label][:2].tolist()
        others = first_of_each(order[labels[order] != label], labels, 2)
        places = torch.randperm(4, generator=draws)
        chosen.append(torch.tensor(pair + others)[places])
        right.append(places < 2)
        target.append(label)
    return laid_out(inputs, torch.stack(chosen), torch.stack(right), target, 2)


def maps_of(answer: Explanation | Maps, game: Mosaics) -> Maps:
    """The maps in an answer, once they are known to be of these mosaics."""
    maps = answer.heatmap if isinstance(answer, Explanation) else answer
    if maps.shape != game.masks.shape:
        raise BadInput(
            f"the maps {tuple(maps.shape)} are not of the mosaics {tuple(game.masks.shape)}.",
            "explain must return an Explanation, or a tensor `n h w` at the mosaics' size.",
        )
    return maps


def spent_on(answer: Explanation | Maps, game: Mosaics) -> tuple[int, int]:
    """Forward and backward passes of an explanation, counted in mosaics; none where they are unknown."""
    return passes(answer, game.images, 1) if isinstance(answer, Explanation) else (0, 0)


def pointed(name: str, maps: Maps, game: Mosaics, settings: dict[str, Any], spent: tuple[int, int]) -> Score:
    """The share of positive mass in the right cells."""
    masks = game.masks.to(maps.device)
    causes = {**faults(maps, masks), **without_evidence(maps)}
    extras = {"target": torch.tensor(game.target)}
    return located(name, share_inside(maps, masks), causes, areas(masks), settings, extras, *spent)


def played(name: str, model: Model | nn.Module, game: Mosaics, explain: Explain, settings: dict[str, Any]) -> Score:
    """Explain the mosaics and see where the maps point."""
    answer = explain(model, game.images, game.target)
    return pointed(name, maps_of(answer, game), game, settings, spent_on(answer, game))


def grid_pointing_game(
    model: Model | nn.Module,
    inputs: Images,
    classes: Sequence[int],
    explain: Explain,
    *,
    side: int = 2,
    n_mosaics: int = 16,
    seed: int = 0,
) -> Score:
    """Which part of a class's positive mass lies on its own image, in mosaics of images of different classes.

        sum_{i in the class's cell} max(a_i, 0) / sum_i max(a_i, 0)

    Böhle, Fritz and Schiele, "Convolutional dynamic alignment networks", CVPR 2021; named GridPG by Rao, Böhle and
    Schiele, CVPR 2022. A score of a method, not of one map: one value per mosaic and class, chance 1 / side². It needs
    no masks, and a model that takes images `side` times as high and wide. A network whose units see beyond their cell
    may rightly use the other images. The papers take images that the model is sure of; so should you.

    Args:
        classes: of each image.
        explain: `(model, images, classes) -> Explanation` or maps `n h w`, such as `attribute.grad_cam`.
        n_mosaics: each is explained for all its classes.
        seed: of the choice of images.
    """
    game = grid_mosaics(inputs, classes, side=side, n_mosaics=n_mosaics, seed=seed)
    settings = {"side": side, "n_mosaics": n_mosaics, "seed": seed}
    return played("grid_pointing_game", model, game, explain, settings)


def focus(
    model: Model | nn.Module,
    inputs: Images,
    classes: Sequence[int],
    explain: Explain,
    *,
    n_mosaics: int = 16,
    seed: int = 0,
) -> Score:
    """Which part of a class's positive mass lies on its two images, in mosaics with two images of other classes.

        sum_{i in the class's two cells} max(a_i, 0) / sum_i max(a_i, 0)

    Arias-Duart et al., "Focus! Rating XAI methods and finding biases", FUZZ-IEEE 2022. Chance is 1/2. Arguments and
    notes as in `grid_pointing_game`.
    """
    game = focus_mosaics(inputs, classes, n_mosaics=n_mosaics, seed=seed)
    return played("focus", model, game, explain, {"n_mosaics": n_mosaics, "seed": seed})
