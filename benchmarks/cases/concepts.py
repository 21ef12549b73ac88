"""Concepts: all classes decomposed at once beside loops over classes, all vectors of TCAV beside one at a time."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.case import TARGET, Case, Settings, Sides
from benchmarks.nets import peer
from glasshouse import dissect
from glasshouse.core import Cost, probe
from glasshouse.core.labelled import Label
from glasshouse.dissect.concepts.classifiers import fit
from glasshouse.dissect.concepts.cones import greedy_nnls

LAYER, UNITS = "layer4", 512


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def vectors(n: int) -> dissect.ConceptVectors:
    """As many concept vectors, as if they had been learnt."""
    labels = tuple(Label(number, str(number), "object") for number in range(1, n + 1))
    learnt, one = F.normalize(random(n, UNITS)), torch.ones(n)
    units, grid = torch.arange(UNITS), (7, 7)
    return dissect.ConceptVectors(
        LAYER, units, grid, labels, "positions", "ridge", learnt, one, one, learnt, *(one,) * 4, one.long(), one.long()
    )


def decomposition(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    """The network's class vectors into concepts."""
    learnt, classes = vectors(settings["n_concepts"]), range(settings["n_classes"])
    return Sides(lambda: dissect.decompose(model, images, learnt, classes=classes).coefficients)


def greedy(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    """The choice of concepts alone, beside SciPy's nonnegative least squares for every class and candidate."""
    nnls = peer("scipy.optimize").nnls
    basis = F.normalize(random(settings["n_concepts"], UNITS).double())
    goals = F.normalize(random(settings["n_classes"], UNITS, seed=1).double())

    def loop() -> Tensor:
        errors: list[list[float]] = []
        for goal in goals:
            members, left = list[int](), list[float]()
            for _ in range(settings["n_steps"]):
                tried = [float(nnls(basis[[*members, c]].T.numpy(), goal.numpy())[1]) for c in range(len(basis))]
                members.append(min(range(len(basis)), key=tried.__getitem__))
                left.append(min(tried))
            errors.append(left)
        return torch.tensor(errors)

    return Sides(lambda: greedy_nnls(goals, basis, settings["n_steps"]).errors.float(), loop)


def tcav(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    """Beside the same by hand: a classifier of scikit-learn's and a directional derivative of each image at a time."""
    linear, n_runs = peer("sklearn.linear_model"), settings["n_runs"]
    with probe(model, LAYER) as seen, torch.no_grad():
        model(images[:1])
    grid = tuple(seen[LAYER].shape[2:])
    maps = random(200, UNITS, *grid)
    maps[:100, :20] += 0.5
    none = torch.zeros(200, 0, dtype=torch.long)
    kept = dissect.Activations(
        LAYER, torch.arange(UNITS), maps, none.sum(1), none[:, :, None, None], none, (), tuple(images.shape[2:])
    )
    flat = maps.flatten(1).double()

    def learnt(rows: Tensor) -> Tensor:
        centred = flat[rows] - flat[rows].mean(0)
        scale = centred.square().sum(1).mean().sqrt()
        model = linear.LogisticRegression(C=1 / (0.01 * len(rows)), tol=1e-6, max_iter=1000)
        return F.normalize(torch.tensor(model.fit((centred / scale).numpy(), rows.numpy() < 100).coef_[0]), dim=0)

    def loop() -> list[float]:
        scores = list[float]()
        for run in range(2 * n_runs):  # for the concept, and for random images
            vector = learnt(torch.arange(200)[run % 2 :: 2]).float()
            rises = 0
            for image in images:
                with probe(model, LAYER) as seen:
                    score = model(image[None])[0, TARGET]
                (slope,) = torch.autograd.grad(score, seen[LAYER])
                rises += int(slope.flatten() @ vector > 0)
            scores.append(rises / len(images))
        return scores

    def same() -> tuple[Tensor, Tensor]:
        rows = torch.arange(0, 200, 2)
        gram = flat[rows] @ flat[rows].T
        values, axes = torch.linalg.eigh(gram)
        root = values.clamp(min=1e-9).sqrt()
        positive = (rows < 100)[None]
        w, _ = fit((axes * root)[None], positive, torch.ones_like(positive), "logistic")
        return F.normalize(((axes / root @ w[0]) @ flat[rows])[None]), learnt(rows)[None]

    own: dict[str, Any] = {"positives": {"it": range(100)}, "n_runs": n_runs}
    return Sides(lambda: dissect.tcav(model, images, TARGET, kept, **own).score, loop, same)


def one_pass(settings: Settings, shape: tuple[int, ...]) -> Cost:
    return Cost(1)


SMALL: dict[str, int] = {"n_classes": 20, "n_concepts": 40}

CASES: tuple[Case, ...] = (
    Case(
        "decompose",
        "resnet18",
        8,
        "",
        decomposition,
        settings={"n_classes": 1000, "n_concepts": 660},
        quick=SMALL,
        cost=one_pass,
    ),
    Case(
        "decompose",
        "resnet18",
        1,
        "scipy",
        greedy,
        settings={"n_classes": 4, "n_concepts": 660, "n_steps": 7},
        quick={"n_classes": 2, "n_concepts": 20, "n_steps": 3},
        cost=one_pass,
        faster=20.0,
    ),
    Case(
        "tcav",
        "resnet18",
        8,
        "scikit-learn",
        tcav,
        settings={"n_runs": 20},
        quick={"n_runs": 4},
        cost=one_pass,
        agreement=0.999,
        faster=10.0,
    ),
)
