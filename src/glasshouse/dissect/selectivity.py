"""How strongly units respond to each class."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glasshouse.core import Noun, Units
from glasshouse.core.stats import Stat
from glasshouse.core.stats.protocol import Counted
from glasshouse.dissect.exhibits import known_targets


@dataclass(frozen=True, repr=False)
class Selectivity(Noun):
    """How much u units of a layer prefer one of c classes.

    Args:
        means: activation averaged over positions and the images of each class; not-a-number for classes without any.
        n_images: of each class.
    """

    layer: str
    units: Int[Tensor, " u"]
    means: Float[Tensor, "u c"]
    n_images: Int[Tensor, " c"]

    def __repr__(self) -> str:
        middle = float(self.index.nanmedian())
        return f"Selectivity({self.layer}, {len(self.units)} units × {len(self.n_images)} classes, median {middle:.2f})"

    @property
    def index(self) -> Float[Tensor, " u"]:
        """s = (μ_max - μ_-max) / (μ_max + μ_-max), 0…1 for units behind a ReLU; μ_-max is the mean over other classes.

        0 for silent units. Morcos et al., "On the importance of single directions for generalization", ICLR 2018.
        """
        seen = self.means[:, self.n_images > 0].double()
        if seen.shape[1] < 2:
            return torch.full((len(seen),), torch.nan)
        best = seen.amax(1)
        rest = (seen.sum(1) - best) / (seen.shape[1] - 1)
        return torch.where(best + rest == 0, 0, (best - rest) / (best + rest)).float()

    @property
    def preferred(self) -> Int[Tensor, " u"]:
        """The class to which each unit responds most."""
        return self.means.nan_to_num(-torch.inf).argmax(1)


@dataclass(eq=False, repr=False)
class ClassSums(Counted):
    """Activation of each unit, averaged over positions, summed over the images of each class."""

    n_classes: int
    sums: Float[Tensor, "u c"] = field(init=False)
    count: Int[Tensor, " c"] = field(init=False)

    def __post_init__(self) -> None:
        self.sums = torch.zeros(0, self.n_classes, dtype=torch.float64)
        self.count = torch.zeros(self.n_classes, dtype=torch.int64)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.sums),)

    def update(self, means: Float[Tensor, "n u"], targets: Int[Tensor, " n"]) -> None:
        """Images with class -1 are left out."""
        if not len(self.sums):
            self.sums = torch.zeros(means.shape[1], self.n_classes, dtype=torch.float64)
        known = targets >= 0
        self.sums.index_add_(1, targets[known], means[known].cpu().double().T)
        self.count += targets[known].bincount(minlength=self.n_classes)

    def _join(self, other: "ClassSums") -> None:
        self.sums, self.count = self.sums + other.sums, self.count + other.count


@dataclass(frozen=True)
class Comparing:
    """How units respond to classes: what is counted of one layer while a pass goes by."""

    layer: str
    units: Int[Tensor, " u"]
    n_classes: int

    def stats(self) -> dict[str, Stat]:
        return {"sums": ClassSums(self.n_classes)}

    def count(self, maps: Units, batch: Any, ids: Int[Tensor, " n"]) -> dict[str, tuple[Any, ...]]:
        return {"sums": (maps.flatten(2).mean(2), known_targets(batch, len(ids)))}

    def finish(self, sums: ClassSums) -> Selectivity:
        """The class means."""
        return Selectivity(self.layer, self.units, (sums.sums / sums.count).float(), sums.count)
