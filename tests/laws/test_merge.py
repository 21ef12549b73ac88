"""The law of every statistic: however the data is split, ordered and merged, it reads the same.

A new statistic is one line in `CASES`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from glasshouse.core import stats
from glasshouse.core.stats import (
    Covariance,
    Histogram,
    Moments,
    Overlap,
    Quantiles,
    Sample,
    Stat,
    TopK,
    TopMaps,
    UpperTail,
)
from glasshouse.core.stats.protocol import Counted

Arguments = tuple[Tensor, ...]


def rows(values: Tensor) -> Arguments:
    return (values,)


def scored(values: Tensor) -> Arguments:
    ids = torch.arange(len(values)) * 7 % 1009
    return values, ids, torch.arange(values.numel()).view_as(values) * 5 % 3


def mapped(values: Tensor) -> Arguments:
    return *scored(values), torch.stack([values, values.roll(1, 0)], 2)[:, :, None]


def masks(values: Tensor) -> Arguments:
    pixels = torch.stack([values, values.roll(1, 1), -values], 2)
    return pixels > 0.5, pixels[:, :2] < 0.25


def same_bits(seen: Any, whole: Any, data: Tensor) -> None:
    seen, whole = seen.state(), whole.state()
    assert seen.keys() == whole.keys()
    for name in seen:
        torch.testing.assert_close(seen[name], whole[name], rtol=0, atol=0)


def same_to_12_digits(seen: Any, whole: Any, data: Tensor) -> None:
    seen, whole = seen.state(), whole.state()
    scale = {
        "count": 0,
        "mean": 1e-12 * data.abs().amax(),
        "default": 1e-12 * len(data) * data.square().amax(),
    }
    for name in seen:
        atol = float(scale.get(name, scale["default"]))
        torch.testing.assert_close(seen[name], whole[name], rtol=0, atol=atol)


def same_ranks(seen: Any, whole: Any, data: Tensor) -> None:
    assert seen.count == len(data)
    for level in (0.0, 0.05, 0.3, 0.5, 0.8, 0.99, 1.0):
        value, allowed = seen.at(level), seen.rank_error * len(data) + 1
        assert ((data < value).sum(0) <= level * len(data) + allowed).all()
        assert ((data <= value).sum(0) >= level * len(data) - allowed).all()
    torch.testing.assert_close(seen.at(0.0), data.amin(0), rtol=0, atol=0)
    torch.testing.assert_close(seen.at(1.0), data.amax(0), rtol=0, atol=0)


@dataclass(frozen=True)
class Case:
    empty: Stat
    batch: Callable[[Tensor], Arguments]
    same: Callable[[Any, Any, Tensor], None]


CASES = {
    "moments": Case(Moments(), rows, same_to_12_digits),
    "covariance": Case(Covariance(), rows, same_to_12_digits),
    "quantiles": Case(Quantiles(width=32), rows, same_ranks),
    "upper tail": Case(UpperTail(level=0.9, n_max=120), rows, same_bits),
    "top k": Case(TopK(n_kept=5), scored, same_bits),
    "bottom k": Case(TopK(n_kept=5, largest=False), scored, same_bits),
    "top k of few": Case(TopK(n_kept=1000), scored, same_bits),
    "top k with maps": Case(TopMaps(n_kept=5), mapped, same_bits),
    "sample": Case(Sample(n_kept=9, seed=3), scored, same_bits),
    "histogram": Case(Histogram(lo=-1.0, hi=1.5, n_bins=10), rows, same_bits),
    "overlap": Case(Overlap(), masks, same_bits),
}
every_statistic = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@st.composite
def columns(draw: st.DrawFn, most: int = 120) -> Tensor:
    """Up to `most` rows of 1 to 4 units, with ties and exact zeros, in float32."""
    size = draw(st.integers(1, most)), draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    values = torch.randn(size, generator=generator) * draw(st.sampled_from([0.5, 1, 30])) + draw(
        st.sampled_from([-2.0, 0.0, 0.3])
    )
    return {"smooth": values, "ties": values.round(), "relu": values.relu()}[
        draw(st.sampled_from(["smooth", "ties", "relu"]))
    ]


def count(case: Case, data: Arguments, places: Tensor, batch_size: int) -> Any:
    stat = case.empty.fresh()
    for batch in places.split(batch_size):
        stat.update(*(column[batch] for column in data))
    return stat


@every_statistic
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_split_in_any_order_merged_in_any_order_equals_one_update(case: Case, data: st.DataObject):
    values = data.draw(columns())
    arguments, n = case.batch(values), len(values)
    owner = torch.tensor(data.draw(st.lists(st.integers(0, 5), min_size=n, max_size=n)))
    order = torch.tensor(data.draw(st.permutations(range(n))))
    batch_size = data.draw(st.integers(1, 50))
    parts = [count(case, arguments, order[owner[order] == part], batch_size) for part in range(6)]
    while len(parts) > 1:
        taken = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        parts[data.draw(st.integers(0, len(parts) - 1))].merge(taken)
    case.same(parts[0], count(case, arguments, torch.arange(n), n), values)


@every_statistic
@settings(deadline=None, max_examples=15)
@given(values=columns())
def test_merging_an_empty_one_on_either_side_changes_nothing(case: Case, values: Tensor):
    stat = count(case, case.batch(values), torch.arange(len(values)), 10)
    left, right = case.empty.fresh(), case.empty.fresh()
    left.merge(stat)
    right.merge(stat)
    right.merge(case.empty.fresh())
    for merged in (left, right):
        same_bits(merged, stat, values)


@every_statistic
@settings(deadline=None, max_examples=15)
@given(values=columns())
def test_loading_what_was_saved_changes_nothing_now_or_later(case: Case, values: Tensor):
    arguments = case.batch(values)
    stat = count(case, arguments, torch.arange(len(values)), 10)
    state = stat.state()
    assert all(isinstance(x, Tensor) and x.device.type == "cpu" for x in state.values())
    loaded = case.empty.fresh()
    loaded.load(state)
    same_bits(loaded, stat, values)
    before = {name: x.clone() for name, x in state.items()}
    for one in (stat, loaded):
        one.update(*arguments)
    same_bits(loaded, stat, values)
    for name, x in before.items():
        torch.testing.assert_close(state[name], x, rtol=0, atol=0)


@every_statistic
def test_an_empty_one_can_be_saved_and_loaded(case: Case):
    stat = case.empty.fresh()
    stat.load(case.empty.state())
    same_bits(stat, case.empty, torch.zeros(0))


@every_statistic
def test_a_saved_state_and_a_merged_part_are_not_touched_by_later_updates(case: Case):
    arguments = case.batch(torch.randn(30, 3, generator=torch.Generator().manual_seed(0)))
    later = case.batch(torch.tensor([50.0, -50.0]).repeat(5)[:, None].expand(10, 3))
    part = count(case, arguments, torch.arange(30), 10)
    whole, saved = case.empty.fresh(), part.state()
    whole.merge(part)
    whole.update(*later)
    again = part.state()
    part.update(*later)
    for name in saved:
        torch.testing.assert_close(saved[name], again[name], rtol=0, atol=0)
    assert any(x.shape != again[name].shape or (x != again[name]).any() for name, x in part.state().items())


def test_every_statistic_of_the_package_is_in_the_table():
    public = {x for x in vars(stats).values() if isinstance(x, type) and issubclass(x, Counted)}
    assert public == {type(case.empty) for case in CASES.values()}
    assert all(isinstance(case.empty, Stat) for case in CASES.values())
