"""Small Vision Transformers as people write them, with random weights, for tests of attention."""

import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import nn

from conformance.architectures import CLASSES, SIZE, build, torchvision_vit
from glasshouse.zoo.nets.vit import VisionTransformer


def timm_vit(**changes: Any) -> nn.Module:
    """timm's, four patches a side; by default a class token alone stands before them."""
    from timm.models.vision_transformer import VisionTransformer

    settings = {"img_size": SIZE, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, **changes}
    return VisionTransformer(**settings, num_classes=CLASSES)


def transformers_vit(attention: str, size: int = SIZE) -> nn.Module:
    """Of the package transformers, from its own configuration: `attention` is "sdpa" or "eager"."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers")
        config = transformers.ViTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            image_size=size,
            patch_size=16,
            num_labels=CLASSES,
            attn_implementation=attention,
        )
        return transformers.ViTForImageClassification(config)


def ours() -> nn.Module:
    return VisionTransformer(CLASSES, size=SIZE, patch=16, dim=32, depth=2, n_heads=2)


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "ours": ours,
    "torchvision": torchvision_vit,
    "timm": timm_vit,
    "timm_mean": partial(timm_vit, class_token=False, global_pool="avg"),
    "timm_registers": partial(timm_vit, reg_tokens=4),
    "timm_registers_mean": partial(timm_vit, reg_tokens=4, class_token=False, global_pool="avg"),
    "timm_class_token_mean": partial(timm_vit, global_pool="avg"),
    "timm_qk_norm": partial(timm_vit, qk_norm=True),
    "timm_wide": partial(timm_vit, img_size=(64, 96)),
    "timm_one_block": partial(timm_vit, depth=1),
    "timm_distilled": lambda: build("timm_distilled"),
    "transformers_sdpa": partial(transformers_vit, "sdpa"),
    "transformers_eager": partial(transformers_vit, "eager"),
}
QUICK = ("ours", "torchvision", "timm_registers_mean", "timm_wide")
EVERY = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in BUILDERS]
PREFIX = {"timm_mean": 0, "timm_registers": 5, "timm_registers_mean": 4, "timm_distilled": 2}
"""Tokens before the patches, where it is not the class token alone."""

READ = {
    "timm_mean": range(16),
    "timm_registers_mean": range(4, 20),
    "timm_class_token_mean": range(1, 17),
    "timm_distilled": range(2),
}
"""The tokens that the classifier reads, where it is not the first alone."""


@cache
def vit(name: str) -> nn.Module:
    """One of them in evaluation mode, with opinions; shared between tests: leave it as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = BUILDERS[name]()
        for weight in model.parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=0.3)
            elif weight.ndim == 3:  # positions and class tokens
                nn.init.normal_(weight)
    return model.eval()


def size_of(name: str) -> tuple[int, int]:
    return (SIZE, 96) if name == "timm_wide" else (SIZE, SIZE)


def grid_of(name: str) -> tuple[int, int]:
    h, w = size_of(name)
    return h // 16, w // 16
