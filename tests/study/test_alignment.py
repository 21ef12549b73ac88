"""Whether classes need the units of what they show."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from glasshouse import data, dissect, zoo
from glasshouse.dissect import Ablation
from glasshouse.study import align

CLASSES = ("red_and_house", "blue and house", "red, car", "blue & car", "red boat")


def ablation(lost: Tensor, names: tuple[str, ...], total: int = 100) -> Ablation:
    """`lost` images of each class without each group."""
    groups, classes = lost.shape
    none = torch.zeros(groups, classes, dtype=torch.long)
    whole = torch.full((classes,), total)
    return Ablation(
        "layer",
        names,
        tuple((row,) for row in range(groups)),
        "zero",
        "suffix",
        total=whole,
        right=whole,
        predicted=whole,
        lost=lost,
        won=none,
        shift=none,
        idle=torch.zeros(groups, dtype=torch.long),
        reruns=0,
        class_names=CLASSES,
    )


def test_classes_that_fall_with_their_concepts_and_no_others_are_aligned():
    lost = torch.tensor([[50, 50, 0, 0, 0], [0, 0, 50, 50, 0], [50, 0, 50, 0, 0]])
    seen = align(ablation(lost, ("house", "car", "red")))
    assert seen.value == pytest.approx(1)
    assert (seen.low, seen.high) == (pytest.approx(1), pytest.approx(1))


def test_it_is_the_correlation_over_all_pairs_of_named_concepts():
    lost = torch.randint(0, 100, (4, 5), generator=torch.Generator().manual_seed(0))
    seen = align(ablation(lost, ("house", "car", "sky", "ed")))  # no class is called after the last two
    shown = np.array([[1, 1, 0, 0, 0], [0, 0, 1, 1, 0]])
    assert seen.n == 10
    assert seen.value == pytest.approx(np.corrcoef(shown.ravel(), lost[:2].numpy().ravel() / 100)[0, 1])
    left = [
        np.corrcoef(np.delete(shown, c, 1).ravel(), np.delete(lost[:2].numpy(), c, 1).ravel() / 100)[0, 1]
        for c in range(5)
    ]
    spread = math.sqrt(4 / 5 * np.sum((left - np.mean(left)) ** 2))
    assert seen.high == pytest.approx(min(seen.value + 2.7764451 * spread, 1))


def test_without_damage_or_names_there_is_nothing_to_say():
    nothing = align(ablation(torch.zeros(2, 5, dtype=torch.long), ("house", "car")))
    assert math.isnan(nothing.value)
    strange = align(ablation(torch.ones(1, 5, dtype=torch.long), ("sky",)))
    assert math.isnan(strange.value)
    assert strange.n == 0


def test_a_trained_network_needs_the_units_of_what_it_tells_apart():
    model = zoo.load("houses_cnn")
    scenes = data.scenes("houses", 240, size=model.preprocess.size[0], seed=5)
    noise = 0.12 * torch.randn(scenes.images.shape, generator=torch.Generator().manual_seed(0))
    noisy = replace(scenes, images=(scenes.images + noise).clamp(0, 1))
    images = data.inputs(data.with_labels(noisy), model.preprocess)
    seen = dissect.units(model, images, layer="stages", min_images=2)
    objects = [label for label in seen.labels if label.category == "object"]
    detected = [label.name for label in objects if (seen.of(label.number) > seen.min_iou).any()]
    assert {"house", "church", "tower", "car", "tree", "lamp", "fence"} <= set(detected)
    groups = {name: seen.of(name).topk(20).indices.tolist() for name in detected}
    found = align(dissect.ablate_units(model, images, layer="stages", groups=groups))
    assert found.low > 0.2
