"""Races: all sides in one process, in turn, again and again, so that a slow moment of the machine hits all of them."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from benchmarks.nets import CLASSES

Clock = Callable[[], float]
"""Runs one side once; returns the seconds it took."""

DRIFT = 0.15  # of the median; a round whose limit strays further is thrown away
MOST_ROUNDS = 25
REPEATS = 2


@dataclass(frozen=True)
class Race:
    """Seconds of each side in each round that counts. `noisy` where too few rounds were steady; then all count."""

    seconds: dict[str, list[float]]
    noisy: bool

    def median(self, side: str) -> float:
        return median(self.seconds[side])

    def ratios(self, side: str, other: str) -> list[float]:
        """How many times longer `side` took than `other`, round by round."""
        return [a / b for a, b in zip(self.seconds[side], self.seconds[other], strict=True)]


def clock(run: Callable[[], Any]) -> Clock:
    def timed() -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return timed


def race(sides: Mapping[str, Clock], watch: str | None = None, rounds: int = 5, seconds: float = 20.0) -> Race:
    """At least `rounds` rounds, then more until `seconds` have gone; the order is rotated from round to round.

    Args:
        watch: the side whose drift tells that the machine was busy with something else. Rounds that strayed are run
            again, twice at most.
    """
    for run in sides.values():
        run()
    start, laps = time.perf_counter(), list[dict[str, float]]()

    def run_lap() -> None:
        names = list(sides)
        shift = len(laps) % len(names)
        laps.append({name: sides[name]() for name in names[shift:] + names[:shift]})

    while len(laps) < rounds or (len(laps) < MOST_ROUNDS and time.perf_counter() - start < seconds):
        run_lap()
    for _ in range(REPEATS):
        for _ in range(rounds - len(steady(laps, watch))):
            run_lap()
    good = steady(laps, watch)
    noisy = len(good) < rounds
    kept = laps if noisy else good
    return Race({name: [lap[name] for lap in kept] for name in sides}, noisy)


def steady(laps: list[dict[str, float]], watch: str | None) -> list[dict[str, float]]:
    """The rounds in which the watched side stayed near its median."""
    if watch is None:
        return laps
    middle = median(lap[watch] for lap in laps)
    return [lap for lap in laps if abs(lap[watch] / middle - 1) <= DRIFT]


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return low, middle, high


class Passes(TorchFunctionMode):
    """Counts images that go through a network, forward at its first convolution, backward there or at its head.

    It sees functions rather than modules, and so counts in any copy of the network, ours and the peers' alike.
    """

    def __init__(self) -> None:
        super().__init__()
        self.forward = 0
        self.backward = {"stem": 0, "head": 0}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.__name__ == "conv2d" and args[1].shape[1] == 3 and out.ndim == 4 and out.shape[1] > 3:
            self.forward += len(out)
            self.watch(out, "stem")
        elif func.__name__ == "linear" and args[1].shape[0] == CLASSES:
            self.watch(out, "head")
        return out

    def watch(self, out: Tensor, place: str) -> None:
        def count(gradient: Tensor) -> None:
            self.backward[place] += len(gradient)

        if out.requires_grad:
            out.register_hook(count)


def count_passes(run: Callable[[], Any], images: int) -> dict[str, float]:
    """Forward and backward passes per image."""
    with Passes() as passes:
        run()
    return {"forward": passes.forward / images, "backward": max(passes.backward.values()) / images}


def peak_memory(run: Callable[[], Any]) -> int | None:
    """Bytes above what the process held before, at the worst moment; None where the system does not tell."""
    status = Path("/proc/self/status")

    def read(name: str) -> int:
        return 1024 * int(status.read_text().split(f"{name}:")[1].split()[0])

    with suppress(OSError, IndexError):
        Path("/proc/self/clear_refs").write_text("5")
        before = read("VmRSS")
        run()
        return max(0, read("VmHWM") - before)
    return None


def cosine(own: Tensor, other: Tensor) -> float:
    """Of the two answers to each image, flattened; the worst image counts."""
    a, b = own.detach().flatten(1).double(), other.detach().flatten(1).double()
    return float(((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).min())
