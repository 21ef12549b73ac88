"""How many units a concept takes: the single best unit, all units together, and the strongest few."""

from collections.abc import Sequence
from math import prod
from typing import TypeAlias

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from glasshouse.core import BadInput, Progress, generator, registered, watching
from glasshouse.core.labelled import Label, find_labels
from glasshouse.dissect.concepts.fitting import Loss, Recipe, fit
from glasshouse.dissect.concepts.readouts import Net2Vec, Task
from glasshouse.dissect.concepts.tasks import Classification, Part, Segmentation
from glasshouse.dissect.masking import blocks, size_of, thresholds
from glasshouse.dissect.stored import Activations

Split: TypeAlias = tuple[Int[Tensor, " train"], Int[Tensor, " val"]]


@registered(
    "dissect",
    paper="Fong and Vedaldi, CVPR 2018",
    warning="units that fire together share a weight; look at what the readout gains over the best unit.",
    example={"epochs": 2},
)
def net2vec(
    activations: Activations,
    concepts: Sequence[str | int] | None = None,
    *,
    task: Task = "segmentation",
    subsets: Sequence[int] = (),
    split: float | Split = 0.7,
    level: float = 0.995,
    loss: Loss | None = None,
    lr: float | None = None,
    epochs: int = 30,
    batch_size: int = 16,
    seed: int = 0,
    progress: Progress | None = None,
) -> Net2Vec:
    """How well each concept is read from one unit, from all units together, and from the few with the largest weights.

        segmentation:    M(x; w) = sigmoid(up(sum_k w_k [A_k(x) > T_k])),  scored by IoU of M > 0.5
        classification:  p(x; w) = sigmoid(b + sum_k w_k mean_ij A_k,ij(x)),  scored by balanced accuracy

        loss of segmentation = -(1/N) sum_x sum_p α M L + (1 - α) (1 - M) (1 - L),  α = 1 - mean of L

    Fong and Vedaldi, "Net2Vec", CVPR 2018, sec. 3. T_k lies above the share `level` of a unit's activations in the
    training images. Images that do not contain the concept count in classification only, where as many of them as
    contain it are drawn in each epoch. The best unit is chosen in the training images; it marks the pixels that a
    readout of it alone would, or the images on the better side of its best cut. All scores but `train_score` are of
    the other images. Where a concept fills its images (α = 0), both terms count 1.

    Trained by gradient descent with momentum 0.9, as in the paper, whose rate is 1e-4 on Broden's 113×113 label maps.

    Differs: the rate is larger, for on a few hundred images the paper's stops long before the loss does. Units are
    ranked by |w|, so nothing that evens out the sizes of steps (Adam) may stand in for it.

    Args:
        concepts: by name or number; None takes those that are in training and in other images.
        subsets: sizes F; for each, a readout of the F units with the largest |w| is trained anew.
        split: share of the images that are trained on, drawn by `seed`, or the rows of both parts.
        loss: None takes the paper's, "linear" for segmentation and "bce" (logarithmic) for classification.
        lr: None takes 10 over the number of pixels of a label map (which the loss sums over), 0.03 for classification.
        batch_size: images of each concept per step.
    """
    n_units = len(activations.units)
    if wrong := [size for size in subsets if not 1 <= size <= n_units]:
        raise BadInput(f"no subset of {wrong[0]} units can be chosen among {n_units}.")
    if task == "classification" and loss == "linear":
        raise BadInput("the linear loss is for pixels.", "Use loss='bce' for classification.")
    kind: Loss = loss or ("linear" if task == "segmentation" else "bce")
    rate = 0.03 if task == "classification" else 10 / prod(size_of(activations))
    recipe = Recipe(kind, rate if lr is None else lr, epochs, batch_size, seed)
    parts = _split(split, len(activations), seed)
    labels, there = _concepts(activations, concepts, parts, task)
    rows: dict[Part, Tensor] = {"train": parts[0], "val": parts[1]}
    above = thresholds(activations, level, parts[0])
    if task == "segmentation":
        reading = Segmentation.of(activations, above, tuple(label.number for label in labels), there, rows)
    else:
        reading = Classification.of(activations, there, rows)
    problem = reading.problem()
    with watching(progress):
        every = fit(problem, torch.ones(1, len(labels), n_units, dtype=torch.bool), recipe)
        rank = every.weights[0].abs().argsort(1, descending=True).argsort(1)
        few = fit(problem, torch.stack([rank < size for size in subsets]), recipe) if subsets else None
    best, single = reading.best()
    curves = torch.stack(list(reading.scores(few, "val")), 1) if few else torch.zeros(len(labels), 0)
    return Net2Vec(
        layer=activations.layer,
        units=activations.units,
        labels=labels,
        task=task,
        weights=every.weights[0],
        bias=every.bias[0],
        thresholds=above,
        score=reading.scores(every, "val")[0],
        train_score=reading.scores(every, "train")[0],
        best=activations.units[best],
        single=single,
        subsets=tuple(subsets),
        curves=curves,
        n_images=torch.stack([there[:, part].sum(1) for part in parts], 1),
        settings={
            **{name: getattr(recipe, name) for name in ("loss", "lr", "epochs", "batch_size", "seed")},
            "level": level,
        },
    )


def _split(split: float | Split, n: int, seed: int) -> Split:
    if isinstance(split, float | int):
        if not 0 < split < 1:
            raise BadInput(f"split={split} leaves no images on one side.", "Use a share between 0 and 1.")
        order, n_train = torch.randperm(n, generator=generator(seed)), round(split * n)
        parts = order[:n_train].sort().values, order[n_train:].sort().values
    else:
        parts = split
    if any(not len(part) for part in parts):
        raise BadInput(f"{n} images split into {len(parts[0])} and {len(parts[1])}.", "Both parts need images.")
    return parts


def _concepts(
    activations: Activations, concepts: Sequence[str | int] | None, parts: Split, task: Task
) -> tuple[tuple[Label, ...], Bool[Tensor, "c n"]]:
    """The concepts that can be learnt and scored, and the images that each is in."""
    if not activations.labels or not activations.planes.shape[1] + activations.whole.shape[1]:
        raise BadInput("these activations come without label maps.", "Read them from data.with_labels(…).")
    labels = find_labels(activations.labels, concepts)
    numbers, (n, _, a, b) = [label.number for label in labels], activations.planes.shape
    rows = blocks(torch.arange(n), len(numbers) * a * b)
    there = torch.cat([activations.concepts(numbers, part).flatten(2).any(2) for part in rows]).T
    counts = torch.stack([there[:, part].sum(1) for part in parts], 1)
    enough = (counts > 0).all(1)
    if task == "classification":
        enough &= (counts < torch.tensor([len(part) for part in parts])).all(1)
    if concepts is not None and not enough.all():
        row = int((~enough).nonzero()[0])
        raise BadInput(
            f"'{labels[row].name}' is in {int(counts[row, 0])} of {len(parts[0])} training images "
            f"and {int(counts[row, 1])} of {len(parts[1])} others.",
            "It must be in both" + (", and absent from some of both." if task == "classification" else "."),
        )
    if not enough.any():
        raise BadInput("no concept is in both parts of the images.", "Use more images, or another split.")
    return tuple(label for label, keep in zip(labels, enough.tolist(), strict=True) if keep), there[enough]
