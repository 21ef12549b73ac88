"""What every streaming statistic can do: take a batch, take another's count, start afresh, be saved."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glasshouse.core.errors import BadInput


@runtime_checkable
class Stat(Protocol):
    """Something counted over batches that can be counted anywhere and put together afterwards.

    Law: any split of the data, updated in any order on fresh copies and merged in any order, reads the
    same as one update; empty is the identity; `load(state())` is the identity.
    """

    @property
    def update(self) -> Callable[..., None]:
        """Count one batch; each statistic says what a batch is."""
        ...

    def merge(self, other: Any) -> None:
        """Count all that `other` counted, which is left as it is."""
        ...

    def fresh(self) -> "Stat":
        """An empty one with the same settings."""
        ...

    def settings(self) -> dict[str, Any]:
        """What it was made with, in plain values."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What it counted, as a copy on the CPU."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` of one with the same settings gave."""
        ...


S = TypeVar("S", bound="Counted")


@dataclass(eq=False, repr=False)
class Counted(ABC):
    """The part of `Stat` that is the same for all: init fields are settings, the other fields are counted.

    A statistic adds `update`, `shape` and `_join`. It lives on the device of its batches.
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """How many units (and concepts) are counted; zeros before the first batch."""

    @abstractmethod
    def _join(self, other: Any) -> None:
        """Count what another of the same shape counted; neither is empty."""

    def merge(self: S, other: S) -> None:
        """Count all that `other` counted, which is left as it is."""
        if type(self) is not type(other) or self.settings() != other.settings():
            raise BadInput(f"cannot merge {other!r} into {self!r}.", "Make one from the other with .fresh().")
        if 0 in other.shape:
            return
        if 0 in self.shape:
            for name in self._counted():
                setattr(self, name, deepcopy(getattr(other, name)))
        elif self.shape != other.shape:
            raise BadInput(f"cannot merge {other!r} into {self!r}: the sizes differ.", "Count each layer on its own.")
        else:
            self._join(other)

    def fresh(self: S) -> S:
        """An empty one with the same settings."""
        return replace(self)

    def settings(self) -> dict[str, Any]:
        """What it was made with, in plain values."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.init}

    def state(self) -> dict[str, Tensor]:
        """What it counted, as a copy on the CPU."""
        return {name: torch.as_tensor(getattr(self, name)).to("cpu", copy=True) for name in self._counted()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` of one with the same settings gave."""
        names = self._counted()
        if set(state) != set(names):
            raise BadInput(
                f"this state holds {sorted(state)}, {type(self).__name__} counts {sorted(names)}.",
                "Load it into the statistic that saved it.",
            )
        for name in names:
            whole = isinstance(getattr(self, name), int)
            setattr(self, name, int(state[name]) if whole else state[name].clone())

    def _counted(self) -> list[str]:
        return [field.name for field in fields(self) if not field.init]

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.settings().items())
        return f"{type(self).__name__}({settings}) of {' x '.join(map(str, self.shape))}"


def reject_nan(values: Float[Tensor, "n k *grid"], ids: Int[Tensor, " n"] | None = None) -> None:
    """An error that names the first image of the batch with a NaN, and its first unit."""
    bad = values.isnan()
    if bad.any():
        row, unit = (int(i) for i in bad.nonzero()[0, :2])
        image = f"row {row} of this batch" if ids is None else f"image {int(ids[row])}"
        raise BadInput(f"{image} gives NaN in unit {unit}.", "Look at its pixels, or run the model in float32.")


def in_double(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """In float64, on the CPU where the device has none."""
    values = values.detach()
    return (values.cpu() if values.device.type == "mps" else values).double()


def in_single(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """In float32 if it is shorter than that: what is kept of half-precision values is exact."""
    values = values.detach()
    return values.float() if values.dtype.itemsize < 4 else values


def check_level(level: float) -> None:
    """A quantile's level is a fraction."""
    if not 0 <= level <= 1:
        raise BadInput(f"level {level} is not in 0…1.", "0.99 asks for the value that 99 % lie below.")


def check_count(name: str, value: int, least: int = 1) -> None:
    """A setting that counts something."""
    if value < least:
        raise BadInput(f"{name}={value} is too small.", f"Use at least {least}.")
