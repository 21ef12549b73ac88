"""The one way gradients are taken: with respect to inputs or activations, never filling anybody's `.grad`."""

import torch
from torch import Tensor

from glasshouse.core.errors import BadModel


def gradient(score: Tensor, tensor: Tensor) -> Tensor:
    """`d sum(score) / d tensor`. In evaluation mode images are independent, so row n belongs to image n alone."""
    if not score.requires_grad:
        raise BadModel(
            "the score is not connected to the images by operations that can be differentiated.",
            "Look for torch.no_grad, .detach() or .item() in the model's forward, or use a method such as occlusion.",
        )
    return torch.autograd.grad(score.sum(), tensor, allow_unused=True, materialize_grads=True)[0]
