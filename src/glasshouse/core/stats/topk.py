"""Which images excite a unit most, and a fair sample of all images to compare them with."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from einops import repeat
from jaxtyping import Float, Int
from torch import Tensor

from glasshouse.core.stats.hashing import scramble
from glasshouse.core.stats.protocol import Counted, check_count, in_single, reject_nan


def _whole(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)


@dataclass(eq=False, repr=False)
class TopK(Counted):
    """The `n_kept` largest (or smallest) values of each unit, with image and position, best first.

    Ordered by value, then by smaller id, then by smaller position, so that nothing depends on the order of
    the images. With fewer images than `n_kept`, all of them are kept.
    """

    n_kept: int = 100
    largest: bool = True
    values: Float[Tensor, "k top"] = field(init=False, default_factory=lambda: torch.zeros(0, 0))
    ids: Int[Tensor, "k top"] = field(init=False, default_factory=lambda: _whole(0, 0))
    positions: Int[Tensor, "k top"] = field(init=False, default_factory=lambda: _whole(0, 0))

    def __post_init__(self) -> None:
        check_count("n_kept", self.n_kept)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape[:1])

    def update(self, values: Float[Tensor, "n k"], ids: Int[Tensor, " n"], positions: Int[Tensor, "n k"]) -> None:
        """One value per image and unit.

        Args:
            positions: where on the layer's grid the value was read, as a flat index.
        """
        reject_nan(values, ids)
        part = self.fresh()
        part._keep([in_single(values).T, repeat(ids.long(), "n -> k n", k=values.shape[1]), positions.long().T])
        self.merge(part)

    def _rows(self) -> list[Tensor]:
        """All that is kept of each unit, the keys of its order first."""
        return [getattr(self, name) for name in self._counted()]

    def _keep(self, rows: Sequence[Tensor]) -> None:
        for name, kept in zip(self._counted(), self._best(rows), strict=True):
            setattr(self, name, kept)

    def _best(self, rows: Sequence[Tensor]) -> list[Tensor]:
        # Stable sorts from the last key to the first order by all three.
        values, ids, positions = rows[:3]
        order = positions.sort(dim=1, stable=True).indices
        order = order.gather(1, ids.gather(1, order).sort(dim=1, stable=True).indices)
        by_value = values.gather(1, order).sort(dim=1, stable=True, descending=self.largest).indices
        order = order.gather(1, by_value)[:, : self.n_kept]
        unit = torch.arange(len(order), device=order.device)[:, None]
        return [row[unit, order] for row in rows]

    def _join(self, other: "TopK") -> None:
        ours, theirs = self._rows(), other._rows()
        if self.values.shape[1] < self.n_kept or not other.values.shape[1]:
            self._keep([torch.cat(pair, 1) for pair in zip(ours, theirs, strict=True)])
            return
        # Late in a pass few units see a new best: only those are sorted again.
        best, worst = other.values[:, 0], self.values[:, -1]
        units = (best >= worst if self.largest else best <= worst).nonzero().squeeze(1)
        pairs = zip(ours, theirs, strict=True)
        for our, new in zip(ours, self._best([torch.cat([o[units], t[units]], 1) for o, t in pairs]), strict=True):
            our[units] = new


@dataclass(eq=False, repr=False)
class TopMaps(TopK):
    """The same with the whole map of each value."""

    maps: Float[Tensor, "k top i j"] = field(init=False, default_factory=lambda: torch.zeros(0, 0, 0, 0))

    def update(  # type: ignore[override] - a batch has maps as well
        self,
        values: Float[Tensor, "n k"],
        ids: Int[Tensor, " n"],
        positions: Int[Tensor, "n k"],
        maps: Float[Tensor, "n k i j"],
    ) -> None:
        """As for `TopK`, with the map that each value was read from."""
        reject_nan(values, ids)
        part = self.fresh()
        units = values.shape[1]
        rows = [in_single(values).T, repeat(ids.long(), "n -> k n", k=units), positions.long().T]
        part._keep([*rows, in_single(maps).transpose(0, 1)])
        self.merge(part)


@dataclass(eq=False, repr=False)
class Sample(Counted):
    """`n_kept` images drawn uniformly without replacement, the same ones for every unit.

    Kept are the images whose scrambled id is smallest, so the draw depends on the seed and on the set of
    ids (which must differ from each other), not on their order or on how they are split.
    """

    n_kept: int = 100
    seed: int = 0
    ids: Int[Tensor, " m"] = field(init=False, default_factory=lambda: _whole(0))
    values: Float[Tensor, "m k"] = field(init=False, default_factory=lambda: torch.zeros(0, 0))
    positions: Int[Tensor, "m k"] = field(init=False, default_factory=lambda: _whole(0, 0))

    def __post_init__(self) -> None:
        check_count("n_kept", self.n_kept)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape[1:])

    def update(self, values: Float[Tensor, "n k"], ids: Int[Tensor, " n"], positions: Int[Tensor, "n k"]) -> None:
        """The same batch as for `TopK`."""
        reject_nan(values, ids)
        part = self.fresh()
        part._keep(ids.long(), in_single(values), positions.long())
        self.merge(part)

    def _keep(self, ids: Tensor, values: Tensor, positions: Tensor) -> None:
        first = scramble(ids, self.seed).argsort()[: self.n_kept]
        self.ids, self.values, self.positions = ids[first], values[first], positions[first]

    def _join(self, other: "Sample") -> None:
        pairs = ((self.ids, other.ids), (self.values, other.values), (self.positions, other.positions))
        self._keep(*(torch.cat(pair) for pair in pairs))
