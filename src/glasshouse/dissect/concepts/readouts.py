"""What Net2Vec gives: a vector in the space of units for each concept."""

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.core import BadInput, Noun
from glasshouse.core.errors import not_found
from glasshouse.core.labelled import Label
from glasshouse.dissect.concepts.fitting import Readout
from glasshouse.dissect.masking import size_of
from glasshouse.dissect.stored import Activations

Task: TypeAlias = Literal["segmentation", "classification"]


@dataclass(frozen=True, repr=False)
class Net2Vec(Noun):
    """How c concepts are read from u units. `result["tree"]` is the vector of a concept, of length 1.

    Args:
        weights, bias: of the readouts of all units, as they were trained.
        thresholds: activation above which each unit is on.
        score: of the readout on images that were not trained on: IoU, or balanced accuracy.
        train_score: the same on images that were.
        best: number of the unit that reads the concept best in the training images.
        single: its score on the others.
        subsets: numbers of units that `curves` were made with.
        curves: score of readouts of the units with the largest weights, trained anew.
        n_images: images that contain the concept, trained on and others.
    """

    layer: str
    units: Int[Tensor, " u"]
    labels: tuple[Label, ...]
    task: Task
    weights: Float[Tensor, "c u"]
    bias: Float[Tensor, " c"]
    thresholds: Float[Tensor, " u"]
    score: Float[Tensor, " c"]
    train_score: Float[Tensor, " c"]
    best: Int[Tensor, " c"]
    single: Float[Tensor, " c"]
    subsets: tuple[int, ...]
    curves: Float[Tensor, "c f"]
    n_images: Int[Tensor, "c 2"]
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        unit = {"segmentation": "IoU", "classification": "balanced accuracy"}[self.task]
        means = f"mean {unit} {self.single.mean():.3f} from one unit, {self.score.mean():.3f} from all"
        return f"Net2Vec({self.layer}, {len(self.labels)} concepts × {len(self.units)} units, {means})"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, name: str) -> Float[Tensor, " u"]:
        return self.vectors[self.row(name)]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the concepts, in the order of all tables."""
        return tuple(label.name for label in self.labels)

    def row(self, name: str) -> int:
        """The row of a concept in all tables; of several with one name, the first."""
        if name not in self.names:
            raise not_found("concept", name, self.names)
        return self.names.index(name)

    @property
    def vectors(self) -> Float[Tensor, "c u"]:
        """Weights scaled to length 1, which have no bias."""
        return F.normalize(self.weights, dim=1)

    @property
    def cosines(self) -> Float[Tensor, "c c"]:
        """Likeness of the vectors of each two concepts, -1 to 1."""
        return self.vectors @ self.vectors.T

    def nearest(
        self, to: str | Float[Tensor, " u"], n: int = 5, *, without: tuple[str, ...] = ()
    ) -> tuple[tuple[str, float], ...]:
        """The concepts whose vectors point most nearly the same way, with their cosines.

            result.nearest(result["grass"] + result["blue-c"] - result["green-c"])

        Args:
            to: a concept, which is then left out, or any vector.
            without: names to leave out, for instance of the terms of a sum.
        """
        vector, left_out = (self[to], {to, *without}) if isinstance(to, str) else (to, set(without))
        cosine = self.vectors @ F.normalize(vector, dim=0)
        order = cosine.argsort(descending=True).tolist()
        return tuple((self.names[row], float(cosine[row])) for row in order if self.names[row] not in left_out)[:n]

    def needed(self, share: float = 0.95) -> Int[Tensor, " c"]:
        """For each concept, the fewest units among `subsets` that reach this share of the score of all of them.

        Where none does, it is the number of all units.
        """
        if not self.subsets:
            raise BadInput("no subsets of units were tried.", "Call net2vec with subsets=[1, 2, 3, 5, 10, 20, 40, 80].")
        sizes = torch.tensor([*self.subsets, len(self.units)])
        reached = torch.cat([self.curves, self.score[:, None]], 1) >= share * self.score[:, None]
        return torch.where(reached, sizes, len(self.units)).amin(1)

    def n_best(self) -> Int[Tensor, " u"]:
        """For how many concepts each unit is the best."""
        return (self.units[:, None] == self.best).sum(1)

    def n_among(self, n: int = 10) -> Int[Tensor, " u"]:
        """For how many concepts each unit is among the n with the largest weights, whatever their sign."""
        strongest = self.weights.abs().topk(min(n, len(self.units)), 1).indices
        return torch.bincount(strongest.flatten(), minlength=len(self.units))

    def masks(self, activations: Activations, name: str, rows: Int[Tensor, " r"]) -> Bool[Tensor, "r a b"]:
        """Where the readout of all units sees a concept, at the resolution of the label maps."""
        if self.task != "segmentation":
            raise BadInput("readouts of whole images have no masks.", "Use task='segmentation'.")
        if not torch.equal(activations.units, self.units):
            raise BadInput("these are activations of other units than those that were learnt from.")
        row = self.row(name)
        on = (activations.rows(rows) > self.thresholds[:, None, None]).float()
        readout = Readout(self.weights[None, row : row + 1], self.bias[None, row : row + 1])
        return readout(on[None], size_of(activations))[0, 0] > 0
