"""What tells one network or data set from another: digests that are equal for equal ones, on any machine."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn

from glasshouse.core.errors import BadInput


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over the modules' names and kinds, then over each parameter's and buffer's name, type, shape and bytes.

    All in the order of their names. The device does not matter; one changed bit of a weight does. What a `forward`
    does beside its weights is not seen.
    """
    digest = sha256()
    for name, part in sorted(module.named_modules(remove_duplicate=False)):
        digest.update(f"{name}\0{type(part).__name__}\n".encode())
    parameters = module.named_parameters(remove_duplicate=False)
    for name, values in sorted([*parameters, *module.named_buffers(remove_duplicate=False)]):
        update_digest(digest, name, values)
    return digest.hexdigest()


def fingerprint_data(data: Any) -> str:
    """SHA-256 over the number of items and their ids, in order. Pixels are not read."""
    names = names_of(data)
    digest = sha256(f"{len(names)}".encode())
    for name in names:
        digest.update(f"\0{name}".encode())
    return digest.hexdigest()


def names_of(data: Any) -> Sequence[Any]:
    """What a data set calls its items: its `ids` (a sequence, or a method that gives one), else their indices."""
    ids: Any = getattr(data, "ids", None)
    names: Any = ids() if callable(ids) else ids
    if names is None:
        return range(len(data))
    if len(names) != len(data):
        raise BadInput(f"the dataset has {len(data)} items and {len(names)} ids.", "Give one id per item.")
    return names


def update_digest(digest: Any, name: str, values: Tensor) -> None:
    """Add a named tensor to a hash: name, type, shape, bytes."""
    digest.update(f"{name}\0{values.dtype}\0{tuple(values.shape)}\n".encode())
    flat = values.detach().cpu().contiguous().reshape(-1)
    digest.update(flat.view(torch.uint8).numpy())
