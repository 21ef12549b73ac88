"""Gradients, backward rules and Grad-CAM beside their peers; rendering, exemplars and the card alone."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.case import TARGET, Case, Settings, Sides
from benchmarks.nets import peer
from glasshouse import attribute, dissect, evaluate, visualize
from glasshouse.core import Cost


def captum_like(own: str, captum: str, **options: Any) -> Callable[[nn.Module, Tensor, Settings], Sides]:
    """Sides of a method of one pass that Captum has under another name."""

    def sides(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
        other = getattr(peer("captum.attr"), captum)(copy.deepcopy(model))
        return Sides(
            lambda: getattr(attribute, own)(model, images, TARGET).native,
            lambda: other.attribute(images, target=TARGET, **options),
        )

    return sides


def integrated_gradients(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    other = peer("captum.attr").IntegratedGradients(copy.deepcopy(model))
    steps = settings["n_steps"]
    return Sides(
        lambda: attribute.integrated_gradients(model, images, TARGET, n_steps=steps).native,
        lambda: other.attribute(images, target=TARGET, n_steps=steps, internal_batch_size=16),
    )


def smooth(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    """The noise differs, so the answers are compared without any."""
    captum = peer("captum.attr")
    other, n = captum.NoiseTunnel(captum.Saliency(copy.deepcopy(model))), settings["n_samples"]
    width = float(images.max() - images.min())

    def own(samples: int, sigma: float) -> Tensor:
        return attribute.smooth(model, images, TARGET, n_samples=samples, sigma=sigma).native

    def theirs(samples: int, sigma: float) -> Tensor:
        batches = {"nt_samples": samples, "nt_samples_batch_size": min(16, samples)}
        return other.attribute(images, target=TARGET, abs=False, stdevs=sigma * width, **batches)

    return Sides(lambda: own(n, 0.15), lambda: theirs(n, 0.15), lambda: (own(2, 0.0), theirs(2, 1e-9)))


def grad_cam(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    theirs = copy.deepcopy(model)
    other = peer("captum.attr").LayerGradCam(theirs, theirs.layer4)
    return Sides(
        lambda: attribute.grad_cam(model, images, TARGET, layer="layer4").native,
        lambda: other.attribute(images, target=TARGET, relu_attributions=True)[:, 0],
    )


def grad_cam_of_its_own_library(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    """pytorch-grad-cam scales each map to 0…1; ours is, for the comparison."""
    library, theirs = peer("pytorch_grad_cam"), copy.deepcopy(model)
    other = library.GradCAM(model=theirs, target_layers=[theirs.layer4])
    goals = [peer("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget(TARGET)] * len(images)

    def own() -> Tensor:
        maps = attribute.grad_cam(model, images, TARGET, layer="layer4").heatmap
        low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
        return (maps - low) / (high - low).clamp(min=1e-7)

    return Sides(own, lambda: torch.as_tensor(other(input_tensor=images, targets=goals)))


def render(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    objective = visualize.logit(TARGET)
    size, steps = images.shape[-1], settings["steps"]
    return Sides(lambda: visualize.render(model, objective, size=size, steps=steps))


def exemplars(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    return Sides(lambda: dissect.exemplars(model, images, layer="layer4", k=4))


def card(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    explanation = attribute.grad_cam(model, images, TARGET)
    return Sides(lambda: evaluate.card(model, images, explanation, tier="lite"))


def one_pass(settings: Settings, shape: tuple[int, ...]) -> Cost:
    return Cost(1)


IG: dict[str, Any] = {
    "sides": integrated_gradients,
    "settings": {"n_steps": 50},
    "quick": {"n_steps": 4},
    "limit_batch": 16,
    "agreement": 0.999,
}
CAM: dict[str, Any] = {"cost": one_pass, "share": 0.9}

ONE_PASS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("saliency", "Saliency", {"abs": False}),
    ("input_x_gradient", "InputXGradient", {}),
    ("guided_backprop", "GuidedBackprop", {}),
    ("deconvnet", "Deconvolution", {}),
)


def beside_captum(own: str, captum: str, options: dict[str, Any]) -> tuple[Case, Case]:
    """A method of one pass on a batch, and on a single image, where nobody may be kept waiting either."""
    sides, hooked = captum_like(own, captum, **options), own in ("guided_backprop", "deconvnet")
    return (
        Case(own, "resnet18", 16, "captum", sides, faster=1.25, share=0.9, inplace=not hooked),
        Case(own, "resnet18", 1, "captum", sides, faster=0.95, inplace=not hooked),
    )


CASES: tuple[Case, ...] = (
    *(case for pair in ONE_PASS for case in beside_captum(*pair)),
    Case("saliency", "vit_small_patch16_224", 1, "captum", captum_like("saliency", "Saliency", abs=False), faster=0.95),
    Case("saliency", "vit_small_patch16_224", 8, "captum", captum_like("saliency", "Saliency", abs=False), faster=1.5),
    Case("integrated_gradients", "resnet18", 1, "captum", faster=1.4, share=0.9, **IG),
    Case("integrated_gradients", "efficientnet_lite0", 1, "captum", faster=1.4, share=0.9, **IG),
    Case("integrated_gradients", "vit_small_patch16_224", 1, "captum", faster=1.5, share=0.85, **IG),
    Case(
        "smooth",
        "resnet18",
        1,
        "captum",
        smooth,
        settings={"n_samples": 48},
        quick={"n_samples": 4},
        limit_batch=16,
        faster=1.3,
        share=0.9,
    ),
    Case("grad_cam", "resnet18", 16, "captum", grad_cam, faster=1.2, **CAM),
    Case("grad_cam", "resnet18", 1, "captum", grad_cam, **{**CAM, "share": None}, faster=0.95),
    Case("grad_cam", "resnet18", 16, "pytorch-grad-cam", grad_cam_of_its_own_library, faster=3.0, **CAM),
    Case("render", "resnet18", 1, "", render, settings={"steps": 16}, quick={"steps": 4}),
    Case("exemplars", "resnet18", 48, "", exemplars, cost=one_pass, limit_batch=16),
    Case("card", "resnet18", 2, "", card, cost=lambda settings, shape: Cost(18), limit_batch=16),
)
