"""How often a unit takes each value, in bins that are fixed beforehand."""

from dataclasses import dataclass, field

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from glasshouse.core.errors import BadInput
from glasshouse.core.stats.protocol import Counted, check_count, reject_nan


@dataclass(eq=False, repr=False)
class Histogram(Counted):
    """Values of each unit in `n_bins` equal bins from `lo` to `hi`, and how many lie outside or are 0.

    A bin holds its lower edge but not its upper one; the last holds both (as in `numpy.histogram`).
    """

    lo: float
    hi: float
    n_bins: int = 2048
    slots: Int[Tensor, "k slots"] = field(init=False)
    zeros: Int[Tensor, " k"] = field(init=False)

    def __post_init__(self) -> None:
        check_count("n_bins", self.n_bins)
        if not self.lo < self.hi:
            raise BadInput(f"lo={self.lo} is not below hi={self.hi}.", "Swap them, or widen the range.")
        self.slots = torch.zeros(0, self.n_bins + 2, dtype=torch.int64)
        self.zeros = torch.zeros(0, dtype=torch.int64)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.zeros.shape)

    def update(self, values: Float[Tensor, "n k *grid"]) -> None:
        """Every image and position counts as one value."""
        reject_nan(values)
        rows = rearrange(values.detach(), "n k ... -> k (n ...)")
        width = self.n_bins + 2
        first = torch.arange(len(rows), device=rows.device)[:, None] * width
        counts = torch.bincount((first + self._slot(rows)).flatten(), minlength=len(rows) * width)
        part = self.fresh()
        part.slots, part.zeros = counts.view(len(rows), width), (rows == 0).sum(1)
        self.merge(part)

    def _slot(self, rows: Tensor) -> Tensor:
        edges = self.edges.to(rows.device)
        scaled = (rows - self.lo) * (self.n_bins / (self.hi - self.lo))
        slot = scaled.clamp(0, self.n_bins - 1).long()
        # The product above may round across an edge: one comparison on either side puts it right.
        down, up = edges[:-1].clone(), edges[1:].clone()
        down[0] = up[-1] = torch.nan  # no value is beyond these two
        slot = slot - (rows < down[slot]).long()
        slot = slot + (rows >= up[slot]).long()
        return slot + 1 - (rows < edges[0]).long() + (rows > edges[-1]).long()

    def _join(self, other: "Histogram") -> None:
        self.slots = self.slots + other.slots
        self.zeros = self.zeros + other.zeros

    @property
    def edges(self) -> Float[Tensor, " edges"]:
        """The `n_bins + 1` edges, in float32."""
        return torch.linspace(self.lo, self.hi, self.n_bins + 1, dtype=torch.float64).float()

    @property
    def counts(self) -> Int[Tensor, "k bins"]:
        """Values in each bin."""
        return self.slots[:, 1:-1]

    @property
    def below(self) -> Int[Tensor, " k"]:
        """Values smaller than `lo`."""
        return self.slots[:, 0]

    @property
    def above(self) -> Int[Tensor, " k"]:
        """Values larger than `hi`."""
        return self.slots[:, -1]

    @property
    def total(self) -> Int[Tensor, " k"]:
        """All values."""
        return self.slots.sum(1)
