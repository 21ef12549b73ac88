"""Does an explanation teach? How much better a student predicts a model after lessons with maps than without."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.core import BadInput, Explanation, Images, Maps, Model, Noun, PerImage, borrow, generator, in_chunks
from glasshouse.core.target import logits
from glasshouse.evaluate.human.students import (
    Features,
    Student,
    Weights,
    scattered,
    seen,
    standardised,
    taught,
    told,
)
from glasshouse.evaluate.questions import Grid, grid_of
from glasshouse.evaluate.truth.controls import ignorant

MapOf: TypeAlias = Callable[[Model | nn.Module, Images, Int[Tensor, " n"]], Explanation | Tensor]
"""Anything that explains: given a model, images and one class per image, an explanation, or signed maps `n h w`."""

N_RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True, repr=False)
class Simulatability(Noun):
    """How much maps helped a student to predict a model.

    Args:
        gain: accuracy after lessons with maps, less accuracy after lessons without.
        interval: of `gain`: 95 %, by drawing test images anew, in pairs; the lesson stays the same.
        gain_over_random: less accuracy after lessons with the same values in random places.
        random_gain: what those random maps gained over no maps; the control.
        chance: the share of the model's most frequent answer in the test.
        with_maps: 1 for each test image on which the student said what the model said, else 0.
        without: the same without maps.
        random: the same with random maps, as a mean over several draws.
    """

    student: str
    gain: float
    interval: tuple[float, float]
    gain_over_random: float
    interval_over_random: tuple[float, float]
    random_gain: float
    random_interval: tuple[float, float]
    chance: float
    n_train: int
    with_maps: PerImage
    without: PerImage
    random: PerImage
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def accuracy(self) -> tuple[float, float, float]:
        """With maps, without, with random maps."""
        return average(self.with_maps), average(self.without), average(self.random)

    @property
    def utility(self) -> float:
        """Accuracy with maps over accuracy without: Utility-K of Fel et al., 2022, for this one size of lesson."""
        taught, untaught, _ = self.accuracy
        return taught / untaught if untaught else torch.inf

    def __repr__(self) -> str:
        (low, high), (taught, untaught, random) = self.interval, self.accuracy
        return (
            f"Simulatability({self.student}: {self.gain:+.3f} [{low:+.3f}, {high:+.3f}]; with maps {taught:.2f}, "
            f"without {untaught:.2f}, random maps {random:.2f}, chance {self.chance:.2f}; {self.n_train} lessons, "
            f"{len(self.without)} tests)"
        )


def simulatability(
    train_images: Images,
    train_maps: Maps,
    train_predictions: Int[Tensor, " n"] | Sequence[int],
    test_images: Float[Tensor, "m c h w"],
    test_predictions: Int[Tensor, " m"] | Sequence[int],
    *,
    student: Student = "knn",
    grid: Grid | None = None,
    features: Features | None = None,
    neighbours: int = 5,
    penalty: float = 1.0,
    n_random: int = 5,
    seed: int = 0,
) -> Simulatability:
    """How much better a student predicts the model's answers after it was shown where they came from.

        gain = accuracy(student taught with maps) - accuracy(student taught without)

    Pruthi et al., "Evaluating explanations: how much do they help?", TACL 2022: explanations come with the
    lessons and never with the test, so they cannot simply give the answer away. The quotient of the two, `utility`, is
    that of Fel et al., "What I cannot predict, I do not understand", 2022. Differs: the students are simple, and people
    in the second paper; k-NN compares images where the *example's* map says, logistic regression learns from masked
    examples. A student that sees mean colours learns nothing of a model that reads texture, whatever the maps: give
    it `features`. Maps may also say the class by their shape; this protocol does not notice it, as tests have no maps.

    Args:
        train_maps: of the predictions; sizes count, not signs. A map of zeros tells nothing.
        train_predictions: the model's answers, not the labels.
        student: "knn", or "logistic".
        grid: rows and columns of cells on which colours and maps are pooled; None takes 7 to 14 along the shorter side.
        features: from images to `n k i j`, in place of mean colours; maps are then pooled to i rows and j columns.
        neighbours: of "knn".
        penalty: of "logistic", on squared coefficients of standardised features.
        n_random: draws of random maps.
        seed: of random maps, of the interval, and of the order of equal distances.
    """
    answers, truth = checked(train_images, train_maps, train_predictions, test_images, test_predictions)
    if min(neighbours, n_random) < 1 or penalty <= 0:
        raise BadInput(f"neighbours {neighbours}, n_random {n_random} and penalty {penalty} must be positive.")
    size, draws = (train_images.shape[-2], train_images.shape[-1]), generator(seed)
    if features is not None:
        i, j = features(train_images[:1]).shape[-2:]
        grid = (int(i), int(j))
    grid = grid or grid_of(size)
    train, test = standardised(seen(train_images, grid, features), seen(test_images, grid, features))
    weights = told(train_maps, grid)
    mixed = torch.randperm(len(train), generator=draws)  # so that equal distances are not decided by position
    train, weights = train[mixed], weights[mixed]
    classes, labels = answers[mixed].unique(return_inverse=True)

    def marks(lesson: Weights) -> Float[Tensor, " m"]:
        said = taught(student, train, lesson, labels, test, neighbours, penalty)
        return (classes[said] == truth).double()

    with_maps, without = marks(weights), marks(torch.ones_like(weights))
    random = torch.stack([marks(scattered(weights, draws)) for _ in range(n_random)]).mean(0)
    settings = {"grid": grid, "neighbours": neighbours, "penalty": penalty, "n_random": n_random, "seed": seed}
    chance = float(truth.unique(return_counts=True)[1].max()) / len(truth)
    gain, over, control = with_maps - without, with_maps - random, random - without
    return Simulatability(
        student,
        average(gain),
        interval(gain, seed),
        average(over),
        interval(over, seed),
        average(control),
        interval(control, seed),
        chance,
        len(train),
        with_maps,
        without,
        random,
        settings,
    )


def average(values: PerImage) -> float:
    """The mean, in float64."""
    return float(values.double().mean())


def checked(
    train_images: Images,
    train_maps: Maps,
    train_predictions: Int[Tensor, " n"] | Sequence[int],
    test_images: Float[Tensor, "m c h w"],
    test_predictions: Int[Tensor, " m"] | Sequence[int],
) -> tuple[Int[Tensor, " n"], Int[Tensor, " m"]]:
    """The model's answers as whole numbers, once everything fits together."""
    answers, truth = (torch.as_tensor(said).cpu() for said in (train_predictions, test_predictions))
    if answers.shape != (len(train_images),) or truth.shape != (len(test_images),):
        seen_, wanted = (tuple(answers.shape), tuple(truth.shape)), (len(train_images), len(test_images))
        raise BadInput(f"predictions {seen_} are not one class for each of {wanted} images.", "Use logits.argmax(1).")
    if not len(answers) or not len(truth):
        raise BadInput(f"there are {len(answers)} lessons and {len(truth)} tests.", "Pass at least one of each.")
    if train_maps.shape != (len(train_images), *train_images.shape[-2:]):
        seen_, wanted = tuple(train_maps.shape), tuple(train_images.shape)
        raise BadInput(f"the maps {seen_} are not of the lessons {wanted}.", "Pass explanation.heatmap.")
    if not train_maps.isfinite().all():
        bad = (~train_maps.flatten(1).isfinite().all(1)).nonzero()[:4, 0].tolist()
        raise BadInput(f"maps {bad} hold values that are no numbers.", "Leave those images out.")
    return answers.long(), truth.long()


def interval(values: PerImage, seed: int) -> tuple[float, float]:
    """Where the mean lies in 95 % of samples drawn anew from these values (Efron's percentile bootstrap)."""
    count = len(values)
    drawn = torch.randint(count, (N_RESAMPLES, count), generator=generator(seed))
    means = values[drawn].mean(1)
    low, high = means.quantile(torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=means.dtype)).tolist()
    return low, high


def simulated_students(
    model: Model | nn.Module,
    train_images: Images,
    test_images: Float[Tensor, "m c h w"],
    methods: Mapping[str, MapOf],
    *,
    oracle: Maps | None = None,
    student: Student = "knn",
    grid: Grid | None = None,
    features: Features | None = None,
    chunk: int = 64,
    seed: int = 0,
) -> dict[str, Simulatability]:
    """What the maps of several methods teach about a model, beside maps that know nothing of it.

    All methods explain the predicted classes, and all students meet the same lessons and tests. The controls are those
    of `benchmark`: `centre`, `edges`, `constant` (which gains exactly 0) and `random`.

    Args:
        methods: anything `(model, images, classes) -> explanation or n h w`, by name.
        oracle: maps of the training images that know what the model uses, for one more control: on rendered scenes
            each part's effect spread over its pixels.
        chunk: images per forward pass.
    """
    with borrow(model, train_images) as network, torch.no_grad():
        answers, truth = (
            torch.cat([out for _, out in in_chunks(lambda r, x=x: logits(network(x[r])), len(x), chunk)]).argmax(1)
            for x in (train_images, test_images)
        )
    maps = {} if oracle is None else {"oracle": oracle}
    maps |= ignorant(train_images, seed)
    for name, explain in methods.items():
        found = explain(model, train_images, answers)
        maps[name] = (found.heatmap if isinstance(found, Explanation) else found).detach()
    return {
        name: simulatability(
            train_images, one, answers, test_images, truth, student=student, grid=grid, features=features, seed=seed
        )
        for name, one in maps.items()
    }
