"""Baselines: the image that stands for "nothing there"."""

import torch
from torch import Tensor

from glasshouse.core import BadInput, Images


def baseline_images(baselines: float | Tensor, inputs: Images) -> Images:
    """One baseline per image, in the model's input space, from a number or a tensor that broadcasts."""
    given = torch.as_tensor(baselines, dtype=inputs.dtype, device=inputs.device)
    try:
        return given.expand_as(inputs)
    except RuntimeError as error:
        raise BadInput(
            f"baselines of shape {tuple(given.shape)} do not broadcast to images {tuple(inputs.shape)}.",
            "Give a number, one value per channel as (c, 1, 1), or an image.",
        ) from error
