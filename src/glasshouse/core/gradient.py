"""The one way gradients are taken: with respect to inputs or activations, never filling anybody's `.grad`."""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from glasshouse.core.errors import BadModel


def gradient(score: Tensor, tensor: Tensor) -> Tensor:
    """`d sum(score) / d tensor`. In evaluation mode images are independent, so row n belongs to image n alone."""
    connected(score)
    return torch.autograd.grad(
        score.sum(), tensor, retain_graph=_kept.get() or None, allow_unused=True, materialize_grads=True
    )[0]


def connected(score: Tensor) -> None:
    """Raise unless there is a way back from a score to the images."""
    if not score.requires_grad:
        raise BadModel(
            "the score is not connected to the images by operations that can be differentiated.",
            "Look for torch.no_grad, .detach() or .item() in the model's forward, or use a method such as occlusion.",
        )


_kept: ContextVar[bool] = ContextVar("kept", default=False)


@contextmanager
def keeping_graphs() -> Generator[None]:
    """Inside, a graph survives its first gradient, so that another question can be asked of the same pass."""
    token = _kept.set(True)
    try:
        yield
    finally:
        _kept.reset(token)
