"""One pass, the same bits: whoever works, in whatever order, killed or not."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from glasshouse.core.errors import BadInput, Interrupted
from glasshouse.core.shards import Engine, serial, sweep
from glasshouse.core.stats import Covariance, Moments, Quantiles, Sample, TopK

N = 100
PHOTOS = torch.randn(N, 2, 4, 4, generator=torch.Generator().manual_seed(0))
SMALL: dict[str, Any] = {"batch_size": 3, "shard_size": 16}


def observe(batch: Tensor, ids: Tensor) -> dict[str, tuple[Tensor, ...]]:
    units = torch.cat([batch, batch.roll(1, 2) * batch]).unflatten(0, (2, -1)).transpose(0, 1).flatten(1, 2)
    best = units.flatten(2).max(2)
    scored = (best.values, ids, best.indices)
    return {"top": scored, "sample": scored, "sketch": (units,), "moments": (best.values,)}


def several() -> dict[str, Any]:
    return {"top": TopK(5), "sample": Sample(7), "sketch": Quantiles(width=8), "moments": Moments()}


def means(batch: Tensor, ids: Tensor) -> tuple[Tensor]:
    return (batch.mean((2, 3)),)


def assert_same_bits(seen: dict[str, Any], whole: dict[str, Any]) -> None:
    assert seen.keys() == whole.keys()
    for name in seen:
        one, other = seen[name].state(), whole[name].state()
        assert one.keys() == other.keys()
        for field in one:
            torch.testing.assert_close(one[field], other[field], rtol=0, atol=0)


def shuffled(work: Callable[[int], None], shards: Sequence[int]) -> None:
    shards = list(shards)
    Random(5).shuffle(shards)
    serial(work, shards)


def threads(work: Callable[[int], None], shards: Sequence[int]) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, shards))


def twice(work: Callable[[int], None], shards: Sequence[int]) -> None:
    serial(work, [*shards, *shards])


@pytest.mark.parametrize("on_disk", [False, True], ids=["memory", "disk"])
@pytest.mark.parametrize("engine", [shuffled, threads, twice])
def test_any_engine_gives_the_bits_of_one_worker(engine: Engine, on_disk: bool, tmp_path: Path):
    whole = sweep(observe, PHOTOS, several(), **SMALL)
    seen = sweep(observe, PHOTOS, several(), engine=engine, into=tmp_path if on_disk else None, **SMALL)
    assert_same_bits(seen, whole)


def test_one_pass_equals_counting_everything_at_once():
    whole = several()
    for name, arguments in observe(PHOTOS, torch.arange(N)).items():
        whole[name].update(*arguments)
    seen = sweep(observe, PHOTOS, several(), **SMALL)
    for name in ("top", "sample"):
        assert_same_bits({name: seen[name]}, {name: whole[name]})
    torch.testing.assert_close(seen["moments"].variance, whole["moments"].variance, rtol=1e-12, atol=0)
    assert seen["sketch"].count == whole["sketch"].count


def test_the_statistic_handed_in_is_left_alone_and_a_new_one_comes_back():
    empty = Moments()
    seen = sweep(means, PHOTOS, empty, **SMALL)
    assert (empty.count, seen.count) == (0, N)


def test_items_may_be_tuples_or_dictionaries():
    class Labelled:
        def __len__(self) -> int:
            return N

        def __getitem__(self, index: int, /) -> tuple[Tensor, dict[str, int]]:
            return PHOTOS[index], {"label": index % 3}

    def labels(batch: Any, ids: Tensor) -> tuple[Tensor]:
        images, facts = batch
        assert images.shape[1:] == (2, 4, 4)
        assert facts["label"].tolist() == (ids % 3).tolist()
        return (facts["label"].double()[:, None],)

    assert float(sweep(labels, Labelled(), Moments(), **SMALL).mean) == sum(i % 3 for i in range(N)) / N


def test_progress_rises_to_the_number_of_items_and_stays(tmp_path: Path):
    seen: list[tuple[int, int]] = []
    for engine in (serial, threads, twice):
        seen.clear()
        sweep(means, PHOTOS, Moments(), engine=engine, progress=lambda *at: seen.append(at), **SMALL)
        done = [at[0] for at in seen]
        assert done == sorted(done)
        assert seen[-1] == (N, N)
        assert len(seen) >= N // 3
    for _ in range(2):  # the second time there is nothing left to do
        seen.clear()
        sweep(means, PHOTOS, Moments(), into=tmp_path, progress=lambda *at: seen.append(at), **SMALL)
        assert seen[-1] == (N, N)
    assert seen == [(N, N)]


# Killed and resumed

KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_shards import PHOTOS, SMALL, observe, several
from glasshouse.core.shards import sweep

calls = 0
def step(batch, ids):
    global calls
    calls += 1
    if calls == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    return observe(batch, ids)

sweep(step, PHOTOS, several(), into=Path({into!r}), **SMALL)
"""


def test_a_killed_pass_goes_on_with_the_shards_that_are_left(tmp_path: Path):
    script = KILLED.format(tests=str(Path(__file__).parent), into=str(tmp_path))
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    finished = sorted(tmp_path.glob("*.safetensors"))
    times = [path.stat().st_mtime_ns for path in finished]
    assert len(finished) == 3  # of 7; a shard of 16 has 6 batches, the 20th belongs to the fourth

    rows: list[int] = []

    def step(batch: Tensor, ids: Tensor) -> dict[str, tuple[Tensor, ...]]:
        rows.extend(ids.tolist())
        return observe(batch, ids)

    seen = sweep(step, PHOTOS, several(), into=tmp_path, **SMALL)
    assert rows == list(range(48, N))
    assert [path.stat().st_mtime_ns for path in finished] == times
    assert_same_bits(seen, sweep(observe, PHOTOS, several(), **SMALL))
    again = sweep(lambda *_: pytest.fail("nothing is left to do"), PHOTOS, several(), into=tmp_path, **SMALL)
    assert_same_bits(again, seen)


def test_control_c_keeps_the_finished_shards_and_no_half_one(tmp_path: Path):
    def step(batch: Tensor, ids: Tensor) -> tuple[Tensor]:
        if 40 in ids:
            raise KeyboardInterrupt
        return means(batch, ids)

    with pytest.raises(KeyboardInterrupt):
        sweep(step, PHOTOS, Moments(), into=tmp_path, **SMALL)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["shard-000000.safetensors", "shard-000001.safetensors", "sweep.json"]


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(fd: int) -> None:
        raise OSError("disk full")

    sweep(means, PHOTOS[:16], Moments(), into=tmp_path, **SMALL)
    (tmp_path / "shard-000000.safetensors").unlink()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        sweep(means, PHOTOS[:16], Moments(), into=tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]


def test_partials_are_plain_tensors_that_anyone_can_read(tmp_path: Path):
    seen = sweep(observe, PHOTOS[:16], several(), into=tmp_path, **SMALL)
    tensors = load_file(tmp_path / "shard-000000.safetensors")
    torch.testing.assert_close(tensors["top/ids"], seen["top"].ids)
    assert json.loads((tmp_path / "sweep.json").read_text())["n_items"] == 16


def test_a_damaged_partial_says_which_file_to_delete(tmp_path: Path):
    sweep(means, PHOTOS, Moments(), into=tmp_path, **SMALL)
    (tmp_path / "shard-000002.safetensors").write_bytes(b"half of it")
    with pytest.raises(BadInput, match=r"shard-000002.safetensors' is damaged.*Delete it"):
        sweep(means, PHOTOS, Moments(), into=tmp_path, **SMALL)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": "another layer"}, "key was 'a layer' there, and is 'another layer' here"),
        ({"batch_size": 4}, "batch_size was 3 there, and is 4 here"),
        ({"shard_size": 8}, "shard_size was 16 there"),
        ({"data": PHOTOS[:90]}, "n_items was 100 there, and is 90 here"),
        ({"stat": TopK(6)}, "stat was .*'n_kept': 5.* there, and is .*'n_kept': 6.* here"),
        ({"stat": Covariance()}, "stat was .*'TopK'.* there, and is .*'Covariance'.* here"),
        ({"stat": {"top": TopK(5)}}, "stat top was None there"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_a_folder_of_another_pass_says_what_differs(change: dict[str, Any], said: str, tmp_path: Path):
    first = {"data": PHOTOS, "stat": TopK(5), "key": "a layer", **SMALL, "into": tmp_path}
    sweep(lambda batch, ids: observe(batch, ids)["top"], **first)
    with pytest.raises(BadInput, match=said):
        sweep(lambda batch, ids: observe(batch, ids)["top"], **first | change)


# Items that cannot be read


class Album:
    """Photographs with names, some of them broken."""

    def __init__(self, broken: Sequence[int] = ()):
        self.broken, self.names = broken, [f"photos/{i:03d}.jpg" for i in range(N)]

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int, /) -> Tensor:
        if index in self.broken:
            raise OSError("truncated file")
        return PHOTOS[index]

    def ids(self) -> list[str]:
        return self.names


def test_an_item_that_cannot_be_read_is_named():
    with pytest.raises(BadInput, match=r"item 'photos/041.jpg' cannot be read: OSError: truncated file"):
        sweep(means, Album(broken=[41]), Moments(), **SMALL)


def test_skipped_items_are_left_out_and_reported_also_after_resuming(tmp_path: Path):
    left = torch.tensor([i for i in range(N) if i not in (5, 41)])
    skipped: list[tuple[str, str]] = []

    def on_skip(name: str, reason: str) -> None:
        skipped.append((name, reason))

    for _ in range(2):
        skipped.clear()
        seen = sweep(means, Album(broken=[41, 5]), Moments(), into=tmp_path, on_skip=on_skip, **SMALL)
        assert skipped == [(f"photos/{i:03d}.jpg", "OSError: truncated file") for i in (5, 41)]
        assert seen.count == N - 2
        torch.testing.assert_close(seen.mean, PHOTOS[left].mean((2, 3)).double().mean(0))
    with pytest.raises(BadInput, match=r"2 of 100 items cannot be read; the first is 'photos/005.jpg'"):
        sweep(means, Album(broken=[41, 5]), Moments(), into=tmp_path, **SMALL)


def test_skipping_everything_is_an_error():
    with pytest.raises(BadInput, match="100 of 100 items cannot be read"):
        sweep(means, Album(broken=range(N)), Moments(), on_skip=lambda name, reason: None, **SMALL)


def test_a_folder_whose_photographs_were_renamed_is_another_pass(tmp_path: Path):
    album = Album()
    sweep(means, album, Moments(), into=tmp_path, **SMALL)
    album.names[3] = "photos/new.jpg"
    with pytest.raises(BadInput, match="ids was"):
        sweep(means, album, Moments(), into=tmp_path, **SMALL)


# Mistakes


def test_an_empty_dataset_is_an_error():
    with pytest.raises(BadInput, match="the dataset is empty"):
        sweep(means, PHOTOS[:0], Moments())


def test_images_of_different_sizes_are_an_error_that_names_them():
    with pytest.raises(BadInput, match=r"items '0' to '1' do not stack .* batch_size=1"):
        sweep(means, [torch.zeros(2, 4, 4), torch.zeros(2, 5, 5)], Moments())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (torch.zeros(3, 2), "step gave a Tensor where a tuple"),
        ({"mean": (torch.zeros(3, 2),)}, r"step gave \['mean'\] for the statistics"),
    ],
)
def test_a_step_that_gives_something_else_is_an_error(answer: Any, said: str):
    with pytest.raises(BadInput, match=said):
        sweep(lambda batch, ids: answer, PHOTOS, Moments(), **SMALL)


@pytest.mark.parametrize("on_disk", [False, True], ids=["memory", "disk"])
def test_an_engine_that_forgets_a_shard_is_an_error(on_disk: bool, tmp_path: Path):
    def lazy(work: Callable[[int], None], shards: Sequence[int]) -> None:
        serial(work, shards[:-1])

    with pytest.raises(Interrupted, match="the engine came back without"):
        sweep(means, PHOTOS, Moments(), engine=lazy, into=tmp_path if on_disk else None, **SMALL)
