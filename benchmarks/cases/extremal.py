"""Extremal perturbations beside TorchRay, and the same inside a network, which nobody else has."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.case import TARGET, Case, Settings, Sides
from benchmarks.nets import peer
from glasshouse import attribute
from glasshouse.core import Cost

AREAS = (0.025, 0.05, 0.1, 0.2)


def extremal(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    """TorchRay takes one image at a time. Steps amplify rounding, so masks are compared after two of them."""
    library, other = peer("torchray.attribution.extremal_perturbation"), copy.deepcopy(model)
    n_steps = settings["n_steps"]

    def own(steps: int) -> Tensor:
        return attribute.extremal_perturbation(model, images, TARGET, areas=AREAS, n_steps=steps).extras["masks"]

    def theirs(steps: int) -> Tensor:
        masks = [
            library.extremal_perturbation(other, image[None], TARGET, areas=list(AREAS), max_iter=steps)[0]
            for image in images
        ]
        return torch.stack(masks)[:, :, 0]

    return Sides(lambda: own(n_steps), lambda: theirs(n_steps), lambda: (own(2), theirs(2)))


def channels(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    return Sides(lambda: attribute.channel_extremal_perturbation(model, images, TARGET, **settings).values)


def passes(settings: Settings, shape: tuple[int, ...]) -> Cost:
    """Of both sides: TorchRay's last step looks back, ours does not."""
    rows = len(AREAS)
    return Cost(1 + rows * settings["n_steps"], rows * (settings["n_steps"] - 1))


MASKS: dict[str, Any] = {"settings": {"n_steps": 10}, "quick": {"n_steps": 3}, "limit_batch": 16, "cost": passes}

CASES: tuple[Case, ...] = (
    Case("extremal_perturbation", "resnet18", 1, "torchray", extremal, faster=3.0, share=0.65, **MASKS),
    Case("extremal_perturbation", "resnet18", 4, "torchray", extremal, faster=4.5, share=0.65, **MASKS),
    Case(
        "channel_extremal_perturbation",
        "resnet18",
        1,
        "",
        channels,
        settings={"layer": "layer4", "n_steps": 20},
        quick={"n_steps": 3},
        cost=lambda settings, shape: Cost(1),
    ),
)
