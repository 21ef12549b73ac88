"""The pointing game in mosaics whose class is read from one cell alone: what a map must not mark is known."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glasshouse.core import BadInput, Images, Maps, Score
from glasshouse.evaluate.localisation.mosaics import Explain, Mosaics, grid_mosaics, maps_of, pointed, spent_on

Part: TypeAlias = Literal["full", "part"]
"""What is cut: "full": also what the features of one cell see of the others. "part": only what the head sees."""


class CellByCell(nn.Module):
    """Feature maps of a mosaic, made one cell at a time as if each were an image, and put together again."""

    def __init__(self, features: nn.Module, side: int):
        super().__init__()
        self.features, self.side = features, side

    def forward(self, mosaics: Images) -> Float[Tensor, "q k i j"]:
        rows = [row.chunk(self.side, 3) for row in mosaics.chunk(self.side, 2)]
        return torch.cat([torch.cat([self.features(cell) for cell in row], 3) for row in rows], 2)


class ReadFromCell(nn.Module):
    """A network that takes mosaics, and reads its classes from the features of one cell."""

    def __init__(self, features: nn.Module, head: nn.Module, side: int, cell: int):
        super().__init__()
        self.features, self.head, self.side, self.cell = features, head, side, cell

    def forward(self, mosaics: Images) -> Float[Tensor, "q classes"]:
        maps, (row, col) = self.features(mosaics), divmod(self.cell, self.side)
        sizes = (*mosaics.shape[2:], *maps.shape[2:])
        if maps.ndim != 4 or any(size % self.side for size in sizes):
            raise BadInput(
                f"mosaics {tuple(mosaics.shape)} with features {tuple(maps.shape)} are not {self.side} × {self.side} "
                "cells of one size.",
                "Pass features that end in maps `n k i j`, and images whose sides they divide evenly.",
            )
        return self.head(maps.chunk(self.side, 2)[row].chunk(self.side, 3)[col])


def disconnected(features: nn.Module, head: nn.Module, cell: int, *, part: Part = "full", side: int = 2) -> nn.Module:
    """A network for mosaics of side × side images whose output depends on one cell, by nature and not by training.

        full:  head(features(x_cell)),     part:  head(features(x)_cell)

    The models of DiFull and DiPart, see `disconnected_pointing_game`. Any method explains it: to one that looks at
    layers, "features" is the map of the whole mosaic, in either. Nothing is copied, and nothing of the two is changed.

    Args:
        features: the convolutions, images to maps `n k i j`: `net.features`, or `nn.Sequential` of what comes first.
        head: from maps of the size that one image has to classes: pooling, `nn.Flatten()`, linear layers.
        cell: in reading order, from 0.
    """
    if part not in ("full", "part"):
        raise BadInput(f"part '{part}' is unknown.", "Use 'full' or 'part'.")
    if not 0 <= cell < side * side:
        raise BadInput(f"there is no cell {cell} in {side} × {side}.", f"Use 0 to {side * side - 1}.")
    return ReadFromCell(CellByCell(features, side) if part == "full" else features, head, side, cell)


def disconnected_pointing_game(
    features: nn.Module,
    head: nn.Module,
    inputs: Images,
    classes: Sequence[int],
    explain: Explain,
    *,
    part: Part = "full",
    side: int = 2,
    n_mosaics: int = 16,
    seed: int = 0,
) -> Score:
    """Which part of a class's positive mass lies on its own image, where the network cannot read it from another.

        sum_{i in the class's cell} max(a_i, 0) / sum_i max(a_i, 0),   a explains disconnected(features, head, cell)

    DiFull ("full") and DiPart ("part") of Rao, Böhle and Schiele, "Towards better understanding attribution methods",
    CVPR 2022. In DiFull nothing outside the cell has any influence: the score is 1 for every right map, and what lacks
    is the method's fault. In DiPart only the margin counts that features see beyond their cell. In
    `grid_pointing_game` the network itself may read a class from the other images. Chance is 1 / side².

    Differs: all classes of a mosaic's model are read from the one cell, so that methods which read probabilities
    compare classes of the same image; for logits it makes no difference.

    Args:
        features, head, part: as in `disconnected`. A method that looks at a layer names "features"; for another layer,
            let `features` end there and `head` go on from it.
        classes, explain, n_mosaics, seed: as in `grid_pointing_game`.
    """
    game, maps, spent = grid_mosaics(inputs, classes, side=side, n_mosaics=n_mosaics, seed=seed), list[Maps](), (0, 0)
    for cell in range(side * side):
        mine = slice(cell, None, side * side)
        some = Mosaics(game.images[mine], game.target[mine], game.masks[mine])
        answer = explain(disconnected(features, head, cell, part=part, side=side), some.images, some.target)
        maps.append(maps_of(answer, some))
        forward, backward = spent_on(answer, some)
        spent = (spent[0] + forward, spent[1] + backward)
    settings = {"part": part, "side": side, "n_mosaics": n_mosaics, "seed": seed}
    return pointed("disconnected_pointing_game", torch.stack(maps, 1).flatten(0, 1), game, settings, spent)
