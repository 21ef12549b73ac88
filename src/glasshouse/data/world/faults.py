"""Faults on demand: what goes wrong with real collections, with a manifest of where."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from glasshouse.core.errors import BadInput, not_found
from glasshouse.core.result import Noun
from glasshouse.data.world.chance import between, choice, uniform
from glasshouse.data.world.colours import hsv
from glasshouse.data.world.factors import Factor, Joint
from glasshouse.data.world.strokes import Sheet

POOL = 16  # how many images a careless collection holds again and again


@dataclass(frozen=True, repr=False)
class Faults(Noun):
    """What is wrong with a set of scenes. `Scenes.manifest` tells for each image what happened to it.

    Args:
        blotch: share of images with a coloured smear, as a broken generator leaves.
        memorised: share of images that are one of 16 images again, to the bit.
        mislabelled: share of images whose category is another one.
        dropped: categories that never occur.
        imbalance: how much rarer the last category is than the first; those between follow geometrically.
    """

    blotch: float | int = 0.0
    memorised: float | int = 0.0
    mislabelled: float | int = 0.0
    dropped: tuple[str, ...] = field(default_factory=tuple[str, ...])
    imbalance: float | int = 1.0

    def __post_init__(self) -> None:
        for name in ("blotch", "memorised", "mislabelled"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"{name} is a share of images, 0…1, and {getattr(self, name)} was given.")
        if not self.imbalance > 0:
            raise BadInput(f"imbalance is a ratio above 0, and {self.imbalance} was given.")

    def __repr__(self) -> str:
        rates = [f"{name} {value:g}" for name, value in self._rates().items() if value]
        return f"Faults({', '.join([*rates, *(f'no {name}' for name in self.dropped)]) or 'none'})"

    def _rates(self) -> Mapping[str, float]:
        unbalanced = {"imbalance": self.imbalance} if self.imbalance != 1 else {}
        return {"blotch": self.blotch, "memorised": self.memorised, "mislabelled": self.mislabelled} | unbalanced

    @property
    def uneven(self) -> bool:
        """Whether some categories come more often than others."""
        return bool(self.dropped) or self.imbalance != 1

    def joint(self, names: Sequence[str], schema: Mapping[str, Factor], categories: Sequence[str]) -> Joint:
        """The factors that decide the category, drawn so that each category comes as often as it should."""
        sizes = [len(schema[name].values) for name in names]
        return Joint(tuple(names), self.shares(categories).reshape(sizes))

    def manifest(
        self,
        index: Int[Tensor, " n"],
        shown: Int[Tensor, " n"],
        categories: Int[Tensor, " n"],
        written: Int[Tensor, " n"],
        seed: int,
    ) -> dict[str, Tensor]:
        """What happened to each image: the scene it shows, and the category it has beside the one written down."""
        return {
            "memorised": shown != index,
            "shows": shown,
            "blotch": self.smeared(shown, seed),
            "mislabelled": written != categories,
            "true_category": categories,
        }

    def repeat(self, index: Int[Tensor, " n"], seed: int) -> Int[Tensor, " n"]:
        """The number of the scene that each image really shows."""
        again = uniform(index, seed, "fault/memorised") < self.memorised
        return torch.where(again, (uniform(index, seed, "fault/which") * POOL).long(), index)

    def shares(self, categories: Sequence[str]) -> Tensor:
        """How often each category comes."""
        n = len(categories)
        weights = self.imbalance ** -(torch.arange(n, dtype=torch.float64) / max(1, n - 1))
        for name in self.dropped:
            if name not in categories:
                raise not_found("category", name, categories)
            weights[categories.index(name)] = 0
        if not float(weights.sum()) > 0:
            raise BadInput("every category is dropped.", "Leave at least one.")
        return weights

    def relabel(self, categories: Int[Tensor, " n"], n_categories: int, index: Tensor, seed: int) -> Tensor:
        """The categories as an unreliable person wrote them down."""
        wrong = uniform(index, seed, "fault/mislabelled") < self.mislabelled
        others = choice(index, seed, "fault/label", torch.ones(max(1, n_categories - 1)))
        return torch.where(wrong, (categories + 1 + others) % n_categories, categories)

    def smeared(self, index: Int[Tensor, " n"], seed: int) -> Tensor:
        """Which images have a blotch."""
        return uniform(index, seed, "fault/blotch") < self.blotch

    def draw(self, sheet: Sheet, index: Int[Tensor, " n"], seed: int) -> None:
        """Add the blotches."""
        there = self.smeared(index, seed)
        x, y = between(index, seed, "fault/x", 0.15, 0.85), between(index, seed, "fault/y", 0.15, 0.85)
        turn = between(index, seed, "fault/turn", 0.0, 3.0)
        paint = hsv(uniform(index, seed, "fault/hue").float(), 0.9, 0.8)
        for dx, dy, a, b in ((0.0, 0.0, 0.12, 0.05), (0.05, 0.03, 0.08, 0.07), (-0.06, 0.02, 0.07, 0.04)):
            sheet.add("ellipse", x + dx, y + dy, a, b, paint, angle=turn, opacity=0.85, present=there, part="blotch",
                      object="blotch", instance=21)  # fmt: skip
