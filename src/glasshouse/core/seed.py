"""Randomness: every draw goes through an explicit `torch.Generator`; the global one is never touched."""

import torch

from glasshouse.core.errors import BadInput


def generator(seed: int | torch.Generator, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for `seed`: seeded afresh from an integer, or the caller's own, which then moves on."""
    if isinstance(seed, torch.Generator):
        return seed
    if not 0 <= seed < 2**63:
        raise BadInput(f"seed {seed} is not in 0…2^63-1.")
    return torch.Generator(device).manual_seed(seed)
