"""DeepLIFT, expected gradients and activation times gradient beside Captum."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.case import TARGET, Case, Settings, Sides
from benchmarks.nets import peer
from glasshouse import attribute


def deep_lift(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    """Without a peer: Captum refuses a ReLU that is used twice."""
    return Sides(lambda: attribute.deep_lift(model, images, TARGET).native)


def expected_gradients(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    """Captum draws for itself; next to the image all places on the way give one gradient, so that is compared."""
    captum = peer("captum.attr")
    other, n = captum.GradientShap(copy.deepcopy(model)), settings["n_samples"]
    grey, near = torch.zeros_like(images[:1]), images[:1] * (1 - 1e-4)

    def own(start: Tensor, samples: int) -> Tensor:
        return attribute.expected_gradients(model, images, TARGET, baselines=start, n_samples=samples).native

    def theirs(start: Tensor, samples: int) -> Tensor:
        return other.attribute(images, baselines=start, target=TARGET, n_samples=samples, stdevs=0.0)

    return Sides(lambda: own(grey, n), lambda: theirs(grey, n), lambda: (own(near, 4), theirs(near, 4)))


def linear_approximation(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    theirs = copy.deepcopy(model)
    other = peer("captum.attr").LayerGradientXActivation(theirs, theirs.layer4)
    return Sides(
        lambda: attribute.linear_approximation(model, images, TARGET, layer="layer4").native,
        lambda: other.attribute(images, target=TARGET).sum(1),
    )


def channel_attribution(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    theirs = copy.deepcopy(model)
    other = peer("captum.attr").LayerGradientXActivation(theirs, theirs.layer4)
    return Sides(
        lambda: attribute.channel_attribution(model, images, TARGET, layer="layer4").values,
        lambda: other.attribute(images, target=TARGET).sum((2, 3)),
    )


SAMPLES: dict[str, Any] = {
    "sides": expected_gradients,
    "settings": {"n_samples": 48},
    "quick": {"n_samples": 8},
    "limit_batch": 16,
    "agreement": 0.999,
}

CASES: tuple[Case, ...] = (
    Case("deep_lift", "resnet18", 8, "", deep_lift),
    Case("deep_lift", "vit_small_patch16_224", 2, "", deep_lift),
    Case("expected_gradients", "resnet18", 1, "captum", faster=1.3, share=0.9, **SAMPLES),
    Case("linear_approximation", "resnet18", 16, "captum", linear_approximation, faster=1.2),
    Case("channel_attribution", "resnet18", 16, "captum", channel_attribution, faster=1.2),
)
