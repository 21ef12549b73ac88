"""What Net2Vec reads from units: the pixels that a concept is at, or the images that it is in."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.dissect.concepts.fitting import Problem, Readout, Rows
from glasshouse.dissect.masking import blocks, size_of
from glasshouse.dissect.stored import Activations

Part: TypeAlias = Literal["train", "val"]


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
    """Pixels, from maps that are on or off. A concept is trained and scored on the images that contain it.

    Args:
        on: where units are above their thresholds, on the layer's grid.
        numbers: of the concepts.
        there: which images each concept is in.
        rows: the images of both parts.
    """

    activations: Activations
    on: Bool[Tensor, "n k i j"]
    numbers: tuple[int, ...]
    there: Bool[Tensor, "c n"]
    rows: dict[Part, Int[Tensor, " r"]]

    @staticmethod
    def of(
        activations: Activations,
        above: Float[Tensor, " k"],
        numbers: tuple[int, ...],
        there: Bool[Tensor, "c n"],
        rows: dict[Part, Int[Tensor, " r"]],
    ) -> "Segmentation":
        n, *shape = activations.maps.shape
        parts = blocks(torch.arange(n), shape[0] * shape[1] * shape[2])
        on = torch.cat([activations.rows(part) > above[:, None, None] for part in parts])
        return Segmentation(activations, on, numbers, there, rows)

    @property
    def size(self) -> tuple[int, int]:
        return size_of(self.activations)

    def problem(self) -> Problem:
        rows, area = self.rows["train"], self.size[0] * self.size[1]
        activations, there = self.activations, self.there[:, self.rows["train"]]
        numbers = torch.tensor(self.numbers, dtype=activations.planes.dtype)

        def features(chosen: Rows) -> Float[Tensor, "c r k i j"]:
            return self.on.index_select(0, rows[chosen].flatten()).float().unflatten(0, tuple(chosen.shape))

        def targets(chosen: Rows, concepts: Int[Tensor, " c"]) -> Bool[Tensor, "c r a b"]:
            images, wanted = rows[chosen].flatten(), numbers[concepts][:, None, None]
            planes, whole = (
                tensor.index_select(0, images).unflatten(0, tuple(chosen.shape))
                for tensor in (activations.planes, activations.whole)
            )
            return (planes == wanted[..., None, None]).any(2) | (whole == wanted).any(2)[:, :, None, None]

        covered = torch.zeros(len(numbers), dtype=torch.int64)
        for part in blocks(rows, len(numbers) * area):
            covered += activations.concepts(self.numbers, part).sum((0, 2, 3))
        share = covered / (there.sum(1) * area)
        weight = torch.stack([1 - share, share], 1)
        weight[share == 1] = 1
        return Problem(features, targets, there, balanced=False, weight=weight, intercept=False)

    def scores(self, readout: Readout, part: Part) -> Float[Tensor, "s c"]:
        """IoU of every readout with its concept."""
        s, c, _ = readout.weights.shape
        together = Readout(*(rearrange(tensor, "s c ... -> (s c) 1 ...") for tensor in (readout.weights, readout.bias)))
        shared, either = (torch.zeros(s, c, dtype=torch.int64) for _ in range(2))
        for rows in blocks(self.rows[part], s * c * self.size[0] * self.size[1]):
            concept = rearrange(self.activations.concepts(self.numbers, rows), "r c a b -> c r a b")
            logits = together(self.on[rows][None].float(), self.size).view(s, c, len(rows), *self.size)
            marked = (logits > 0) & self.there[:, rows, None, None]
            shared += (marked & concept).sum((2, 3, 4))
            either += (marked | concept).sum((2, 3, 4))
        return shared / either

    def best(self) -> tuple[Int[Tensor, " c"], Float[Tensor, " c"]]:
        """The unit with the largest IoU in the training images, and its IoU in the others."""
        best = self.singles("train").argmax(0)
        return best, self.singles("val").gather(0, best[None])[0]

    def singles(self, part: Part) -> Float[Tensor, "k c"]:
        """IoU of each unit with each concept. A unit marks what a readout of it alone would."""
        k, c = self.on.shape[1], len(self.numbers)
        alone = Readout(torch.eye(k)[:, None], torch.zeros(k, 1))
        shared, either = (torch.zeros(k, c, dtype=torch.float64) for _ in range(2))
        for rows in blocks(self.rows[part], (k + c) * self.size[0] * self.size[1]):
            marked = (alone(self.on[rows][None].float(), self.size)[:, 0] > 0).flatten(2).float()
            concept = self.activations.concepts(self.numbers, rows).flatten(2).float()
            both = einsum(marked, concept, "k r p, r c p -> k c")
            shared += both
            either += marked.sum(2) @ self.there[:, rows].T.float() + concept.sum((0, 2)) - both
        return (shared / either).float()


@dataclass(frozen=True, eq=False, repr=False)
class Classification:
    """Images, from the mean of each map. All scores are balanced accuracies."""

    mean: Float[Tensor, "n k"]
    there: Bool[Tensor, "c n"]
    rows: dict[Part, Int[Tensor, " r"]]

    @staticmethod
    def of(
        activations: Activations, there: Bool[Tensor, "c n"], rows: dict[Part, Int[Tensor, " r"]]
    ) -> "Classification":
        n, *shape = activations.maps.shape
        parts = blocks(torch.arange(n), shape[0] * shape[1] * shape[2])
        return Classification(torch.cat([activations.rows(part).mean((2, 3)) for part in parts]), there, rows)

    def problem(self) -> Problem:
        mean, there = self.mean[self.rows["train"]], self.there[:, self.rows["train"]]

        def features(chosen: Rows) -> Float[Tensor, "c r k 1 1"]:
            return mean[chosen][..., None, None]

        def targets(chosen: Rows, concepts: Int[Tensor, " c"]) -> Bool[Tensor, "c r 1 1"]:
            return there[concepts].gather(1, chosen)[..., None, None]

        return Problem(features, targets, there, balanced=True, weight=torch.ones(len(there), 2), intercept=True)

    def scores(self, readout: Readout, part: Part) -> Float[Tensor, "s c"]:
        rows = self.rows[part]
        logits = einsum(readout.weights, self.mean[rows], "s c k, n k -> s c n") + readout.bias[..., None]
        return balanced_accuracy(logits > 0, self.there[:, rows])

    def best(self) -> tuple[Int[Tensor, " c"], Float[Tensor, " c"]]:
        """The unit with the best cut in the training images, and how right that cut is in the others."""
        train, val = self.rows["train"], self.rows["val"]
        found = [best_cut(self.mean[train], there[train]) for there in self.there]
        best = torch.stack([accuracy.argmax() for accuracy, _, _ in found])
        said = torch.stack(
            [
                (self.mean[val, unit] > cut[unit]) == above[unit]
                for unit, (_, cut, above) in zip(best, found, strict=True)
            ]
        )
        return best, balanced_accuracy(said[None], self.there[:, val])[0]


def balanced_accuracy(said: Bool[Tensor, "s c n"], there: Bool[Tensor, "c n"]) -> Float[Tensor, "s c"]:
    """The mean of the shares that are right where a concept is there, and where it is not."""
    inside, outside = (said & there).sum(2) / there.sum(1), (~said & ~there).sum(2) / (~there).sum(1)
    return (inside + outside) / 2


def best_cut(
    values: Float[Tensor, "n k"], there: Bool[Tensor, " n"]
) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"], Bool[Tensor, " k"]]:
    """Of each column the balanced accuracy of its best threshold, that threshold, and whether `there` is above it."""
    ordered, order = values.sort(dim=0)
    inside, n_inside = there[order].double(), int(there.sum())
    lead = (1 - inside).cumsum(0) / (len(there) - n_inside) - inside.cumsum(0) / n_inside
    lead[:-1] = torch.where(ordered[1:] == ordered[:-1], 0.0, lead[:-1])  # no cut parts equal values
    at = lead.abs().argmax(0)
    most = lead.gather(0, at[None])[0]
    around = torch.stack([at, (at + 1).clamp(max=len(values) - 1)])
    return ((1 + most.abs()) / 2).float(), ordered.gather(0, around).mean(0), most >= 0
