"""Who does the shards of a pass: this process, the processes of `torchrun`, or Ray's workers.

All give the same bits, because a shard's result does not depend on who makes it and results are merged in the
order of the shards (`glasshouse.core.shards`). Engines with several processes need `into`, a folder that all see.
"""

import atexit
import os
from collections.abc import Sequence
from datetime import timedelta
from importlib.metadata import version
from typing import Any, Literal, TypeAlias, TypeVar, get_args

import torch
import torch.distributed as dist

from glasshouse.core.errors import BadInput, Interrupted, MissingPackage, not_found
from glasshouse.core.shards import Engine, Work, serial

EngineName: TypeAlias = Literal["serial", "torchrun", "ray"]
T = TypeVar("T")
LEAST_RAY = (2, 54)  # before it, a page opened in the user's browser could reach the job server (CVE-2026-27482)
ATTEMPTS = 2  # at a shard whose worker dies


def engine_named(name: EngineName, workers: int = 2) -> Engine:
    """An engine by name, with its usual settings; `workers` is Ray's affair, `torchrun` has its own."""
    if name == "serial":
        return serial
    if name == "torchrun":
        return torchrun_engine()
    if name == "ray":
        return ray_engine(workers)
    raise not_found("engine", name, get_args(EngineName))


def torchrun_engine(*, patience_h: float | int = 24) -> Engine:
    """Under `torchrun`, rank r of n does every n-th shard from the r-th on; all wait, and all get the result.

        torchrun --nproc-per-node 4 scan.py

    A rank that fails or dies makes the others stop with `Interrupted` once their shards are done, and what was
    finished is kept. `torchrun` gives each process one thread; for the bits of another number set OMP_NUM_THREADS.

    Args:
        patience_h: hours to wait for a rank that is alive and silent, which is longer than a shard takes.
    """

    def run(work: Work, shards: Sequence[int]) -> None:
        _check_folder(work, "torchrun")
        _join_group()
        group: Any = dist.new_group(backend="gloo", timeout=timedelta(hours=patience_h))
        error: Exception | None = None
        try:
            rank, world = dist.get_rank(), dist.get_world_size()
            agreed: list[Any] = [list(shards)]  # a rank that came late has seen more finished shards than others
            dist.broadcast_object_list(agreed, src=0, group=group)
            try:
                serial(work, agreed[0][rank::world])
            except Exception as failure:
                error = failure
            said: list[Any] = [None] * world
            dist.all_gather_object(said, error and f"{type(error).__name__}: {error}", group=group)
        except RuntimeError as lost:
            raise error or Interrupted(f"another rank is gone: {lost}.", _AGAIN) from lost
        finally:
            dist.destroy_process_group(group)
        if error:
            raise error
        for other, failure in enumerate(said):
            if failure:
                raise Interrupted(f"rank {other} failed with {failure}.", _AGAIN)
        for shard in agreed[0]:
            work.finished(shard)

    return run


def ray_engine(
    workers: int = 2,
    *,
    threads: int | None = None,
    gpus: float | int = 0,
    address: str | None = None,
    store_bytes: int = 2**30,
) -> Engine:
    """Ray actors that take one shard after another; one that dies is replaced, and its shard tried once more.

    A Ray that runs already is used and left running. Otherwise one is started on this machine for the length of the
    pass, without dashboard and without reports of its use.

    Args:
        threads: that each worker computes with; None takes the number of this process, which gives the same bits.
        gpus: of each worker; may be a share of one.
        address: of a cluster, "auto" for the one that this machine belongs to. The folder must be seen by all of it.
        store_bytes: memory for what is handed to workers: model and data set, and so the pixels if they are in it.
    """
    if workers < 1 or (threads or 1) < 1:
        raise BadInput(f"workers={workers} and threads={threads} must be 1 or more.")
    ray = _import_ray()
    n_threads = threads or torch.get_num_threads()

    def run(work: Work, shards: Sequence[int]) -> None:
        _check_folder(work, "Ray")
        if not shards:
            return
        ours = not ray.is_initialized()
        if ours and address:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        elif ours:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            ray.init(
                num_cpus=workers * n_threads,
                include_dashboard=False,
                object_store_memory=store_bytes,
                log_to_driver=False,
                logging_level="ERROR",
            )
        try:
            _hand_out(ray, work, shards, min(workers, len(shards)), {"num_cpus": n_threads, "num_gpus": gpus})
        finally:
            if ours:
                ray.shutdown()

    return run


class _Worker:
    """One of Ray's actors."""

    def __init__(self, work: Work, threads: int):
        torch.set_num_threads(threads)
        self.work = work

    def do(self, shard: int) -> None:
        self.work(shard)


def _hand_out(ray: Any, work: Work, shards: Sequence[int], workers: int, needs: dict[str, Any]) -> None:
    """Each worker gets a shard, and the next one when it is done, until none is left."""
    kind, shipped = ray.remote(**needs)(_Worker), ray.put(work)
    waiting, attempts = [*reversed(shards)], dict.fromkeys(shards, 0)
    at_work: dict[Any, tuple[Any, int]] = {}

    def employ(worker: Any) -> None:
        if not waiting:
            return ray.kill(worker)
        shard = waiting.pop()
        attempts[shard] += 1
        at_work[worker.do.remote(shard)] = worker, shard

    try:
        for _ in range(workers):
            employ(kind.remote(shipped, needs["num_cpus"]))
        while at_work:
            (answer,), _ = ray.wait([*at_work])
            worker, shard = at_work.pop(answer)
            try:
                ray.get(answer)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except ray.exceptions.RayError as death:
                if attempts[shard] == ATTEMPTS:
                    why = type(death).__name__
                    raise Interrupted(f"{ATTEMPTS} workers died over shard {shard} ({why}).", _AGAIN) from death
                waiting.append(shard)
                worker = kind.remote(shipped, needs["num_cpus"])
            else:
                work.finished(shard)
            employ(worker)
    finally:
        for worker, _ in at_work.values():
            ray.kill(worker)


_AGAIN = "Run the pass again: it goes on from the shards that are finished."


def _check_folder(work: Work, engine: str) -> None:
    if work.into is None:
        raise BadInput(f"the processes of {engine} meet in a folder.", "Pass into=, a folder that all of them see.")


def _join_group() -> None:
    if dist.is_initialized():
        return
    if missing := [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise BadInput(
            f"this process was not started by torchrun: {missing[0]} is not set.",
            "Type: torchrun --nproc-per-node 2 script.py",
        )
    dist.init_process_group("gloo")
    atexit.register(_leave_group)


def _leave_group() -> None:
    """A process that ends with its group's threads alive may be aborted by them."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _import_ray() -> Any:
    hint = "Install it with: pip install 'glasshouse[ray]'"
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingPackage(f"this engine needs Ray, which cannot be imported: {error}.", hint) from error
    seen = version("ray")
    if tuple(int(part) for part in seen.split(".")[:2]) < LEAST_RAY:
        raise MissingPackage(f"Ray {seen} is older than {LEAST_RAY[0]}.{LEAST_RAY[1]}.", hint)
    return ray


def first_process() -> bool:
    """Whether this is the process that writes: the only one, or `torchrun`'s rank 0."""
    return os.environ.get("RANK", "0") == "0"


def agree(value: T) -> T:
    """What the first process says; each of `torchrun`'s processes must ask. Also a place where all of them meet."""
    if "RANK" not in os.environ:
        return value
    _join_group()
    said: list[Any] = [value]
    dist.broadcast_object_list(said, src=0)
    dist.barrier()
    return said[0]
