"""Ten metrics beside Quantus, which computes the same ten one by one.

Metrics that Quantus 0.6.0 computes wrongly are left out. So are those that no setting makes the same.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.case import Case, Settings, Sides
from benchmarks.nets import peer
from glasshouse import attribute, data, evaluate
from glasshouse.core import Cost, Explanation, generator
from glasshouse.evaluate.faithfulness.features import distinct_sets
from glasshouse.evaluate.questions import Elements, Segments
from glasshouse.evaluate.robustness.neighbours import uniform

SIZE = 48  # px; Quantus wants its step to divide the pixels of a channel, though it counts the values of all three
PATCH, SUBSET, RADIUS = 8, 224, 0.2
ANIMAL = ("tail", "legs", "back", "body", "crown", "head", "eye")
NOISY = ("max_sensitivity", "avg_sensitivity", "local_lipschitz")


class Setup(NamedTuple):
    """What both sides are given: a network, images, masks of the animals, an explanation."""

    model: nn.Module
    images: Tensor
    masks: Tensor
    explanation: Explanation


def prepared(model: nn.Module, count: int) -> Setup:
    scenes = data.scenes("creatures", count, size=SIZE, seed=1_000_005)
    images = (scenes.images - 0.5) / 0.25
    with torch.no_grad():
        target = model(images).argmax(1).tolist()
    animal = scenes.masks[:, [scenes.part(name) for name in ANIMAL]].any(1)
    return Setup(model, images, animal, attribute.input_x_gradient(model, images, target))


def in_order(maps: Tensor) -> Segments:
    """As many pixels as an image has columns, next to each other in rank, are one segment."""
    order = maps.flatten(1).argsort(dim=1, descending=True)
    groups = torch.arange(order.shape[1]) // maps.shape[2]
    return Segments.of(torch.empty_like(order).scatter_(1, order, groups.expand_as(order)).view(maps.shape))


def metrics(setup: Setup, settings: Settings) -> dict[str, dict[str, Any]]:
    """Ours, with the settings of Quantus."""
    features, copies = Elements(tuple(setup.images.shape[1:])), settings["copies"]
    noise = {"radius": RADIUS, "n_samples": copies, "same_prediction": False}
    found = {
        "faithfulness_correlation": {"n_samples": settings["sets"], "subset_size": SUBSET, "grid": features},
        "faithfulness_estimate": {"grid": in_order(setup.explanation.heatmap)},
        "deletion": {"n_steps": SIZE},
        "selectivity": {"patch_px": PATCH},
        "region_perturbation": {"patch_px": PATCH},
    }
    return {
        **{name: {**own, "baseline": 0.0} for name, own in found.items()},
        **dict.fromkeys(NOISY, noise),
        "sparseness": {},
        "relevance_rank": {},
    }


def gradient(model: nn.Module, inputs: Any, targets: Any, **ignored: Any) -> np.ndarray[Any, Any]:
    """What Quantus is to explain its copies with: the plainest there is."""
    leaf = torch.as_tensor(inputs, dtype=torch.float32).requires_grad_()
    score = model(leaf)[range(len(leaf)), torch.as_tensor(targets)].sum()
    return (torch.autograd.grad(score, leaf)[0] * leaf).detach().numpy()


Score = Callable[[], Any]


def quantus_scores(
    library: ModuleType, setup: Setup, settings: Settings, noise: Callable[..., Any] | None = None
) -> dict[str, Score]:
    """Each metric of Quantus, by our name. `noise` replaces its own draws."""
    images, targets = setup.images.numpy(), np.array(setup.explanation.target)
    values, maps = setup.explanation.native.numpy(), setup.explanation.heatmap[:, None].numpy()
    plain = {"disable_warnings": True, "normalise": False, "abs": False, "return_aggregate": False}
    removal = {**plain, "perturb_baseline": 0.0}
    step = {"features_in_step": 3 * SIZE}
    moved: dict[str, Any] = {**plain, "nr_samples": settings["copies"]}
    moved["perturb_func"] = noise or library.functions.perturb_func.batch_uniform_noise
    bound = {"perturb_func_kwargs": {"lower_bound": RADIUS}}
    subset = {"nr_runs": settings["sets"], "subset_size": SUBSET}
    found = {
        "faithfulness_correlation": (library.FaithfulnessCorrelation(**subset, **removal), values, {}),
        "faithfulness_estimate": (library.FaithfulnessEstimate(**step, **removal), maps, {}),
        "deletion": (library.PixelFlipping(**step, **removal), maps, {}),
        "selectivity": (library.Selectivity(patch_size=PATCH, **removal), maps, {}),
        "region_perturbation": (library.RegionPerturbation(patch_size=PATCH, **removal), maps, {}),
        "max_sensitivity": (library.MaxSensitivity(lower_bound=RADIUS, **moved), values, {"explain_func": gradient}),
        "avg_sensitivity": (library.AvgSensitivity(lower_bound=RADIUS, **moved), values, {"explain_func": gradient}),
        "local_lipschitz": (
            library.LocalLipschitzEstimate(**bound, **moved),
            values,
            {"explain_func": gradient},
        ),
        "sparseness": (library.Sparseness(**{**plain, "abs": True}), maps, {}),
        "relevance_rank": (library.RelevanceRankAccuracy(**plain), maps, {"s_batch": setup.masks[:, None].numpy()}),
    }

    def score(metric: Any, attributions: Any, more: Mapping[str, Any]) -> Any:
        # some metrics write into what they are given
        given = {"x_batch": images.copy(), "y_batch": targets, "a_batch": attributions.copy()}
        return metric(model=setup.model, **given, device="cpu", **more)

    return {name: partial(score, *call) for name, call in found.items()}


def same_noise(setup: Setup) -> Callable[..., Any]:
    """A perturbation for Quantus that adds our noise, copy by copy."""
    number = iter(range(10**9))

    def perturb(arr: Any, **ignored: Any) -> Any:
        return arr + RADIUS * uniform(setup.images, 0, next(number)).flatten().numpy()

    return perturb


def same_sets(setup: Setup, count: int) -> Iterator[Any]:
    """Our random sets, in the order in which Quantus draws: set by set, image by image."""
    gone = distinct_sets(setup.images[0].numel(), SUBSET, count, generator(0))
    return (np.flatnonzero(row) for row in gone.numpy() for _ in setup.images)


def answers(library: ModuleType, setup: Setup, settings: Settings) -> tuple[Tensor, Tensor]:
    """Ten numbers for each image on both sides, from the same draws, in units of the largest."""
    own = evaluate.suite(setup.model, setup.images, setup.explanation, metrics(setup, settings), masks=setup.masks)
    scores, theirs, columns = own[setup.explanation.method], dict[str, Tensor](), list[Tensor]()
    for name in scores:
        score = quantus_scores(library, setup, settings, same_noise(setup))[name]
        sets = same_sets(setup, settings["sets"])
        with patch("numpy.random.choice", side_effect=lambda *args, sets=sets, **more: next(sets)):
            theirs[name] = torch.as_tensor(np.array(score()), dtype=torch.float64)
    for name, score in scores.items():
        value, other = score.value.double(), theirs[name]
        if name in ("deletion", "selectivity"):  # Quantus leaves the clean image out, and the area to its caller
            value, other = score.extras["curve"][:, 1:].double().mean(1), other.mean(1)
        elif name == "region_perturbation":  # and returns the drop of each step
            other = other.sum(1) / (other.shape[1] + 1)
        columns.append(torch.stack([value, other]))
    both = torch.stack(columns, 2)
    both = both / both.abs().amax((0, 1))
    return both[0], both[1]


def suite(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    """Precomputed explanations; copies are explained by each side's gradient x input."""
    library = peer("quantus")
    setup = prepared(model, len(images))
    wanted, theirs = metrics(setup, settings), quantus_scores(library, setup, settings)

    def own() -> Any:
        return evaluate.suite(setup.model, setup.images, setup.explanation, wanted, masks=setup.masks)

    def other() -> Any:
        return [score() for score in theirs.values()]

    return Sides(own, other, lambda: answers(library, setup, settings))


def one_by_one(settings: Settings, shape: tuple[int, ...]) -> Cost:
    """Passes that the definitions ask for: what metrics share is counted for each."""
    steps, patches = SIZE, (SIZE // PATCH) ** 2
    explained = len(NOISY) * settings["copies"]
    return Cost(settings["sets"] + 2 * steps + 2 * patches + explained, explained)


BOTH: dict[str, Any] = {
    "settings": {"copies": 200, "sets": 100},
    "quick": {"copies": 4, "sets": 16},
    "cost": one_by_one,
    "limit_batch": 16,
    "size": SIZE,
}

CASES: tuple[Case, ...] = (
    Case("suite", "creatures_cnn", 16, "quantus", suite, faster=4.0, **BOTH),
    Case("suite", "creatures_cnn", 1, "quantus", suite, faster=5.0, **BOTH),
)
