"""What methods that ask about the inside of a network give back: a number per unit, or per pair of positions."""

from dataclasses import dataclass, field, replace
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from glasshouse.core import BadInput, Noun, PerImage


@dataclass(frozen=True, repr=False)
class UnitAttribution(Noun):
    """What each unit of a layer contributed to a score, according to one method.

    Args:
        values: one per unit (or group of units), signed where the method is, never normalised.
        method: name of the method, as `list_methods` shows it.
        target: the class explained, one per image; empty where the target was a function or a weighting.
        score: the model's score for that target on the clean image.
        settings: every argument of the call, defaults included.
        extras: further quantities the method measured, by name.
    """

    values: Float[Tensor, "n k"]
    method: str
    target: tuple[int, ...]
    score: PerImage
    layer: str
    settings: dict[str, Any]
    extras: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def __repr__(self) -> str:
        n, k = self.values.shape
        goal = (
            f"target {', '.join(map(str, self.target[:4]))}{'…' if n > 4 else ''}" if self.target else "custom target"
        )
        return f"UnitAttribution({self.method} at {self.layer}, {n} × {k} units, {goal})"

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> "UnitAttribution":
        """The attribution of one image, still with a batch axis of 1."""
        n = len(self)
        if not -n <= index < n:
            raise IndexError(f"image {index} of {n}")
        one = slice(index % n, index % n + 1)
        extras = {name: value[one] if value.shape[:1] == (n,) else value for name, value in self.extras.items()}
        return replace(self, values=self.values[one], target=self.target[one], score=self.score[one], extras=extras)

    def top(self, count: int) -> Int[Tensor, "n count"]:
        """Units that speak most for the target, the strongest first."""
        k = self.values.shape[1]
        if not 0 < count <= k:
            raise BadInput(f"the {count} strongest units of {k}.", f"Ask for 1 to {k}.")
        return self.values.topk(count, 1).indices


@dataclass(frozen=True, repr=False)
class LayerAttribution(Noun):
    """What each position of one layer contributed to the activity at some positions of a later one.

    Args:
        values: signed; one row for each position that was asked about, one column for each position of `source`.
        positions: those that were asked about, as (row, column) on the grid of `to`.
        grid: rows and columns of `source`.
        strength: what the rows explain: the squared length of the activation at each position.
        settings: every argument of the call, defaults included.
        extras: further quantities the method measured, by name.
    """

    values: Float[Tensor, "n p q"]
    source: str
    to: str
    positions: tuple[tuple[int, int], ...]
    grid: tuple[int, int]
    strength: Float[Tensor, "n p"]
    settings: dict[str, Any]
    extras: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def __repr__(self) -> str:
        n, asked, _ = self.values.shape
        rows, columns = self.grid
        return f"LayerAttribution({self.source} → {self.to}, {n} × {asked} positions from {rows}×{columns})"

    def __len__(self) -> int:
        return len(self.values)

    def maps(self) -> Float[Tensor, "n p i j"]:
        """One map over the positions of `source` for each position that was asked about."""
        return self.values.unflatten(2, self.grid)
