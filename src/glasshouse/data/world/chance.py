"""Draws that depend on a seed, a name and an index, and on nothing else.

Image 7 of seed 3 has the same sun whatever is drawn before it, beside it or on which device; a factor that is
added later leaves all others as they were.
"""

from hashlib import blake2b

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glasshouse.core.stats.hashing import scramble


def uniform(index: Int[Tensor, " n"], seed: int, name: str) -> Float[Tensor, " n"]:
    """One number of 0…1 (float64, 1 excluded) per index; numbers of different names are independent."""
    key = int.from_bytes(blake2b(f"{seed}/{name}".encode(), digest_size=8).digest(), "little")
    bits = (scramble(index, key) >> 11) & ((1 << 53) - 1)
    return bits.double() * 2.0**-53


def between(index: Int[Tensor, " n"], seed: int, name: str, low: float | int, high: float | int) -> Float[Tensor, " n"]:
    """One number of `low`…`high` per index."""
    return low + (high - low) * uniform(index, seed, name)


def choice(index: Int[Tensor, " n"], seed: int, name: str, weights: Float[Tensor, " k"]) -> Int[Tensor, " n"]:
    """One of k numbers per index, each as often as its weight says."""
    edges = (weights.double() / weights.double().sum()).cumsum(0)
    return torch.bucketize(uniform(index, seed, name), edges[:-1], right=True)
