"""What is asked of an output: the target, and any further classes in the same pass."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glasshouse.core import Aim, BadInput, Images, Reading, select
from glasshouse.core.target import logits, readings

Classes: TypeAlias = Literal["all"] | Sequence[int] | None
"""Classes to explain besides the target, from the same passes."""


def ask(model: nn.Module, images: Images, aim: Aim, score: Reading, classes: Classes) -> Float[Tensor, "n q"]:
    """The score of the target, then those of `classes`; in single precision at least."""
    output = logits(model(images))
    own = select(output, aim, score)[:, None]
    found = own if classes is None else torch.cat([own, chosen(output, score, classes)], 1)
    return found.to(wide(images))


def chosen(output: Tensor, score: Reading, classes: Literal["all"] | Sequence[int]) -> Float[Tensor, "n k"]:
    """The scores of the classes asked for."""
    if output.ndim != 2:
        raise BadInput(f"the output {tuple(output.shape)} has no plain classes.", "Leave out `classes`.")
    values, k = readings(output, score), output.shape[1]
    if isinstance(classes, str):
        return values
    if wrong := [c for c in classes if not 0 <= c < k]:
        raise BadInput(f"class {wrong[0]} is out of range: the model has {k} classes.", f"Use 0…{k - 1}.")
    return values[:, list(classes)]


def wide(images: Tensor) -> torch.dtype:
    """The type that sums over many passes are kept in."""
    return torch.promote_types(images.dtype, torch.float32)
