"""Occlusion beside Captum's, on networks in which a patch changes little for long, less long, and not at all."""

import copy

from torch import Tensor, nn

from benchmarks.case import TARGET, Case, Settings, Sides
from benchmarks.nets import peer
from glasshouse import attribute


def occlusion(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    other = peer("captum.attr").Occlusion(copy.deepcopy(model))
    window, stride = settings["sliding_window_shapes"], settings["strides"]
    shapes = {"sliding_window_shapes": (3, window, window), "strides": (3, stride, stride)}
    return Sides(
        lambda: attribute.occlusion(model, images, TARGET, score="logit", **settings).native,
        lambda: other.attribute(images, target=TARGET, perturbations_per_eval=16, **shapes)[:, :1],
    )


def beside_captum(model: str, faster: float, window: int = 32, stride: int = 16) -> Case:
    settings = {"sliding_window_shapes": window, "strides": stride}
    return Case("occlusion", model, 1, "captum", occlusion, settings=settings, limit_batch=16, faster=faster)


CASES: tuple[Case, ...] = (
    beside_captum("resnet18", faster=2.5),
    beside_captum("vgg16", faster=6.0),
    beside_captum("efficientnet_lite0", faster=4.0),
    beside_captum("vit_small_patch16_224", faster=0.95),
)
