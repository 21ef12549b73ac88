"""What `edit` can do to units: functions from a layer's output `n k i j` to a changed one.

`units` is a list of channel numbers; `mask` limits the change to positions: `i j` or `n i j`, 0…1, 1 = changed.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from glasshouse.core.activations import Edit
from glasshouse.core.errors import BadInput, NothingMatched

Mask = Float[Tensor, "..."]


def ablate(units: Sequence[int], mask: Mask | None = None) -> Edit:
    """Switch units off: their output becomes 0 (Bau et al., "GAN Dissection", ICLR 2019, sec. 3.2)."""
    return insert(units, 0.0, mask)


def insert(units: Sequence[int], value: float | Tensor, mask: Mask | None = None) -> Edit:
    """Set units to `value`: one number, or one per unit (Bau et al., ICLR 2019, sec. 3.2)."""

    def inserted(maps: Tensor) -> Tensor:
        new = torch.as_tensor(value, dtype=maps.dtype, device=maps.device).reshape(-1, 1, 1)
        return blend(maps, units, new.expand(len(units), *maps.shape[2:]), mask)

    return inserted


def scale(units: Sequence[int], factor: float, mask: Mask | None = None) -> Edit:
    """Multiply units by `factor`; 1 changes nothing, 0 ablates."""
    return lambda maps: blend(maps, units, maps[:, list(units)] * factor, mask)


def replace(new: Float[Tensor, "n k i j"]) -> Edit:
    """Put other activations in place of the whole layer, for instance of another image."""

    def replaced(maps: Tensor) -> Tensor:
        if new.shape[1:] != maps.shape[1:] or len(new) not in (1, len(maps)):
            raise BadInput(f"cannot replace activations of shape {tuple(maps.shape)} by {tuple(new.shape)}.")
        return new.to(maps).expand_as(maps)

    return replaced


def paste(new: Float[Tensor, "n k i j"], mask: Mask) -> Edit:
    """Put other activations in place of the layer inside `mask` only."""

    def pasted(maps: Tensor) -> Tensor:
        return blend(maps, range(maps.shape[1]), replace(new)(maps), mask)

    return pasted


def blend(maps: Tensor, units: Sequence[int], new: Tensor, mask: Mask | None) -> Tensor:
    """`mask * new + (1 - mask) * maps` for the given units."""
    rows = list(units)
    if not rows:
        raise NothingMatched("an edit names no unit.", "Give at least one channel number.")
    if min(rows) < 0 or max(rows) >= maps.shape[1]:
        raise BadInput(f"units {min(rows)}…{max(rows)} are not in this layer.", f"It has 0…{maps.shape[1] - 1}.")
    if mask is not None:
        weight = mask.to(maps)
        if weight.shape[-2:] != maps.shape[-2:]:
            raise BadInput(f"mask of {tuple(weight.shape[-2:])} positions on a {tuple(maps.shape[-2:])} grid.")
        if not weight.any():
            raise NothingMatched("the mask of an edit selects no position.")
        weight = weight if weight.ndim == 2 else weight[:, None]
        new = weight * new + (1 - weight) * maps[:, rows]
    changed = maps.clone()
    changed[:, rows] = new.to(maps.dtype)
    return changed
