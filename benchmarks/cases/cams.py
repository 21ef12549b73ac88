"""Class activation maps beside torchcam, pytorch-grad-cam and Captum."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.case import TARGET, Case, Settings, Sides
from benchmarks.nets import peer
from glasshouse import attribute
from glasshouse.core import Cost, resize

LAYER, PEER = "layer4", "pytorch-grad-cam"


def stretched(maps: Tensor) -> Tensor:
    """Each map between 0 and 1, without what is negative, as pytorch-grad-cam gives them."""
    maps = maps.relu()
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp(min=1e-7)


def beside_grad_cam(own: str, name: str, **options: Any) -> Callable[[nn.Module, Tensor, Settings], Sides]:
    """Sides of a method that pytorch-grad-cam has under another name; it changes its model, and so has a copy."""

    def sides(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
        library, theirs = peer("pytorch_grad_cam"), copy.deepcopy(model)
        other = getattr(library, name)(model=theirs, target_layers=[theirs.get_submodule(LAYER)])
        goals = [peer("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget(TARGET)] * len(images)
        method = getattr(attribute, own)
        return Sides(
            lambda: stretched(method(model, images, TARGET, layer=LAYER, **options).heatmap),
            lambda: torch.as_tensor(other(input_tensor=images, targets=goals)),
        )

    return sides


def beside_torchcam(own: str, name: str, **options: Any) -> Callable[[nn.Module, Tensor, Settings], Sides]:
    """Sides of a method of one pass that torchcam has under another name; its maps stay on the layer's grid."""

    def sides(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
        theirs = copy.deepcopy(model)
        other = getattr(peer("torchcam.methods"), name)(theirs, LAYER)
        method = getattr(attribute, own)
        return Sides(
            lambda: method(model, images, TARGET, layer=LAYER, **options).native,
            lambda: other(TARGET, theirs(images), normalized=False)[0].detach(),
        )

    return sides


def guided_grad_cam(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    theirs = copy.deepcopy(model)
    other = peer("captum.attr").GuidedGradCam(theirs, theirs.get_submodule(LAYER))
    return Sides(
        lambda: attribute.guided_grad_cam(model, images, TARGET, layer=LAYER).native,
        lambda: other.attribute(images, target=TARGET, interpolate_mode="bilinear"),
    )


def score_cam(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    """pytorch-grad-cam enlarges masks corner on corner; for the comparison it does so from the middle of pixels."""
    sides = beside_grad_cam("score_cam", "ScoreCAM")(model, images, settings)

    def check() -> tuple[Tensor, Tensor]:
        with patch.object(nn, "UpsamplingBilinear2d", partial(nn.Upsample, mode="bilinear")):
            return sides.answers()

    return Sides(sides.own, sides.peer, check)


def eigen_cam(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    """The sign of pytorch-grad-cam's map is arbitrary; for the comparison ours takes the one that is nearer."""
    sides = beside_grad_cam("eigen_cam", "EigenCAM", center=True)(model, images, settings)
    assert sides.peer is not None
    peers = sides.peer

    def check() -> tuple[Tensor, Tensor]:
        native, theirs = attribute.eigen_cam(model, images, TARGET, layer=LAYER, center=True).native[:, None], peers()
        size = (images.shape[-2], images.shape[-1])
        signs = torch.stack([stretched(resize(each.relu(), size)[:, 0]) for each in (native, -native)])
        nearer = (signs - theirs).abs().mean((2, 3)).argmin(0)
        return signs[nearer, torch.arange(len(theirs))], theirs

    return Sides(sides.own, peers, check)


def forwards(count: float) -> Callable[[Settings, tuple[int, ...]], Cost]:
    """So many passes forward per image; going back from the last stage to itself costs next to nothing."""
    return lambda settings, shape: Cost(count)


SIGNED = {"relu": True}  # as both libraries do, where the paper does not
ONE_PASS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("layer_cam", "LayerCAM", {}),
    ("hires_cam", "HiResCAM", SIGNED),
    ("xgrad_cam", "XGradCAM", SIGNED),
)
UNITS = 512  # of the last stage of ResNet-18

CASES: tuple[Case, ...] = (
    *(
        Case(
            own, "resnet18", 16, "pytorch-grad-cam", beside_grad_cam(own, name, **options), cost=forwards(1), faster=3.0
        )
        for own, name, options in ONE_PASS
    ),
    *(
        Case(own, "resnet18", n, "torchcam", beside_torchcam(own, name, **options), cost=forwards(1), faster=faster)
        for own, name, options in (("grad_cam", "GradCAM", {}), ("layer_cam", "LayerCAM", {}))
        for n, faster in ((16, 1.2), (1, 0.95))
    ),
    Case("guided_grad_cam", "resnet18", 16, "captum", guided_grad_cam, faster=1.25, inplace=False),
    Case(
        "score_cam",
        "resnet18",
        1,
        PEER,
        score_cam,
        cost=forwards(1 + UNITS),
        limit_batch=16,
        faster=1.3,
        share=0.9,
    ),
    Case(
        "ablation_cam",
        "resnet18",
        1,
        PEER,
        beside_grad_cam("ablation_cam", "AblationCAM"),
        cost=forwards(1),
        faster=200.0,
        share=0.67,
    ),
    Case(
        "eigen_cam",
        "resnet18",
        16,
        PEER,
        eigen_cam,
        cost=forwards(1),
        faster=3.0,
    ),
)
