"""Long work in parts: every row once and in order, whatever fits into memory, and one voice that reports progress."""

import pytest
import torch

from glasshouse.core import OutOfMemory, in_chunks, steps, watching
from glasshouse.core.chunks import is_out_of_memory, recording


def small_memory(limit: int):
    """Work that needs memory for each row, and has it for `limit` rows."""

    def run(rows: torch.Tensor) -> list[int]:
        if len(rows) > limit:
            raise torch.OutOfMemoryError("out of memory")
        return rows.tolist()

    return run


@pytest.mark.parametrize("chunk", [1, 3, 10, 99])
def test_every_row_comes_once_and_in_order(chunk):
    parts = list(in_chunks(lambda rows: rows * 2, 10, chunk))
    assert torch.cat([rows for rows, _ in parts]).tolist() == list(range(10))
    assert torch.cat([double for _, double in parts]).tolist() == list(range(0, 20, 2))
    assert max(len(rows) for rows, _ in parts) == min(chunk, 10)


def test_nothing_to_do_is_done_at_once():
    assert list(in_chunks(lambda rows: rows, 0, 4)) == []
    assert list(steps(0)) == []


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 16])
def test_a_part_that_does_not_fit_is_halved_and_nothing_is_lost(limit):
    with watching() as watch:
        parts = [found for _, found in in_chunks(small_memory(limit), 37, 16)]
    assert [row for part in parts for row in part] == list(range(37))
    assert watch.chunk is None if limit == 16 else watch.chunk <= limit < 2 * watch.chunk + 1


def test_where_not_even_one_row_fits_the_error_says_so():
    with pytest.raises(OutOfMemory, match="not even one image fits into the memory of cpu"):
        list(in_chunks(small_memory(0), 4, 2))


def test_other_errors_are_not_taken_for_memory():
    def run(rows: torch.Tensor) -> None:
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        list(in_chunks(run, 4, 2))


def test_what_the_cpu_says_when_memory_runs_out_is_understood():
    with pytest.raises(RuntimeError) as found:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(found.value)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shape"))


def test_progress_is_told_after_each_part_and_reaches_the_total():
    told: list[tuple[int, int]] = []
    with watching(lambda done, total: told.append((done, total))):
        list(in_chunks(lambda rows: rows, 10, 4))
    assert told == [(4, 10), (8, 10), (10, 10)]
    told.clear()
    with watching(lambda done, total: told.append((done, total))):
        assert list(steps(3)) == [0, 1, 2]
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_only_the_outermost_of_several_loops_speaks():
    told: list[tuple[int, int]] = []
    with watching(lambda done, total: told.append((done, total))):
        for _ in steps(2):
            list(in_chunks(lambda rows: rows, 100, 7))
        list(steps(1))
    assert told == [(1, 2), (2, 2)]


def test_a_loop_of_one_part_lets_the_loops_in_it_speak():
    told: list[tuple[int, int]] = []
    with watching(lambda done, total: told.append((done, total))):
        list(in_chunks(lambda rows: list(steps(2)), 8, 8))
    assert told == [(1, 2), (2, 2)]


def test_what_is_recorded_inside_is_known_outside_and_progress_goes_through():
    told: list[tuple[int, int]] = []
    with watching(lambda done, total: told.append((done, total))) as outer:
        with recording() as inner:
            list(in_chunks(small_memory(2), 4, 4))
        with recording() as untouched:
            pass
    assert inner.chunk == outer.chunk == 2
    assert untouched.chunk is None
    assert not told, "a loop that was planned as one part is silent"


def test_a_loop_that_is_left_early_lets_the_next_one_speak():
    told: list[tuple[int, int]] = []
    with watching(lambda done, total: told.append((done, total))):
        loop = steps(5)
        next(loop)
        loop.close()
        list(steps(2))
    assert told == [(1, 2), (2, 2)]


def test_an_exception_of_the_listener_stops_the_work():
    ran = list[int]()

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), watching(stop):
        list(in_chunks(lambda rows: ran.extend(rows.tolist()), 10, 2))
    assert ran == [0, 1, 2, 3]


def test_nobody_is_told_outside_of_a_watch():
    told: list[tuple[int, int]] = []
    with watching(lambda done, total: told.append((done, total))):
        pass
    list(steps(3))
    assert told == []
