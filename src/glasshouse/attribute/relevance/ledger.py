"""The books of a backward pass: what each operation was given, what it passed on, and what it kept."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Entry:
    """One operation. `bias` and `stabiliser` are computed from their own formulas, not as what is missing."""

    operation: str
    layer: str
    received: float = 0.0
    passed: float = 0.0
    bias: float = 0.0
    stabiliser: float = 0.0
    reached: bool = False

    def write(self, received: Tensor, passed: Sequence[Tensor]) -> None:
        self.reached = True
        self.received += total(received)
        self.passed += sum(map(total, passed))


@dataclass
class Ledger:
    """Entries in forward order."""

    entries: list[Entry] = field(default_factory=list[Entry])

    def open(self, operation: str, layer: str) -> Entry:
        self.entries.append(Entry(operation, layer))
        return self.entries[-1]


def total(values: Tensor) -> float:
    return float(values.double().sum())
