"""Sparse codes: which few atoms of a dictionary make up an activation, and how strong each is."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from glasshouse.core import BadInput, Model, Noun, Units, ablate, borrow, edit
from glasshouse.core.activations import Edit
from glasshouse.core.lift import checked_images
from glasshouse.core.target import logits
from glasshouse.dissect.groups.matching import match
from glasshouse.dissect.stored import Activations

Kind: TypeAlias = Literal["top_k", "batch_top_k", "jump_relu", "relu_l1"]
BLOCK = 2**22  # codes computed together


@dataclass(frozen=True, eq=False, repr=False)
class SparseDictionary(Noun):
    """Directions (a atoms) in a layer of u units, of which a few at a time add up to its activation.

        z = f(W (x - b) + c),   x ≈ z D + b

    where f is the kind's: it keeps the k largest, or those above a threshold, and never a negative one.

    Args:
        encoder, offset: W and c.
        decoder: D; atoms of length 1.
        bias: b, what is there without any atom.
        threshold: below which an atom is 0; 0 for "top_k", which has none.
        rate: share of positions at which each atom is active.
        l0: mean number of atoms active at a position.
        r2: share of the variance of activations that they explain. All three were measured on the data of the
            training, or on what `measured` was given.
        loss: of every step.
    """

    layer: str
    units: Int[Tensor, " u"]
    kind: Kind
    k: int
    encoder: Float[Tensor, "a u"]
    offset: Float[Tensor, " a"]
    decoder: Float[Tensor, "a u"]
    bias: Float[Tensor, " u"]
    threshold: Float[Tensor, " a"]
    rate: Float[Tensor, " a"]
    l0: float
    r2: float
    loss: Float[Tensor, " t"]
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        a, u = self.decoder.shape
        at = f"{self.layer}, " if self.layer else ""
        numbers = f"{self.l0:.3g} active, R² {self.r2:.3f}, {int(self.dead.sum())} dead"
        return f"SparseDictionary({at}{self.kind}, {a} atoms of {u} units, {numbers})"

    @property
    def dead(self) -> Bool[Tensor, " a"]:
        """Atoms that are active at no position of the data."""
        return self.rate == 0

    def encode(self, maps: Units) -> Float[Tensor, "n a i j"]:
        """How strong each atom is at every position."""
        codes = self.codes(rearrange(maps, "n u i j -> (n i j) u"))
        return rearrange(codes, "(n i j) a -> n a i j", i=maps.shape[2], j=maps.shape[3])

    def decode(self, codes: Float[Tensor, "n a i j"]) -> Float[Tensor, "n u i j"]:
        """The activation that atoms of this strength add up to."""
        return torch.einsum("naij,au->nuij", codes, self.decoder.to(codes)) + self.bias.to(codes)[:, None, None]

    def rebuilt(self, maps: Units) -> Units:
        """Maps as far as the dictionary explains them: an edit that puts it in the layer's place.

        with edit(model, {dictionary.layer: dictionary.rebuilt}):
            model(images)
        """
        return self.decode(self.encode(maps))

    def codes(self, rows: Float[Tensor, "p u"]) -> Float[Tensor, "p a"]:
        """Codes of activations at single positions."""
        weights = (part.to(rows) for part in (self.bias, self.encoder, self.offset, self.threshold))
        bias, encoder, offset, threshold = weights
        before = F.linear(rows - bias, encoder, offset).relu()
        if self.kind == "top_k":
            return largest(before, self.k)
        return before * (before > threshold)

    def apply(self, activations: Activations, *, into: Path | None = None) -> Activations:
        """Codes in the form of activations, with atoms for units: whatever analyses units analyses atoms.

        Args:
            into: file for the codes, which take n · a · i · j numbers of 4 bytes; None keeps them in memory.
        """
        self._check(activations.maps.shape[1])
        n, _, i, j = activations.maps.shape
        shape = (n, len(self.decoder), i, j)
        kept = np.zeros(shape, "float32")
        if into is not None:
            into.parent.mkdir(parents=True, exist_ok=True)
            kept = np.lib.format.open_memmap(into, mode="w+", dtype="float32", shape=shape)
        for rows in _blocks(n, len(self.decoder) * i * j):
            kept[rows] = self.encode(activations.rows(rows)).numpy()
        layer, atoms = f"{self.layer}:dictionary", torch.arange(len(self.decoder))
        return replace(activations, layer=layer, units=atoms, maps=torch.from_numpy(kept))

    def measured(self, activations: Activations | Units) -> "SparseDictionary":
        """The same dictionary with rate, l0 and r2 on other activations, such as held-out ones."""
        maps = activations.maps if isinstance(activations, Activations) else activations
        self._check(maps.shape[1])
        n, u, i, j = maps.shape
        fired, squares = torch.zeros(len(self.decoder), dtype=torch.int64), 0.0
        total, power = torch.zeros(u, dtype=torch.float64), torch.zeros(u, dtype=torch.float64)
        for rows in _blocks(n, len(self.decoder) * i * j):
            flat = rearrange(maps[rows].float(), "n u i j -> (n i j) u")
            codes = self.codes(flat)
            rest = flat - codes @ self.decoder.to(flat) - self.bias.to(flat)
            fired += (codes > 0).sum(0).cpu()
            squares += float(rest.square().sum(dtype=torch.float64))
            middle = flat - self.bias.to(flat)  # about the bias, so that little cancels
            total += middle.sum(0, dtype=torch.float64).cpu()
            power += middle.square().sum(0, dtype=torch.float64).cpu()
        count = n * i * j
        spread = float((power - total.square() / count).sum())
        rate = fired.double() / count
        r2 = 1 - squares / spread if spread > 0 else float("nan")
        return replace(self, rate=rate.float(), l0=float(rate.sum()), r2=r2)

    def stability(self, other: "SparseDictionary") -> Float[Tensor, " a"]:
        """For each atom the cosine with its partner in another dictionary, such as one of another seed.

        Partners are chosen one to one so that all cosines together are largest (Kuhn, 1955). Atoms without a partner,
        where the other has fewer, get 0. Values near 1 say that the data fix the atom, not the seed.
        """
        if self.decoder.shape[1] != other.decoder.shape[1]:
            raise BadInput(f"atoms of {self.decoder.shape[1]} and of {other.decoder.shape[1]} units do not compare.")
        cosines = self.decoder @ other.decoder.to(self.decoder).T
        mine, theirs = match(cosines)
        found = cosines.new_zeros(len(cosines))
        found[mine] = cosines[mine, theirs]
        return found

    def loss_recovered(
        self,
        model: Model | nn.Module,
        inputs: Float[Tensor, "n c h w"],
        targets: Int[Tensor, " n"],
        batch_size: int = 32,
    ) -> float:
        """How much of what the layer is worth to the model is left when the dictionary stands in for it.

            (H_zero - H_dictionary) / (H_zero - H)

        with the cross entropy H of the model as it is, with the layer set to 0, and with the layer rebuilt.
        """
        images = checked_images(inputs)
        ways: dict[str, dict[str, Edit]] = {
            "as it is": {},
            "zero": {self.layer: ablate(range(len(self.units)))},
            "rebuilt": {self.layer: self.rebuilt},
        }
        entropy = dict.fromkeys(ways, 0.0)
        with borrow(model, images[:1], [self.layer]) as network, torch.no_grad():
            for start in range(0, len(images), batch_size):
                rows = slice(start, start + batch_size)
                for name, edits in ways.items():
                    with edit(network, edits):
                        scores = logits(network(images[rows]))
                    entropy[name] += float(F.cross_entropy(scores, targets[rows].to(scores.device), reduction="sum"))
        lost = entropy["zero"] - entropy["as it is"]
        return (entropy["zero"] - entropy["rebuilt"]) / lost if lost else float("nan")

    def _check(self, n_units: int) -> None:
        if n_units != len(self.units):
            raise BadInput(
                f"these activations have {n_units} units, the dictionary was made for {len(self.units)}.",
                f"Store the same units of '{self.layer}'.",
            )


def largest(values: Float[Tensor, "p a"], k: int) -> Float[Tensor, "p a"]:
    """The k largest of each row, 0 elsewhere."""
    top = values.topk(k, 1)
    return torch.zeros_like(values).scatter(1, top.indices, top.values)


def _blocks(n: int, each: int) -> list[slice]:
    at_once = max(1, BLOCK // each)
    return [slice(first, min(first + at_once, n)) for first in range(0, n, at_once)]
