"""Simulated students: they learn from examples what a model answers, with or without being shown what mattered."""

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from glasshouse.core import BadInput, Images, Maps, Units
from glasshouse.core.mask import cell_sums, cells

Student: TypeAlias = Literal["knn", "logistic"]
Features: TypeAlias = Callable[[Images], Units]
"""What a student sees of an image, on a grid: `n k i j`."""

Lesson: TypeAlias = Float[Tensor, "n c g"]
"""Features of images, cell by cell."""

Weights: TypeAlias = Float[Tensor, "n g"]
"""How much each cell of each image mattered: 0…1, with a largest value of 1."""


def seen(images: Images, grid: tuple[int, int], features: Features | None) -> Lesson:
    """What a student sees: the mean colour of each cell, or features of its own on their grid."""
    if features is not None:
        return features(images).detach().cpu().double().flatten(2)
    n, c, h, w = images.shape
    labels = cells((h, w), grid)
    sums = cell_sums(images.detach().cpu().double().reshape(n * c, h, w), labels)
    return (sums / labels.flatten().bincount()).view(n, c, -1)


def told(maps: Maps, grid: tuple[int, int]) -> Weights:
    """What an explanation tells a student: the mean of |a| in each cell; of a map of zeros, that all matter alike."""
    labels = cells((maps.shape[-2], maps.shape[-1]), grid)
    mass = cell_sums(maps.detach().cpu().double().abs(), labels) / labels.flatten().bincount()
    most = mass.amax(1, keepdim=True)
    return torch.where(most > 0, mass / most.clamp(min=torch.finfo(mass.dtype).tiny), 1.0)


def standardised(train: Lesson, test: Float[Tensor, "m c g"]) -> tuple[Lesson, Float[Tensor, "m c g"]]:
    """Both, less the mean of the first and divided by its spread; what does not vary becomes 0."""
    mean, spread = train.mean(0), train.std(0, correction=0)
    spread = torch.where(spread > 1e-9 * (1 + mean.abs()), spread, torch.inf)
    return (train - mean) / spread, (test - mean) / spread


def knn(
    train: Lesson, weights: Weights, labels: Int[Tensor, " n"], test: Float[Tensor, "m c g"], neighbours: int
) -> Int[Tensor, " m"]:
    """The most frequent class among the nearest examples, each of which is compared where it says that it matters.

        d²(x, i) = sum_g w_ig |x_g - x_ig|² / sum_g w_ig

    Equal votes are decided by the nearest of them.
    """
    share = (weights / weights.sum(1, keepdim=True))[:, None].expand_as(train).flatten(1)
    x, t = train.flatten(1), test.flatten(1)
    distance = t.square() @ share.T - 2 * t @ (share * x).T + (share * x.square()).sum(1)
    k = min(neighbours, len(x))
    nearest = distance.topk(k, dim=1, largest=False).indices
    vote = 1 + 0.5 ** torch.arange(1, k + 1, dtype=torch.float64)  # all that is added is less than a vote
    votes = torch.zeros(len(t), int(labels.max()) + 1, dtype=torch.float64)
    return votes.scatter_add_(1, labels[nearest], vote.expand(len(t), k).contiguous()).argmax(1)


def logistic(
    train: Lesson, weights: Weights, labels: Int[Tensor, " n"], test: Float[Tensor, "m c g"], penalty: float
) -> Int[Tensor, " m"]:
    """Multinomial logistic regression on masked examples, asked about whole images.

        minimise  sum_i -ln softmax(V (w_i x_i) + b)_{y_i} + penalty / 2 |V|²

    Features are 0 at their mean, so a mask puts the mean image in place of what did not matter; where examples never
    differ the penalty leaves no coefficient, and the student overlooks that place afterwards.
    """
    with torch.inference_mode(False), torch.enable_grad():  # clones, as what inference mode made knows no gradients
        x, y, n_classes = (train.clone() * weights.clone()[:, None]).flatten(1), labels.clone(), int(labels.max()) + 1
        slope = torch.zeros(n_classes, x.shape[1], dtype=torch.float64, requires_grad=True)
        bias = torch.zeros(n_classes, dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.LBFGS(
            [slope, bias], max_iter=300, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            optimiser.zero_grad()
            error = F.cross_entropy(x @ slope.T + bias, y, reduction="sum") + penalty / 2 * slope.square().sum()
            error.backward()
            return error

        optimiser.step(loss)
    return (test.flatten(1) @ slope.detach().T + bias.detach()).argmax(1)


def taught(
    student: str,
    train: Lesson,
    weights: Weights,
    labels: Int[Tensor, " n"],
    test: Float[Tensor, "m c g"],
    neighbours: int,
    penalty: float,
) -> Int[Tensor, " m"]:
    """What a student says of the test images after its lesson."""
    if student == "knn":
        return knn(train, weights, labels, test, neighbours)
    if student == "logistic":
        return logistic(train, weights, labels, test, penalty)
    raise BadInput(f"student '{student}' is unknown.", "Use 'knn' or 'logistic'.")


def scattered(weights: Weights, draws: torch.Generator) -> Weights:
    """The same values in random cells: as concentrated as before, and pointing nowhere."""
    order = torch.rand(weights.shape, generator=draws).argsort(1)
    return weights.gather(1, order)
