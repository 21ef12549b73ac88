"""Concepts as directions in a layer: one linear classifier for each, learnt together on stored activations."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.core import BadInput, Noun, generator, registered
from glasshouse.core.labelled import Label, find_labels
from glasshouse.dissect.concepts.classifiers import Solver, apply, balanced_accuracy, fit, principal, ranking
from glasshouse.dissect.stored import Activations

Pooling: TypeAlias = Literal["positions", "mean", "flat"]

FEWEST = 10  # positives, below which there is no classifier
BLOCK = 128  # images read at once


@dataclass(frozen=True, eq=False, repr=False)
class ConceptVectors(Noun):
    """The direction of each of c concepts in a layer, and how well it tells the concept apart where it was not learnt.

    Args:
        concepts: what they are; concepts given as lists of images are numbered from 1.
        pooling: what one sample is: a position, an image averaged over positions, or all positions of an image.
        vectors: of length 1, from "without" to "with" the concept; d is the number of units, times that of positions
            where these are flattened.
        bias, length: the classifier says "yes" where `length · (vector · x) + bias` is above 0.
        pattern: mean activation with the concept minus without it, which is `cov(x, t) / var(t)` for the label t: what
            the concept looks like in the layer, where the vector is how best to read it.
        accuracy: mean of the shares of held-out positives and negatives told right; 0.5 is chance.
        auc: area under the ROC curve on what was held out; 0.5 is chance.
        average_precision: likewise; chance is `share`, that of the positives.
        positives, negatives: numbers of samples learnt from.
        dropped: names of concepts with too few samples.
    """

    layer: str
    units: Int[Tensor, " u"]
    grid: tuple[int, int]
    concepts: tuple[Label, ...]
    pooling: Pooling
    solver: Solver
    vectors: Float[Tensor, "c d"]
    length: Float[Tensor, " c"]
    bias: Float[Tensor, " c"]
    pattern: Float[Tensor, "c d"]
    accuracy: Float[Tensor, " c"]
    auc: Float[Tensor, " c"]
    average_precision: Float[Tensor, " c"]
    share: Float[Tensor, " c"]
    positives: Int[Tensor, " c"]
    negatives: Int[Tensor, " c"]
    dropped: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        told = f"accuracy {float(self.accuracy.nanmean()):.2f}"
        dropped = f", {len(self.dropped)} dropped" if self.dropped else ""
        return f"ConceptVectors({self.layer}, {len(self)} concepts by {self.solver}, {told}{dropped})"

    def __len__(self) -> int:
        return len(self.concepts)

    def __getitem__(self, concept: str | int) -> Float[Tensor, " d"]:
        """The vector of a concept, by name or number."""
        return self.vectors[self._row(concept)]

    def scores(self, activations: Activations, concept: str | int) -> Float[Tensor, "n *grid"]:
        """Component of every sample along a concept's vector: `n i j` for positions, else one number per image."""
        vector, parts = self[concept], list[Tensor]()
        for rows in blocks(len(activations)):
            maps = self._fitting(activations).rows(rows)
            parts.append(
                torch.einsum("nuij,u->nij", maps, vector)
                if self.pooling == "positions"
                else pooled(maps, self.pooling) @ vector
            )
        return torch.cat(parts)

    def ranked(self, activations: Activations, concept: str | int) -> Int[Tensor, " n"]:
        """All images, the one that points most along a concept's vector first (by the cosine, over the whole image)."""
        whole: Pooling = "flat" if self.pooling == "flat" else "mean"
        cosines = [
            torch.cosine_similarity(pooled(self._fitting(activations).rows(rows), whole), self[concept][None])
            for rows in blocks(len(activations))
        ]
        return torch.cat(cosines).argsort(descending=True, stable=True)

    def similarity(self) -> Float[Tensor, "c c"]:
        """Cosines between the vectors."""
        return self.vectors @ self.vectors.T

    def _row(self, concept: str | int) -> int:
        (label,) = find_labels(self.concepts, [concept])
        return [known.number for known in self.concepts].index(label.number)

    def _fitting(self, activations: Activations) -> Activations:
        flat = self.pooling == "flat" and tuple(activations.maps.shape[2:]) != self.grid
        if activations.layer != self.layer or not torch.equal(activations.units, self.units) or flat:
            raise BadInput(
                f"{activations!r} are not what these vectors were learnt on: {len(self.units)} units of {self.layer}.",
                "Store the same units of the same layer.",
            )
        return activations


@dataclass(frozen=True)
class Samples:
    """What concepts are learnt from.

    Args:
        x: one row per sample.
        image: which image each sample is from.
        positive, known: which samples have each concept, and which count for it at all.
    """

    x: Float[Tensor, "n d"]
    image: Int[Tensor, " n"]
    positive: Bool[Tensor, "c n"]
    known: Bool[Tensor, "c n"]


@registered("dissect", paper="Kim et al., ICML 2018")
def concept_vectors(
    activations: Activations,
    concepts: Sequence[str | int] | None = None,
    *,
    positives: Mapping[str, Sequence[int]] | None = None,
    negatives: Literal["rest", "concepts"] | Sequence[int] = "rest",
    pooling: Pooling = "positions",
    solver: Solver = "logistic",
    l2: float | int = 1e-3,
    holdout: float = 1 / 3,
    n_samples: int = 50_000,
    seed: int = 0,
) -> ConceptVectors:
    """The direction in a layer along which a concept lies: the normal of a linear classifier with and without it.

        v = w / |w|,   w = argmin 1/2 mean_with loss(w·x + b) + 1/2 mean_without loss(-w·x - b) + l2/2 |w|²

    Kim et al., "Interpretability beyond feature attribution: quantitative testing with concept activation vectors
    (TCAV)", ICML 2018, §3.2, where samples are images (`pooling="flat"`). On positions, with label maps, they are the
    concept classifiers of Zhou et al., "Interpretable basis decomposition for visual explanation", ECCV 2018, §3.1.
    The pattern is that of Pahde et al., "Navigating neural space", 2022.

    An image is held out with all its positions. Positions have a concept if the label at the middle of their cell is
    it; images, if one of their positions has.

    Differs: both sides weigh the same whatever their numbers, negatives are not mined, and the optimum is computed to
    rounding rather than approached by stochastic gradients.

    Args:
        concepts: names or numbers of labels; None takes all that have at least 10 positive samples.
        positives: concepts as lists of images (row numbers of `activations`) instead, such as the images of a class.
        negatives: samples without the concept: all the rest, those that have another one of the concepts (relative
            vectors, Kim et al., §3.6), or the rest of these images.
        solver: "svm" is the reference's kind (squared hinge); "ridge" gives the direction of a regularised linear
            discriminant; "mean_difference" that of FastCAV (Schmalwasser et al., ICML 2025).
        l2: for samples scaled to a mean squared length of 1.
        holdout: share of images that nothing is learnt from.
        n_samples: of more, a sample is taken: half of it uniformly, half shared out among the concepts.
        seed: of the held-out images, and of the sample.
    """
    if not 0 < holdout < 1:
        raise BadInput(f"holdout {holdout} is not between 0 and 1.", "A third is usual.")
    labels, rows = listed(activations, concepts, positives)
    random = generator(seed)
    held_images = torch.rand(len(activations), generator=random).argsort() < round(holdout * len(activations))
    samples = gathered(activations, labels, rows, pooling, n_samples, random)
    samples = without(samples, negatives)
    held = held_images[samples.image]
    with_it, without_it = samples.positive & samples.known, ~samples.positive & samples.known
    kept = torch.ones(len(labels), dtype=torch.bool)
    for side in (with_it, without_it):
        kept &= (side.sum(1) >= FEWEST) & (side & ~held).any(1)
    dropped = tuple(label.name for label, good in zip(labels, kept.tolist(), strict=True) if not good)
    if not kept.any():
        raise BadInput(
            f"none of {len(labels)} concepts has {FEWEST} samples with it and as many without it.",
            "Use more images, or pooling='positions'.",
        )
    samples = Samples(samples.x, samples.image, samples.positive[kept], samples.known[kept])
    used, tested = samples.known & ~held, samples.known & held
    w, bias = learn(samples.x, samples.positive, used, solver, l2)
    difference, _ = learn(samples.x, samples.positive, used, "mean_difference", l2)
    length = w.norm(dim=1)
    if not (length > 0).all():
        raise BadInput(f"layer '{activations.layer}' gives the same for all samples: nothing tells them apart.")
    score = apply(samples.x[None].double(), w) + bias[:, None]
    ranks = [ranking(score[c, mask], samples.positive[c, mask]) for c, mask in enumerate(tested)]
    chosen = tuple(label for label, good in zip(labels, kept.tolist(), strict=True) if good)
    return ConceptVectors(
        activations.layer,
        activations.units,
        (activations.maps.shape[2], activations.maps.shape[3]),
        chosen,
        pooling,
        solver,
        vectors=(w / length[:, None]).float(),
        length=length.float(),
        bias=bias.float(),
        pattern=difference.float(),
        accuracy=balanced_accuracy(score, samples.positive, tested).float(),
        auc=torch.tensor([auc for auc, _ in ranks]),
        average_precision=torch.tensor([precision for _, precision in ranks]),
        share=(tested & samples.positive).sum(1) / tested.sum(1),
        positives=(used & samples.positive).sum(1),
        negatives=(used & ~samples.positive).sum(1),
        dropped=dropped,
        settings={"l2": l2, "holdout": holdout, "n_samples": n_samples, "seed": seed},
    )


def learn(
    x: Float[Tensor, "n d"], positive: Bool[Tensor, "c n"], used: Bool[Tensor, "c n"], solver: Solver, l2: float | int
) -> tuple[Float[Tensor, "c d"], Float[Tensor, " c"]]:
    """`fit` for samples that all concepts share, on their principal axes."""
    axes, back = principal(x)
    w, bias = fit(axes[None], positive, used, solver, l2)
    w = w @ back
    return w, bias - w @ x.double().mean(0)


def listed(
    activations: Activations, concepts: Sequence[str | int] | None, positives: Mapping[str, Sequence[int]] | None
) -> tuple[tuple[Label, ...], list[Int[Tensor, " r"]] | None]:
    """The concepts, and the images of each where these were listed."""
    if positives is None:
        if not activations.labels:
            raise BadInput("the images have no label maps.", "Say which images show each concept: positives={…}.")
        return find_labels(activations.labels, concepts), None
    if concepts is not None:
        raise BadInput("concepts are given twice, as labels and as images.", "Leave one of them out.")
    n, rows = len(activations), [torch.tensor(list(wanted)).long() for wanted in positives.values()]
    for name, wanted in zip(positives, rows, strict=True):
        if not len(wanted) or not ((wanted >= 0) & (wanted < n)).all():
            raise BadInput(f"the images of '{name}' are not among the {n}.", "Give row numbers, from 0.")
    labels = tuple(Label(number, name, "images", len(rows[number - 1])) for number, name in enumerate(positives, 1))
    return labels, rows


def gathered(
    activations: Activations,
    labels: Sequence[Label],
    rows: list[Tensor] | None,
    pooling: Pooling,
    n_samples: int,
    random: torch.Generator,
) -> Samples:
    """The samples: all there are, or a part in which rare concepts keep their share."""
    per_image = activations.maps.shape[2:].numel() if pooling == "positions" else 1
    key = torch.rand(len(activations) * per_image, generator=random)
    wanted = torch.arange(len(key))
    if len(key) > n_samples:
        kept = [key.topk(n_samples // 2, largest=False).indices]
        each, best = max(1, n_samples // (2 * len(labels))), torch.full((len(labels), 0), torch.inf)
        place = best.long()
        for block in blocks(len(activations)):
            marks = marked(activations, labels, rows, per_image, block)
            ids = torch.arange(block.start * per_image, block.start * per_image + marks.shape[1])
            best = torch.cat([best, torch.where(marks, key[ids], torch.inf)], 1)
            best, order = best.topk(min(each, best.shape[1]), largest=False)
            place = torch.cat([place, ids.expand(len(labels), -1)], 1).gather(1, order)
        wanted = torch.cat([*kept, place[best.isfinite()]]).unique()
    x, positive = list[Tensor](), list[Tensor]()
    for block in blocks(len(activations)):
        inside = wanted[(wanted >= block.start * per_image) & (wanted < block.stop * per_image)]
        inside = inside - block.start * per_image
        maps = activations.rows(block)
        flat = maps.flatten(2).transpose(1, 2).flatten(0, 1) if pooling == "positions" else pooled(maps, pooling)
        x.append(flat[inside])
        positive.append(marked(activations, labels, rows, per_image, block)[:, inside])
    both = torch.cat(positive, 1)
    return Samples(torch.cat(x), wanted // per_image, both, torch.ones_like(both))


def marked(
    activations: Activations, labels: Sequence[Label], rows: list[Tensor] | None, per_image: int, block: slice
) -> Bool[Tensor, "c n"]:
    """Which samples of a block of images have each concept."""
    if rows is None:
        masks = activations.on_grid([label.number for label in labels], block).flatten(2).transpose(0, 1)
        return masks.flatten(1) if per_image > 1 else masks.any(2)
    images = torch.arange(block.start, block.stop)
    return torch.stack([torch.isin(images, wanted) for wanted in rows]).repeat_interleave(per_image, 1)


def without(samples: Samples, negatives: Literal["rest", "concepts"] | Sequence[int]) -> Samples:
    """The samples, of which only the positives and the chosen negatives count."""
    if negatives == "rest":
        return samples
    if negatives == "concepts":
        others = samples.positive.sum(0) - samples.positive.int() > 0
    elif isinstance(negatives, str):
        raise BadInput(f"negatives='{negatives}' is unknown.", "Use 'rest', 'concepts', or row numbers of images.")
    else:
        others = torch.isin(samples.image, torch.tensor(list(negatives)).long())
    return Samples(samples.x, samples.image, samples.positive, samples.positive | others)


def pooled(maps: Float[Tensor, "n u i j"], pooling: Pooling) -> Float[Tensor, "n d"]:
    """One row per image."""
    return maps.flatten(1) if pooling == "flat" else maps.mean((2, 3))


def blocks(n: int) -> Iterator[slice]:
    """Images, a few at a time."""
    for start in range(0, n, BLOCK):
        yield slice(start, min(start + BLOCK, n))
