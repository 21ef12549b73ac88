"""Every unit of a layer ablated, beside a hook that clears one unit per pass of the whole network."""

from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.case import Case, Settings, Sides
from benchmarks.nets import CLASSES, peer
from glasshouse import dissect, zoo
from glasshouse.core import Cost
from glasshouse.dissect.ablations.removal import Removal

PHOTOS = ("coffee.png", "astronaut.png", "chelsea.png", "motorcycle_left.png")
EMPTY = "blocks.5.3.depthwise.act"  # half of whose units are silent in a photograph


class Pairs:
    """Images and a class for each."""

    def __init__(self, images: Tensor, classes: Sequence[int]):
        self.images, self.classes = images, classes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int, /) -> tuple[Tensor, int]:
        return self.images[index], self.classes[index]


def hooked(model: nn.Module, images: Tensor, layer: str, units: Sequence[int]) -> Tensor:
    """The class that wins without each unit, `u n`, by full forwards."""
    tops: list[Tensor] = []
    for unit in units:

        def clear(module: nn.Module, args: object, output: Tensor, unit: int = unit) -> Tensor:
            output = output.clone()
            output[:, unit] = 0
            return output

        handle = model.get_submodule(layer).register_forward_hook(clear)
        with torch.no_grad():
            tops.append(model(images).argmax(1))
        handle.remove()
    return torch.stack(tops)


def beside_hooks(layer: str, width: int) -> Callable[[nn.Module, Tensor, Settings], Sides]:
    """How often each class wins without each unit, as both sides count it."""

    def sides(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
        units = range(width)[:: settings["every"]]
        pairs = Pairs(images, [number % CLASSES for number in range(len(images))])

        def own() -> Tensor:
            found = dissect.ablate_units(model, pairs, layer=layer, units=units)
            return (found.predicted + found.shift).float().flatten()[None]

        def peer() -> Tensor:
            tops = hooked(model, images, layer, units)
            return torch.stack([top.bincount(minlength=CLASSES) for top in tops]).float().flatten()[None]

        return Sides(own, peer)

    return sides


def trained(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    """What leaving out silent units gains on trained weights: the same with and without it. Photographs, 224 px."""
    network = zoo.load("efficientnet_lite0")
    folder = Path(str(peer("skimage.data").__file__)).parent
    photos = network.preprocess([folder / name for name in PHOTOS])
    pairs = Pairs(photos, [0] * len(PHOTOS))

    def own() -> Tensor:
        found = dissect.ablate_units(network, pairs, layer=EMPTY, units=range(1152)[:: settings["every"]])
        return (found.predicted + found.shift).float().flatten()[None]

    def every_pair() -> Tensor:
        def busy(removal: Removal, maps: Tensor, substitute: Tensor) -> Tensor:
            return torch.zeros(len(maps), len(removal.members), dtype=torch.bool)

        with patch.object(Removal, "_idle", busy):
            return own()

    return Sides(own, every_pair)


def one_pass(settings: Settings, shape: tuple[int, ...]) -> Cost:
    return Cost(1)


EVERY: dict[str, dict[str, int]] = {"settings": {"every": 1}, "quick": {"every": 16}}

CASES: tuple[Case, ...] = (
    Case("ablate_units", "resnet18", 16, "hooks", beside_hooks("layer4", 512), **EVERY, cost=one_pass, faster=200.0),
    Case(
        "ablate_units",
        "resnet18",
        4,
        "hooks",
        beside_hooks("layer3", 256),
        settings={"every": 4},
        quick={"every": 32},
        cost=one_pass,
        faster=4.0,
    ),
    Case(
        "ablate_units",
        "efficientnet_lite0",
        4,
        "no skipping",
        trained,
        settings={"every": 8},
        quick={"every": 64},
        cost=one_pass,
        faster=1.5,
    ),
)
