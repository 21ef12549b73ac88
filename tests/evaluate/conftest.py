"""Models whose truth is known, and explanations made by hand."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from glasshouse.core import Explanation

SIZE = (6, 8)


class Linear(nn.Module):
    """Two classes: `sum of weight * x`, and 0."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        score = (self.weight * x).flatten(1).sum(1)
        return torch.stack([score, torch.zeros_like(score)], 1)


@pytest.fixture
def linear() -> Linear:
    return Linear(torch.randn(1, *SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64))


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(3, 1, *SIZE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.fixture
def contributions(linear: Linear, inputs: Tensor) -> Tensor:
    """What each pixel adds to the linear model's score: the one right answer."""
    return (linear.weight * inputs).detach()[:, 0]


@pytest.fixture
def explained() -> Callable[..., Explanation]:
    def explained(maps: Tensor, target: int | Sequence[int] | None = 0, method: str = "by_hand") -> Explanation:
        classes = [target] * len(maps) if isinstance(target, int) else list(target or ())
        return Explanation(maps, maps, method, tuple(classes), torch.zeros(len(maps)), {})

    return explained


@pytest.fixture
def random_maps() -> Callable[..., Tensor]:
    def random_maps(n: int, size: tuple[int, int] = SIZE, seed: int = 3) -> Tensor:
        return torch.randn(n, *size, generator=torch.Generator().manual_seed(seed))

    return random_maps


@pytest.fixture
def counted() -> Callable[[nn.Module], list[int]]:
    """The sizes of all batches that a module is given from now on."""

    def counted(module: nn.Module) -> list[int]:
        sizes: list[int] = []
        module.register_forward_hook(lambda module, args, output: sizes.append(len(args[0])))
        return sizes

    return counted
