"""Do prototypes explain the whole object? Which of its parts some prototype stands for."""

from dataclasses import dataclass, field
from math import nan
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.core import Noun, Units
from glasshouse.evaluate.inside.peaks import (
    Size,
    anywhere,
    categories_of,
    checked_size,
    contains,
    enlarged_peaks,
    half_of,
    share_of,
)
from glasshouse.evaluate.inside.prototypes import check, mean_of


@dataclass(frozen=True, repr=False)
class PartCoverage(Noun):
    """Which of k parts the prototypes of each of c classes stand for.

    Args:
        share: over the images of the class that show the part, the largest share in which one and the same prototype
            lies on it; NaN where none shows it.
        chance: what `value` would be for prototypes with a peak anywhere.
        threshold: the share from which a part is covered.
    """

    share: Float[Tensor, "c k"]
    chance: float
    threshold: float
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        c, k = self.share.shape
        return (
            f"PartCoverage({self.value:.3f} ± {self.stderr:.3f} of {k} parts in {c} classes, "
            f"chance {self.chance:.3f}, higher is better)"
        )

    @property
    def covered(self) -> Bool[Tensor, "c k"]:
        """Whether some prototype of the class stands for the part."""
        return self.share >= self.threshold

    @property
    def per_class(self) -> Float[Tensor, " c"]:
        """Share of the parts seen in the class that are covered."""
        return covered_of(self.share, self.threshold)

    @property
    def value(self) -> float:
        """Mean over classes."""
        return float(self.per_class.nanmean())

    @property
    def stderr(self) -> float:
        """Standard error of `value` over classes, taken as independent; NaN with one."""
        known = self.per_class[self.per_class.isfinite()]
        return float(known.std() / len(known) ** 0.5) if len(known) > 1 else nan


def part_coverage(
    maps: Units,
    parts: Float[Tensor, "m q 3"],
    *,
    size: Size,
    categories: Int[Tensor, " m"] | None = None,
    of_prototypes: Int[Tensor, " u"] | None = None,
    half_px: float | int | None = None,
    threshold: float = 0.8,
    n_chance: int = 20,
    seed: int = 0,
) -> PartCoverage:
    """Share of an object's parts that some prototype of its class stands for.

        share_ck = max over prototypes p of class c of [share of c's images showing part k in which it lies in p's box]
        coverage_c = share of the parts seen in c with share_ck >= 0.8,   value = mean_c coverage_c

    The other side of `prototype_consistency`, with the same boxes and images: prototypes that all lie on the head are
    consistent and leave the rest unexplained. A part that no prototype covers need not matter to the model.

    Args:
        maps, categories, of_prototypes, half_px: as for `prototype_consistency`. A class without prototypes covers
            nothing.
    """
    check(maps, parts, n_chance)
    half, shown = half_of(half_px, size), parts.detach().cpu().double()[:, None]
    known, home = categories_of(maps.detach().cpu().flatten(2).amax(2), categories, of_prototypes)
    at, _, usable = enlarged_peaks(maps, known[:, None] == home, checked_size(size), seed)
    asked, classes = usable[:, :, None] & (shown[..., 2] > 0), known.unique()
    seen = torch.stack([(shown[known == value, 0, :, 2] > 0).any(0) for value in classes])

    def shares(at: Tensor) -> Tensor:
        each = share_of(contains(at, shown, half), asked).nan_to_num(0)
        rows = [(each * (home == value)[:, None]).amax(0) for value in classes]
        return torch.stack(rows).masked_fill(~seen, nan)

    drawn = anywhere(at, size, n_chance, seed)
    chance = mean_of([covered_of(shares(peaks), threshold).nanmean(0, keepdim=True) for peaks in drawn])
    settings = {"half_px": half, "n_chance": n_chance, "seed": seed}
    return PartCoverage(shares(at), chance, threshold, settings)


def covered_of(share: Float[Tensor, "c k"], threshold: float) -> Float[Tensor, " c"]:
    """Of the known entries of each row, the share that reaches the threshold."""
    return share_of((share >= threshold).T, share.isfinite().T)
