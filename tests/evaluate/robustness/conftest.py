"""Models whose gradients are known everywhere, and methods made for a test."""

import pytest
import torch
from torch import Tensor, nn

from glasshouse.core.registry import _registry


class Quadratic(nn.Module):
    """One score, `g·x + x'Hx / 2`, whose gradient is `g + Hx`."""

    def __init__(self, g: Tensor, h: Tensor):
        super().__init__()
        self.g, self.h = nn.Parameter(g), nn.Parameter(h)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return (flat @ self.g + (flat @ self.h * flat).sum(1) / 2)[:, None]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def quadratic() -> Quadratic:
    """For images of one channel and 6 × 8 pixels."""
    half = random(48, 48, seed=8)
    return Quadratic(random(48, seed=7), (half + half.T) / 2)


@pytest.fixture
def own_methods():
    """Inside, methods may be registered; afterwards they are gone."""
    known = dict(_registry)
    yield
    _registry.clear()
    _registry.update(known)
