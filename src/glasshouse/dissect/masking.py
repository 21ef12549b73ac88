"""Stored activations as masks: a unit is on where it is above the threshold that it rarely exceeds."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.core import resize
from glasshouse.core.stats import UpperTail
from glasshouse.dissect.stored import Activations

AT_ONCE = 2**24  # values computed together


def blocks(rows: Int[Tensor, " r"], n_values: int, at_once: int = AT_ONCE) -> Iterator[Int[Tensor, " b"]]:
    """The rows in parts, so small that no more than `at_once` values, `n_values` for each row, are held together."""
    yield from rows.split(max(1, at_once // max(1, n_values)))


def thresholds(activations: Activations, level: float, rows: Int[Tensor, " r"] | None = None) -> Float[Tensor, " u"]:
    """What the share `level` of a unit's activations, over all positions of these images, lie below. Exact."""
    n, *shape = activations.maps.shape
    chosen = torch.arange(n) if rows is None else rows
    tail = UpperTail(level, len(chosen) * shape[1] * shape[2])
    for part in blocks(chosen, shape[0] * shape[1] * shape[2]):
        tail.update(activations.rows(part))
    return tail.at(level)


def unit_masks(
    activations: Activations, above: Float[Tensor, " u"], rows: Int[Tensor, " r"]
) -> Bool[Tensor, "r u a b"]:
    """Where each unit's map, enlarged bilinearly to the resolution of the label maps, is above its threshold."""
    return resize(activations.rows(rows), size_of(activations)) > above[:, None, None]


def size_of(activations: Activations) -> tuple[int, int]:
    """Rows and columns of the label maps."""
    return activations.planes.shape[2], activations.planes.shape[3]
