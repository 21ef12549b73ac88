"""Relevance propagation beside Zennit, excitation backprop beside TorchRay."""

import copy

import torch
from torch import Tensor, nn

from benchmarks.case import TARGET, Case, Settings, Sides
from benchmarks.nets import peer
from glasshouse import attribute
from glasshouse.core import Cost


def lrp(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    """Zennit counts the epsilon of batch norms twice, so the answers agree in direction, not to the last digit."""
    composites, canonizer = peer("zennit.composites"), peer("zennit.torchvision").ResNetCanonizer
    attribution, theirs = peer("zennit.attribution"), copy.deepcopy(model)
    composite = composites.EpsilonPlusFlat(canonizers=[canonizer()])

    def other() -> Tensor:
        with attribution.Gradient(model=theirs, composite=composite) as attributor:
            output = theirs(images[:1]).shape[1]
            return attributor(images, torch.eye(output)[[TARGET] * len(images)])[1]

    own = {"preset": "epsilon_plus_flat", "start": "one"}
    return Sides(lambda: attribute.lrp(model, images, TARGET, **own).native, other)


def excitation_backprop(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    library = peer("torchray.attribution.excitation_backprop")
    theirs = library.update_resnet(copy.deepcopy(model))

    def own() -> Tensor:
        return attribute.excitation_backprop(model, images, TARGET, layer="layer3", residual="signed").native

    return Sides(
        own, lambda: library.excitation_backprop(theirs, images, [TARGET] * len(images), "layer3")[:, 0].detach()
    )


def contrastive_excitation_backprop(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    library = peer("torchray.attribution.excitation_backprop")
    theirs, places = library.update_resnet(copy.deepcopy(model)), ("layer3", "avgpool", "fc")

    def own() -> Tensor:
        maps = attribute.contrastive_excitation_backprop(model, images, TARGET, layer="layer3", residual="signed")
        return maps.native

    def other() -> Tensor:
        return library.contrastive_excitation_backprop(theirs, images, [TARGET] * len(images), *places)[:, 0].detach()

    return Sides(own, other)


def forward_and_backward(settings: Settings, shape: tuple[int, ...]) -> Cost:
    return Cost(1, 1)


CASES: tuple[Case, ...] = (
    Case("lrp", "resnet18", 8, "zennit", lrp, agreement=0.999, faster=1.8, share=0.5),
    Case("lrp", "resnet18", 1, "zennit", lrp, agreement=0.999, faster=1.3),
    Case("excitation_backprop", "resnet18", 16, "torchray", excitation_backprop, cost=forward_and_backward, faster=1.2),
    Case("contrastive_excitation_backprop", "resnet18", 16, "torchray", contrastive_excitation_backprop, faster=1.2),
)
