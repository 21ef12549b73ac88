"""Drawing sixteen units in one batch beside drawing them one after another, and beside Lucent."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.case import Case, Settings, Sides
from benchmarks.nets import peer
from glasshouse import visualize
from glasshouse.core import Cost

UNITS = list(range(16))
LAYER = {"resnet18": "layer2", "efficientnet_lite0": "blocks.3.2"}


def one_by_one(layer: str) -> Any:
    """Sides of a batch of sixteen units; on the other, the same pictures, each with a call of its own."""

    def sides(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
        shared: dict[str, Any] = {"size": images.shape[-1], "steps": settings["steps"]}

        def batch() -> Tensor:
            return visualize.render(model, visualize.unit(layer, UNITS), **shared).pixels

        def single() -> Tensor:
            drawn = [visualize.render(model, visualize.unit(layer, k), seed=k, **shared).pixels for k in UNITS]
            return torch.cat(drawn)

        return Sides(batch, single)

    return sides


def lucent(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    """The same unit, spectrum and optimiser without transforms; pictures differ by their noise, so only time counts."""
    library, theirs = peer("lucent.optvis.render"), copy.deepcopy(model)
    size, steps = images.shape[-1], settings["steps"]
    image = peer("lucent.optvis.param").image

    def own() -> Tensor:
        return visualize.render(model, visualize.unit("layer2", 3), preset="fourier", size=size, steps=steps).pixels

    def other() -> Any:
        return library.render_vis(
            theirs,
            "layer2:3",
            lambda: image(size),
            transforms=[],
            thresholds=(steps,),
            show_image=False,
            preprocess=False,
            progress=False,
        )

    return Sides(own, other, lambda: (torch.ones(1, 1), torch.ones(1, 1)))


def sixteen(settings: Settings, shape: tuple[int, ...]) -> Cost:
    return Cost(16 * settings["steps"], 16 * settings["steps"])


STEPS: dict[str, Any] = {"settings": {"steps": 16}, "quick": {"steps": 3}}

CASES: tuple[Case, ...] = (
    *(
        Case(
            "render",
            model,
            1,
            "16 single renders",
            one_by_one(layer),
            cost=sixteen,
            limit_batch=16,
            faster=1.3,
            **STEPS,
        )
        for model, layer in LAYER.items()
    ),
    Case("render", "resnet18", 1, "lucent", lucent, faster=1.0, **STEPS),
)
