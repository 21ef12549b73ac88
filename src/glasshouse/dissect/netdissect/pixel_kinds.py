"""Pixels of one kind carry the same labels. What formulas of labels say of a data set, its kinds of pixels say."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.dissect.masking import blocks, size_of, unit_masks
from glasshouse.dissect.stored import Activations

OPERATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "OR": torch.bitwise_or,
    "AND": torch.bitwise_and,
    "AND NOT": lambda before, concept: before & ~concept,
}
AT_ONCE = 2**22  # pixels of masks computed together


@dataclass(frozen=True, eq=False, repr=False)
class PixelKinds:
    """All pixels of a data set, by what is marked there.

    Args:
        marked: which of c concepts the pixels of each kind carry.
        count: how many pixels are of the kind.
        hits: how many of these each unit marks.
    """

    marked: Bool[Tensor, "s c"]
    count: Int[Tensor, " s"]
    hits: Int[Tensor, "u s"]

    def join(self, other: "PixelKinds") -> "PixelKinds":
        """The pixels of both, exactly."""
        marked, kind = _kinds(torch.cat([self.marked, other.marked]))
        count = self.count.new_zeros(len(marked)).index_add_(0, kind, torch.cat([self.count, other.count]))
        hits = self.hits.new_zeros(len(self.hits), len(marked))
        return PixelKinds(marked, count, hits.index_add_(1, kind, torch.cat([self.hits, other.hits], 1)))

    def sums(self, weight: Float[Tensor, "w s"], masks: Bool[Tensor, "b s"]) -> Float[Tensor, "w b c"]:
        """The weight of all pixels that are both in a mask and in a concept."""
        n_masks, n_kinds = masks.shape
        total = weight.new_zeros(len(weight) * n_masks, self.marked.shape[1])
        for part in blocks(torch.arange(n_kinds), n_masks + self.marked.shape[1], AT_ONCE):
            total += (weight[:, None, part] * masks[:, part]).flatten(0, 1) @ self.marked[part].to(weight)
        return total.unflatten(0, (len(weight), n_masks))

    def where(self, formula: Sequence[tuple[int, int]]) -> Bool[Tensor, " s"]:
        """The kinds for which a formula of (operator, concept) pairs, read from left to right, is true."""
        return evaluate(formula, self.marked.T)

    def iou(self, unit: int, formula: Sequence[tuple[int, int]]) -> float:
        """Of the pixels that a unit marks with those for which a formula is true."""
        true, hits = self.where(formula), self.hits[unit]
        shared = int(hits[true].sum())
        return shared / max(int(hits.sum() + self.count[true].sum()) - shared, 1)


def evaluate(formula: Sequence[tuple[int, int]], concepts: Bool[Tensor, "c *p"]) -> Bool[Tensor, "*p"]:
    """Where a formula is true. It begins with nothing, to which the first concept is joined by OR."""
    operators = list(OPERATORS.values())
    true = torch.zeros_like(concepts[0])
    for operator, concept in formula:
        true = operators[operator](true, concepts[concept])
    return true


def pixel_kinds(activations: Activations, above: Float[Tensor, " u"], numbers: Sequence[int]) -> PixelKinds:
    """Count the pixels of all images, some images at a time."""
    room = (len(above) + len(numbers)) * size_of(activations)[0] * size_of(activations)[1]
    rows = blocks(torch.arange(len(activations)), room, AT_ONCE)
    return reduce(PixelKinds.join, (_counted(activations, above, numbers, part) for part in rows))


def _counted(
    activations: Activations, above: Float[Tensor, " u"], numbers: Sequence[int], rows: Int[Tensor, " r"]
) -> PixelKinds:
    marked, kind = _kinds(rearrange(activations.concepts(numbers, rows), "r c a b -> (r a b) c"))
    on = rearrange(unit_masks(activations, above, rows), "r u a b -> u (r a b)")
    unit, pixel = on.nonzero(as_tuple=True)
    hits = torch.bincount(unit * len(marked) + kind[pixel], minlength=len(above) * len(marked))
    return PixelKinds(marked, torch.bincount(kind, minlength=len(marked)), hits.view(len(above), len(marked)))


def _kinds(marked: Bool[Tensor, "p c"]) -> tuple[Bool[Tensor, "s c"], Int[Tensor, " p"]]:
    """The rows that differ, in a fixed order, and which of them each row is."""
    code = np.ascontiguousarray(np.packbits(marked.numpy(), axis=1))
    whole: Any = code.view(np.dtype((np.void, code.shape[1])))[:, 0]
    _, first, kind = np.unique(whole, return_index=True, return_inverse=True)
    return marked[torch.from_numpy(first)], torch.from_numpy(kind)
