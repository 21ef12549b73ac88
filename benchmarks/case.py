"""One row of the benchmark: a method, the peer that computes the same, and what the method should reach."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from glasshouse.core import Cost, find_method

TARGET = 3  # the class that is explained
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Sides:
    """What is timed, and what is compared beforehand: both results, or those of `check` where results are random."""

    own: Callable[[], Any]
    peer: Callable[[], Any] | None = None
    check: Callable[[], tuple[Tensor, Tensor]] | None = None

    def answers(self) -> tuple[Tensor, Tensor]:
        assert self.peer is not None
        return self.check() if self.check else (self.own(), self.peer())


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Args:
        settings: of the method; `quick` replaces some of them with `--quick`.
        cost: passes per image that the limit counts; None takes what the method declares.
        limit_batch: images per pass of the limit; None takes the batch. 16 for methods that make many passes.
        agreement: least cosine between the two answers; gates of ReLUs near 0 flip with rounding.
        faster, share: targets for the ratio to the peer and to the best limit; None where there is none.
        inplace: False for peers that need ReLUs which do not overwrite.
        size: side of the images, where it is not for the run to choose.
    """

    method: str
    model: str
    batch: int
    peer: str
    sides: Callable[[nn.Module, Tensor, Settings], Sides]
    settings: Settings = field(default_factory=dict)
    quick: Settings = field(default_factory=dict)
    cost: Callable[[Settings, tuple[int, ...]], Cost] | None = None
    limit_batch: int | None = None
    agreement: float = 0.9999
    faster: float | None = None
    share: float | None = None
    inplace: bool = True
    size: int | None = None

    @property
    def name(self) -> str:
        return "/".join(filter(None, (self.method, self.model, str(self.batch), self.peer)))

    def passes(self, settings: Settings, shape: tuple[int, ...]) -> Cost:
        """What the limit counts for one image."""
        if self.cost is not None:
            return self.cost(settings, shape)
        info = find_method(self.method)
        defaults = {name: value.default for name, value in info.parameters.parameters.items()}
        cost = info.price({**defaults, **settings}, shape)
        assert cost is not None, f"say what {self.method} costs"
        return cost
