"""Whoever does the shards, with however many workers, and however often they are killed: the same bits."""

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from glasshouse.core import engines
from glasshouse.core.engines import engine_named, ray_engine, torchrun_engine
from glasshouse.core.errors import BadInput, Interrupted, MissingPackage, NotFound, OutOfMemory
from glasshouse.core.shards import serial, sweep
from glasshouse.core.stats import Moments

# One process imports torch and forks the others, as importing takes longer than all the rest.
SCRIPT = """
import os, random, signal, socket, sys, time, traceback
from pathlib import Path
import torch
from safetensors.torch import save_file
from glasshouse.core.engines import engine_named
from glasshouse.core.shards import sweep
from glasshouse.core.stats import Moments, Quantiles, TopK

PHOTOS = torch.randn(96, 3, 8, 8, generator=torch.Generator().manual_seed(0))
NET = torch.nn.Conv2d(3, 4, 3)
with torch.no_grad():
    for n, weight in enumerate(NET.parameters()):
        weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(n)))

def step(batch, ids):
    with torch.no_grad():
        units = NET(batch)
    best = units.flatten(2).max(2)
    scored = best.values, ids, best.indices
    return {"top": scored, "values": (units.flatten(2),), "mean": (units.mean((2, 3)),)}

def stats():
    return {"top": TopK(5), "values": Quantiles(width=8), "mean": Moments()}

def states(result):
    return {f"{name}.{field}": x for name, stat in result.items() for field, x in stat.state().items()}

def scan(into, out, engine="serial", step=step):
    result = sweep(step, PHOTOS, stats(), batch_size=2, shard_size=4, into=Path(into), engine=engine_named(engine, 2))
    save_file(states(result), out)

def forked(work, said):
    if child := os.fork():
        return child
    try:
        work()
        os._exit(0)
    except BaseException:
        Path(said).write_text(traceback.format_exc())
        os._exit(1)

def fleet(world, folder, trouble=""):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meet = str(free.getsockname()[1])
    def as_rank(rank):
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": meet}
        def troubled(batch, ids):
            if trouble and rank == 1 and int(ids[0]) // 4 >= 12:
                if trouble == "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise ValueError("a bad shard")
            return step(batch, ids)
        scan(folder / "into", folder / f"out{rank}", "torchrun", troubled)
    folder.mkdir()
    ranks = [forked(lambda: as_rank(rank), folder / f"said{rank}") for rank in range(world)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks]
    (folder / "codes").write_text(" ".join(map(str, codes)))

def killed(folder, times):
    chance, into = random.Random(0), folder / "into"
    def slow(batch, ids):
        time.sleep(0.005)
        return step(batch, ids)
    for _ in range(times):
        before = {path.name: path.stat().st_mtime_ns for path in into.glob("*.safetensors")}
        child = forked(lambda: scan(into, folder / "out", step=slow), folder / "said")
        while len(list(into.glob("*.safetensors"))) <= len(before):
            time.sleep(0.001)
        time.sleep(chance.random() / 50)
        os.kill(child, signal.SIGKILL)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(list(into.glob("*.safetensors"))))
        assert all((into / name).stat().st_mtime_ns == written for name, written in before.items()), "done again"
    scan(into, folder / "out")

if __name__ == "__main__":
    here = Path(sys.argv[1])
    exec(sys.argv[2])
"""


def run(folder: Path, what: str) -> str:
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(folder / "script.py"), str(folder), what]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a pass was done by this many ranks, or by two of which one got into trouble."""
    folder = tmp_path_factory.mktemp("ran")
    fleets = "; ".join(f"fleet({world}, here / '{world}')" for world in (1, 2, 3))
    troubled = "; ".join(f"fleet(2, here / '{trouble}', '{trouble}')" for trouble in ("fail", "die"))
    run(folder, f"scan(here / 'into', here / 'out'); {fleets}; {troubled}")
    return folder


@pytest.fixture(scope="module")
def whole(ran: Path) -> dict[str, Tensor]:
    return load_file(ran / "out")


def assert_same_bits(seen: dict[str, Tensor], whole: dict[str, Tensor]) -> None:
    assert seen.keys() == whole.keys()
    for name, values in whole.items():
        torch.testing.assert_close(seen[name], values, rtol=0, atol=0)


# torchrun


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_give_the_bits_of_one_process_and_all_of_them_get_the_result(
    world: int, ran: Path, whole: dict[str, Tensor]
):
    folder = ran / str(world)
    assert (folder / "codes").read_text().split() == ["0"] * world
    for rank in range(world):
        assert_same_bits(load_file(folder / f"out{rank}"), whole)
    assert len(list((folder / "into").iterdir())) == 25


@pytest.mark.slow
def test_torchrun_itself_starts_it(whole: dict[str, Tensor], tmp_path: Path):
    (tmp_path / "script.py").write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    what = "scan(here / 'into', here / f'out{os.environ[\"RANK\"]}', 'torchrun')"
    done = subprocess.run(
        [*launch, str(tmp_path / "script.py"), str(tmp_path), what], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        assert_same_bits(load_file(tmp_path / f"out{rank}"), whole)


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["fail", "die"])
def test_a_rank_in_trouble_does_not_leave_the_other_waiting(
    trouble: str, ran: Path, whole: dict[str, Tensor], tmp_path: Path
):
    folder = ran / trouble
    codes, said = (folder / "codes").read_text().split(), (folder / "said0").read_text()
    assert codes == ["1", "1" if trouble == "fail" else str(-signal.SIGKILL)]
    assert "errors.Interrupted: " in said
    assert "Run the pass again" in said
    if trouble == "fail":
        assert "rank 1 failed with ValueError: a bad shard" in said
        assert "ValueError: a bad shard" in (folder / "said1").read_text()
    assert len(list((folder / "into").glob("*.safetensors"))) == 12 + 6  # of rank 0, and of rank 1 before its trouble
    run(tmp_path, f"scan('{folder / 'into'}', here / 'out')")
    assert_same_bits(load_file(tmp_path / "out"), whole)


def test_without_torchrun_it_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(BadInput, match=r"not started by torchrun: RANK is not set. Type: torchrun --nproc"):
        sweep(means, PHOTOS, Moments(), engine=torchrun_engine(), into=tmp_path)


# Ray


@pytest.mark.slow
def test_ray_gives_the_bits_of_one_process_and_replaces_a_worker_that_dies(
    whole: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ray = pytest.importorskip("ray")
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        monkeypatch.setenv(name, "0")
    script: dict[str, Any] = {"__name__": "script"}
    exec(SCRIPT, script)
    lock, seen = threading.Lock(), list[tuple[int, int]]()

    def mortal(batch: Tensor, ids: Tensor) -> dict[str, tuple[Tensor, ...]]:
        if 40 in ids and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if 60 in ids and (tmp_path / "cursed").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if 80 in ids and (tmp_path / "bad").exists():
            raise BadInput("a bad image.", "Look at it.")
        return script["step"](batch, ids)

    def progress(*at: int) -> None:
        with lock:  # cannot be pickled, and need not be
            seen.append(at)

    def scan(into: str, workers: int = 1) -> dict[str, Tensor]:
        sizes: dict[str, Any] = {"batch_size": 2, "shard_size": 4, "into": tmp_path / into, "progress": progress}
        engine = ray_engine(workers, threads=1, store_bytes=2**27)
        return script["states"](sweep(mortal, script["PHOTOS"], script["stats"](), engine=engine, **sizes))

    assert_same_bits(scan("first", workers=2), whole)
    assert (tmp_path / "died").exists()
    assert seen == [(4 * done, 96) for done in range(1, 25)]
    assert not ray.is_initialized()

    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=2**27, log_to_driver=False, logging_level="ERROR")
    try:
        (tmp_path / "cursed").touch()
        with pytest.raises(Interrupted, match=r"2 workers died over shard 15 .*Run the pass again"):
            scan("second")
        (tmp_path / "cursed").unlink()
        (tmp_path / "bad").touch()
        with pytest.raises(BadInput, match=r"a bad image. Look at it."):
            scan("second")
        assert ray.is_initialized()  # it was not ours to stop
    finally:
        ray.shutdown()


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackage, match=r"needs Ray.*pip install 'glasshouse\[ray\]'"):
        ray_engine(2)


def test_a_ray_with_known_holes_is_refused(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(engines, "version", lambda name: "2.9.3")
    with pytest.raises(MissingPackage, match=r"Ray 2.9.3 is older than 2.54"):
        ray_engine(2)


# Any engine

N = 64
PHOTOS = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))


def means(batch: Tensor, ids: Tensor) -> tuple[Tensor]:
    return (batch,)


def test_engines_have_names():
    assert engine_named("serial", 7) is serial
    with pytest.raises(NotFound, match="no engine 'dask' here"):
        getattr(engine_named, "__wrapped__", engine_named)("dask")
    with pytest.raises(BadInput, match="workers=0"):
        ray_engine(0)


def test_engines_with_several_processes_need_a_folder(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(BadInput, match=r"processes of torchrun meet in a folder. Pass into="):
        sweep(means, PHOTOS, Moments(), engine=torchrun_engine())
    monkeypatch.setattr(engines, "_import_ray", lambda: None)
    with pytest.raises(BadInput, match="processes of Ray meet in a folder"):
        sweep(means, PHOTOS, Moments(), engine=ray_engine(2))


# Killed


@pytest.mark.slow
def test_a_pass_killed_ten_times_at_random_moments_ends_with_the_same_bits(whole: dict[str, Tensor], tmp_path: Path):
    lines = run(tmp_path, "killed(here, 10)").splitlines()  # which looks that nothing finished is done again
    codes, finished = zip(*(map(int, line.split()) for line in lines), strict=True)
    assert codes == (-signal.SIGKILL,) * 10
    assert list(finished) == sorted(set(finished))
    assert 10 <= finished[-1] < 24
    assert_same_bits(load_file(tmp_path / "out"), whole)


# Partial results that are not what they were


def harmed(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "empty":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(content[:-10])
    elif how == "a bit":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif how == "a header":
        path.write_bytes(b"\xff" * 8 + content[8:])
    elif how == "values":
        save_file({name: x + 1 for name, x in load_file(path).items()}, path)
    elif how == "garbage":
        path.write_bytes(random.Random(0).randbytes(len(content)))
    elif how == "skipped items":
        path.write_bytes(content.replace(b'skipped\\": {}', b'skipped\\": []'))


@pytest.mark.parametrize("how", ["empty", "truncated", "a bit", "a header", "values", "garbage", "skipped items"])
def test_a_partial_that_was_tampered_with_is_named_and_not_counted(how: str, tmp_path: Path):
    sweep(means, PHOTOS, Moments(), shard_size=16, into=tmp_path)
    path = tmp_path / "shard-000002.safetensors"
    whole = path.read_bytes()
    harmed(path, how)
    assert path.read_bytes() != whole
    with pytest.raises(BadInput, match=r"shard-000002.safetensors' is damaged: .*Delete it and run the pass again"):
        sweep(means, PHOTOS, Moments(), shard_size=16, into=tmp_path)
    path.unlink()
    sweep(means, PHOTOS, Moments(), shard_size=16, into=tmp_path)
    assert path.read_bytes() == whole  # to the byte


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00", "[" * 10_000])
def test_a_folder_whose_description_is_damaged_is_refused(content: str, tmp_path: Path):
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(BadInput, match=r"sweep.json' is damaged.*Delete its folder"):
        sweep(means, PHOTOS, Moments(), into=tmp_path)


def test_a_shard_under_another_number_is_not_counted_twice(tmp_path: Path):
    sweep(means, PHOTOS, Moments(), shard_size=16, into=tmp_path)
    (tmp_path / "shard-000002.safetensors").write_bytes((tmp_path / "shard-000001.safetensors").read_bytes())
    with pytest.raises(BadInput, match="is shard 1 of another pass"):
        sweep(means, PHOTOS, Moments(), shard_size=16, into=tmp_path)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()], ids=["cuda", "cpu"])
def test_where_memory_runs_out_the_batch_stays_as_it_was_and_that_is_said(error: Exception, tmp_path: Path):
    sizes: list[int] = []

    def large(batch: Tensor, ids: Tensor) -> tuple[Tensor]:
        sizes.append(len(batch))
        if 40 in ids:
            raise error
        return (batch,)

    with pytest.raises(OutOfMemory, match=r"a batch of 8 does not fit into memory. Pass batch_size=4"):
        sweep(large, PHOTOS, Moments(), batch_size=8, shard_size=16, into=tmp_path)
    assert set(sizes) == {8}
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
