"""Long work in parts: a part is halved where memory runs out, progress is told, and work can be stopped in between."""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from glasshouse.core.errors import OutOfMemory
from glasshouse.core.types import Progress

T = TypeVar("T")


@dataclass
class Watch:
    """Who is told of progress, and what has happened so far.

    Args:
        chunk: the size of parts that memory allowed, once it ran out; None as long as it has not.
        teller: the outermost loop, which alone reports: loops within it are parts of its steps.
    """

    progress: Progress | None = None
    chunk: int | None = None
    teller: object = None

    def tell(self, loop: object, done: int, total: int) -> None:
        if self.teller is loop and self.progress:
            self.progress(done, total)


_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watching(progress: Progress | None = None) -> Generator[Watch]:
    """Report the progress of whatever long work runs inside the `with`.

        with watching(lambda done, total: print(f"{done} of {total}")):
            attribute.rise(model, images)

    An exception raised by `progress` stops the work, and the model comes back as it was.
    """
    watch = Watch(progress)
    token = _watch.set(watch)
    try:
        yield watch
    finally:
        _watch.reset(token)


@contextmanager
def recording() -> Generator[Watch]:
    """Note what happens inside; whoever is watching outside is told all the same."""
    outer = _watch.get() or Watch()
    token = _watch.set(inner := Watch(outer.progress, teller=outer.teller))
    try:
        yield inner
    finally:
        outer.chunk = inner.chunk or outer.chunk
        _watch.reset(token)


@dataclass
class Loop:
    """One loop over parts or steps; the outermost of several speaks, unless it has one part only."""

    total: int
    parts: int
    watch: Watch = field(default_factory=lambda: _watch.get() or Watch())

    def __post_init__(self) -> None:
        if self.parts > 1 and self.watch.teller is None:
            self.watch.teller = self

    def reached(self, done: int) -> None:
        self.watch.tell(self, done, self.total)

    def close(self) -> None:
        if self.watch.teller is self:
            self.watch.teller = None


def steps(total: int) -> Iterator[int]:
    """`range(total)`, with progress."""
    loop = Loop(total, total)
    try:
        for step in range(total):
            yield step
            loop.reached(step + 1)
    finally:
        loop.close()


def in_chunks(
    run: Callable[[Int[Tensor, " r"]], T], count: int, chunk: int, device: torch.device | str = "cpu"
) -> Iterator[tuple[Int[Tensor, " r"], T]]:
    """`(rows, run(rows))` for parts of `0…count - 1` in order, each of at most `chunk` rows.

    A part that does not fit into memory is halved and run again, and so are all after it. `run` must not have
    changed anything when it fails.
    """
    rows, done, loop = torch.arange(count, device=device), 0, Loop(count, -(-count // chunk))
    chunk = min(chunk, loop.watch.chunk or chunk)
    try:
        while done < count:
            part = rows[done : done + chunk]
            result = attempt(run, part)
            if result is None:
                chunk = loop.watch.chunk = max(1, len(part) // 2)
                continue
            done += len(part)
            yield part, result[0]
            loop.reached(done)
    finally:
        loop.close()


def attempt(run: Callable[[Int[Tensor, " r"]], T], part: Int[Tensor, " r"]) -> tuple[T] | None:
    """What `run` gives, in a tuple; None where memory ran out and fewer rows can be tried."""
    try:
        return (run(part),)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(part) == 1:
            raise OutOfMemory(
                f"not even one image fits into the memory of {part.device.type}.",
                "Use smaller images, a smaller model, or another device.",
            ) from error
    if part.is_cuda:
        torch.cuda.empty_cache()
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: torch has one for accelerators, and words for the CPU."""
    if isinstance(error, OutOfMemory):
        return False
    words = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in words
