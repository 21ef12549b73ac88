"""One pass over a dataset, in numbered shards: same bits for any number of workers, and it resumes.

A shard's partial result depends on nothing but the step, the shard and the settings. Partials are merged in
the order of the shards, whoever made them and whenever, so an engine is only a way to run a function over
shard numbers.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import default_collate  # pyright: ignore[reportUnknownVariableType]

from glasshouse.core.chunks import is_out_of_memory
from glasshouse.core.errors import BadInput, Interrupted, OutOfMemory
from glasshouse.core.fingerprints import fingerprint_data, names_of
from glasshouse.core.partials import Partial, claim, file_of, read_partial, write_partial
from glasshouse.core.stats import Stat
from glasshouse.core.types import Progress


@runtime_checkable
class Data(Protocol):
    """Items by index: an image `c h w`, or a tuple or dictionary of tensors, all of equal shapes.

    `ids`, if there is one, is a sequence (or a method that gives one) with a name for each item.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


S = TypeVar("S", bound=Stat | Mapping[str, Stat])


@dataclass(frozen=True)
class _Pass:
    """The settings of one pass, and the part of it that is the same for every shard."""

    step: Callable[[Any, Tensor], Any]
    data: Data
    names: Sequence[Any]
    stats: Mapping[str, Stat]
    batch_size: int
    shard_size: int
    tolerant: bool

    @property
    def n_shards(self) -> int:
        return -(-len(self.data) // self.shard_size)

    def span(self, shard: int) -> range:
        return range(len(self.data))[shard * self.shard_size : (shard + 1) * self.shard_size]


@dataclass(frozen=True)
class Work:
    """What an engine is handed: called with the number of a shard, it does that shard.

    It may be called from several threads. With `into`, a folder that all see, it may also be pickled and called in
    other processes; such a copy tells nobody of its progress, so the engine says `finished` here.
    """

    plan: _Pass
    into: Path | None = None
    mark: str = ""
    keep: Callable[[int, Partial], None] | None = None
    tick: Callable[[int, int], None] | None = None

    def __call__(self, shard: int) -> None:
        partial = _scan(self.plan, shard, self.tick)
        if self.into:
            write_partial(self.into, shard, self.mark, partial)
        elif self.keep:
            self.keep(shard, partial)

    def finished(self, shard: int) -> None:
        """Count the progress of a shard that another process did."""
        if self.tick:
            self.tick(shard, len(self.plan.span(shard)))

    def __reduce__(self) -> tuple[Any, ...]:
        return Work, (self.plan, self.into, self.mark)


Engine: TypeAlias = Callable[[Work, Sequence[int]], None]
"""Calls the work once with each of some numbers, in any order, and returns when all are done."""


def serial(work: Callable[[int], None], shards: Sequence[int]) -> None:
    """The engine without workers: one shard after the other, here."""
    for shard in shards:
        work(shard)


def sweep(
    step: Callable[[Any, Tensor], Any],
    data: Data,
    stat: S,
    *,
    batch_size: int = 16,
    shard_size: int = 4096,
    into: Path | None = None,
    key: str = "",
    engine: Engine = serial,
    progress: Progress | None = None,
    on_skip: Callable[[str, str], None] | None = None,
) -> S:
    """`stat`, counted over all of `data`: a new one with the same settings, or a dictionary of new ones.

    `step(batch, ids)` gets the stacked items and their indices in `data` (int64), and gives the tuple of
    arguments for `stat.update`. For several statistics in one pass, hand in a dictionary and let `step` give
    a dictionary of tuples.

    Args:
        into: folder for the partial results. A pass that was killed goes on from there, and loses at most
            the shards that were being worked on. Several machines may fill one folder, or copy their files
            into one.
        key: whatever else the answer depends on (model, layer, preprocessing); a folder serves one key.
        engine: who does the shards: `serial`, or one of `glasshouse.core.engines`, which need `into`.
        progress: called with (items done, items in all) after every batch.
        on_skip: called with id and reason for each item that cannot be read, when the pass is over; without
            it, such an item is an error. Reasons are kept with the partial results.
    """
    if not len(data):
        raise BadInput("the dataset is empty.", "Check the folder, or the filter that made it.")
    if batch_size < 1 or shard_size < 1:
        raise BadInput(f"batch_size={batch_size} and shard_size={shard_size} must be 1 or more.")
    stats: Mapping[str, Stat] = stat if isinstance(stat, Mapping) else {"": stat}
    plan = _Pass(step, data, names_of(data), stats, batch_size, shard_size, on_skip is not None)
    mark = claim(into, _settings(plan, key)) if into else ""
    finished = {shard for shard in range(plan.n_shards) if into and (into / file_of(shard)).exists()}
    done = {shard: len(plan.span(shard)) for shard in finished}
    result = {name: one.fresh() for name, one in stats.items()}
    skipped: dict[str, str] = {}
    waiting: dict[int, Partial] = {}
    lock, merged = threading.Lock(), 0

    def tick(shard: int, n_items: int) -> None:
        with lock:
            done[shard] = max(n_items, done.get(shard, 0))
            if progress:
                progress(sum(done.values()), len(data))

    def keep(shard: int, partial: Partial) -> None:
        nonlocal merged
        with lock:
            waiting[shard] = partial
            while merged in waiting:
                _merge(result, skipped, waiting.pop(merged))
                merged += 1

    if progress and done:
        progress(sum(done.values()), len(data))
    engine(Work(plan, into, mark, keep, tick), [shard for shard in range(plan.n_shards) if shard not in finished])
    if into:
        for shard in range(plan.n_shards):
            _merge(result, skipped, read_partial(into, shard, mark))
    elif merged < plan.n_shards:
        raise Interrupted(f"the engine came back without shard {merged} of {plan.n_shards}.")
    _report(skipped, len(data), on_skip)
    return cast(S, result if isinstance(stat, Mapping) else result[""])


def _settings(plan: _Pass, key: str) -> dict[str, Any]:
    """What tells this pass from others, in plain values."""
    whole = {"key": key, "n_items": len(plan.data), "ids": fingerprint_data(plan.data)}
    sizes = {"batch_size": plan.batch_size, "shard_size": plan.shard_size}
    stats = {
        f"stat {name}".strip(): {"class": type(stat).__name__, **stat.settings()} for name, stat in plan.stats.items()
    }
    return whole | sizes | stats


def _scan(plan: _Pass, shard: int, tick: Callable[[int, int], None] | None) -> Partial:
    """One shard, from empty statistics."""
    parts = {name: stat.fresh() for name, stat in plan.stats.items()}
    skipped: dict[str, str] = {}
    span = plan.span(shard)
    for start in range(0, len(span), plan.batch_size):
        indices = span[start : start + plan.batch_size]
        items: dict[int, Any] = {}
        for index in indices:
            try:
                items[index] = plan.data[index]
            except Exception as error:
                name = str(plan.names[index])
                skipped[name] = f"{type(error).__name__}: {error}"
                if not plan.tolerant:
                    raise BadInput(
                        f"item {name!r} cannot be read: {skipped[name]}.",
                        "Mend or remove it, or pass on_skip= to leave such items out.",
                    ) from error
        if items:
            _update(parts, _stepped(plan, items))
        if tick:
            tick(shard, start + len(indices))
    tensors = {f"{name}/{field}": x for name, part in parts.items() for field, x in part.state().items()}
    return Partial(tensors, skipped)


def _stepped(plan: _Pass, items: Mapping[int, Any]) -> Any:
    """What the step gives. Its batch stays as it is where memory runs out: another one could change the last bits."""
    try:
        return plan.step(_stack(items, plan), torch.tensor(list(items)))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"a batch of {len(items)} does not fit into memory.",
            f"Pass batch_size={max(1, len(items) // 2)}; with into=, that is another pass, in a folder of its own.",
        ) from error


def _stack(items: Mapping[int, Any], plan: _Pass) -> Any:
    try:
        return default_collate(list(items.values()))
    except (RuntimeError, TypeError) as error:
        first, last = (str(plan.names[index]) for index in (min(items), max(items)))
        raise BadInput(
            f"items {first!r} to {last!r} do not stack into a batch: {error}",
            "Resize them to one shape, or pass batch_size=1.",
        ) from error


def _update(parts: Mapping[str, Stat], answer: Any) -> None:
    answers = cast(Mapping[str, Any], answer if isinstance(answer, Mapping) else {"": answer})
    if set(answers) != set(parts):
        raise BadInput(
            f"step gave {sorted(answers) or 'nothing'} for the statistics {sorted(parts)}.",
            "Give a tuple for one statistic, a dictionary of tuples with the same names for several.",
        )
    for name, arguments in answers.items():
        if not isinstance(arguments, tuple):
            raise BadInput(
                f"step gave a {type(arguments).__name__} where a tuple of arguments is due.",
                "Write a comma after a single one: `return (values,)`.",
            )
        parts[name].update(*arguments)


def _merge(result: Mapping[str, Stat], skipped: dict[str, str], partial: Partial) -> None:
    for name, stat in result.items():
        paths = (path.rpartition("/") for path in partial.tensors)
        part = stat.fresh()
        part.load({field: partial.tensors[f"{owner}/{field}"] for owner, _, field in paths if owner == name})
        stat.merge(part)
    skipped.update(partial.skipped)


def _report(skipped: Mapping[str, str], n_items: int, on_skip: Callable[[str, str], None] | None) -> None:
    if skipped and (on_skip is None or len(skipped) == n_items):
        name, reason = next(iter(skipped.items()))
        raise BadInput(
            f"{len(skipped)} of {n_items} items cannot be read; the first is {name!r}: {reason}.",
            "Mend or remove them." if on_skip else "Pass on_skip= to go without them.",
        )
    for name, reason in skipped.items():
        if on_skip:
            on_skip(name, reason)
