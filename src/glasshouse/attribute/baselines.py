"""Baselines: the image that stands for "nothing there"."""

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from glasshouse.core import BadInput, Images, blur, generator

Kind: TypeAlias = Literal["mean", "blur", "noise"]
"""Made of each image: its mean colour, itself without detail, or noise of its own mean and spread per channel."""
Baselines: TypeAlias = float | Tensor | Kind

BLUR = 10 / 224  # standard deviation over the shorter side: what Fong & Vedaldi (ICCV 2017) blur with


def baseline_images(baselines: Baselines, inputs: Images) -> Images:
    """One baseline per image, in the model's input space: from a number, a tensor that broadcasts, or by kind."""
    if isinstance(baselines, str):
        return made_of(inputs, baselines)
    given = torch.as_tensor(baselines, dtype=inputs.dtype, device=inputs.device)
    try:
        return given.expand_as(inputs)
    except RuntimeError as error:
        raise BadInput(
            f"baselines of shape {tuple(given.shape)} do not broadcast to images {tuple(inputs.shape)}.",
            "Give a number, one value per channel as (c, 1, 1), or an image.",
        ) from error


def made_of(images: Images, kind: Kind) -> Images:
    """The baselines of a kind. Noise is the same for every image, before it is scaled."""
    mean = images.mean((2, 3), keepdim=True)
    if kind == "mean":
        return mean.expand_as(images)
    if kind == "blur":
        return blur(images, BLUR * min(images.shape[-2:]))
    if kind == "noise":
        noise = torch.randn(images.shape[1:], generator=generator(0)).to(images)
        return mean + noise * images.std((2, 3), correction=0, keepdim=True)
    raise BadInput(f"baselines '{kind}' are unknown.", f"Use one of {', '.join(get_args(Kind))}, a number or a tensor.")
