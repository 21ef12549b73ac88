"""Methods for Vision Transformers. Dropping tokens runs beside masking them, which gives the same answer."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from benchmarks.case import TARGET, Case, Settings, Sides
from glasshouse import attribute
from glasshouse.core import Cost

VIT, PATCH = "vit_small_patch16_224", 16


def alone(own: Callable[..., Any]) -> Callable[[nn.Module, Tensor, Settings], Sides]:
    """Sides of a method that no installed peer has."""

    def sides(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
        return Sides(lambda: own(model, images, TARGET, **settings).native)

    return sides


class Masked(TorchFunctionMode):
    """Fused attention that may not look at some tokens, others in each row."""

    def __init__(self, mask: Tensor):
        super().__init__()
        self.mask = mask

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return func(*args[:3], attn_mask=self.mask)
        return func(*args, **(kwargs or {}))


def masked_tokens(model: nn.Module, images: Tensor, window: int, side: int, chunk: int = 16) -> Tensor:
    """The grid of token occlusion for windows side by side, with every token computed and some of them unseen."""
    per_side = side // window
    found: list[Tensor] = []
    with torch.no_grad():
        clean = model(images).softmax(1)[:, TARGET]
        for part in torch.arange(per_side**2).split(chunk):
            unseen = F.one_hot(part, per_side**2).view(-1, 1, per_side, per_side).float()
            unseen = F.pad(F.interpolate(unseen, scale_factor=window).flatten(2), (1, 0)).bool()
            with Masked(~unseen[:, :, None]):
                found.append(clean - model(images.expand(len(part), -1, -1, -1)).softmax(1)[:, TARGET])
    return torch.cat(found).view(1, per_side, per_side)


def token_occlusion(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    window = settings["sliding_window_shapes"]
    return Sides(
        lambda: attribute.token_occlusion(model, images, TARGET, **settings).extras["grid"],
        lambda: masked_tokens(model, images, window, images.shape[-1] // PATCH),
    )


def passes(settings: Settings, shape: tuple[int, ...]) -> Cost:
    """Of token occlusion with windows side by side."""
    return Cost(1 + (shape[-1] // PATCH // settings["sliding_window_shapes"]) ** 2)


def windows(window: int, faster: float) -> Case:
    return Case(
        "token_occlusion",
        VIT,
        1,
        f"masks of {window}",
        token_occlusion,
        settings={"sliding_window_shapes": window, "strides": window},
        quick={"sliding_window_shapes": 2, "strides": 2},
        cost=passes,
        limit_batch=16,
        faster=faster,
    )


CASES: tuple[Case, ...] = (
    Case("attention_rollout", VIT, 8, "", alone(attribute.attention_rollout)),
    Case("attention_relevance", VIT, 8, "", alone(attribute.attention_relevance)),
    windows(2, 0.95),
    windows(7, 1.1),
)
