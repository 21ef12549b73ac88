"""Boxes: which positions a window carries a change to, and how boxes are cut out and put back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glasshouse.core.boxes import Box, Span, Taps, windows

taps = st.builds(Taps, st.integers(1, 5), st.integers(1, 4), st.integers(0, 3), st.integers(1, 3))


def met(first: int, size: int, t: Taps, out: int) -> list[int]:
    """Outputs whose window reads any of the positions, by trying all of them."""
    return [
        place
        for place in range(out)
        if any(first <= place * t.stride - t.before + tap * t.dilation < first + size for tap in range(t.kernel))
    ]


@given(taps, st.integers(1, 20), st.data())
def test_a_span_goes_through_a_window_to_all_that_reads_it(t, n, data):
    out = (n + 2 * t.before - t.reach - 1) // t.stride + 1
    if out < 1:
        return
    size = data.draw(st.integers(1, n))
    first = data.draw(st.lists(st.integers(0, n - size), min_size=1, max_size=3))
    span = Span(torch.tensor(first), size).through(t, out)
    wanted = [met(start, size, t, out) for start in first]
    for start, found in zip(span.first.tolist(), wanted, strict=True):
        assert 0 <= start <= start + span.size <= out
        assert not found or start <= found[0] <= found[-1] < start + span.size
    if t.dilation == 1:  # with gaps between its taps a window may step over the span
        assert span.size <= max(1, *(found[-1] - found[0] + 1 if found else 0 for found in wanted))
    read = span.read_by(t)
    assert int(read.first.min()) >= 0
    assert int(read.first.max()) + read.size <= max(n + 2 * t.before, (out - 1) * t.stride + t.reach + 1)


@given(st.integers(1, 12), st.data())
def test_spans_are_joined_around_both_and_stay_inside(n, data):
    a, b = (
        Span(torch.tensor([data.draw(st.integers(0, n - size)) for _ in range(3)]), size)
        for size in (data.draw(st.integers(1, n)), data.draw(st.integers(1, n)))
    )
    both = a.joined(b, n)
    for row in range(3):
        covered = set(both.positions()[row].tolist())
        assert covered >= set(a.positions()[row].tolist()) | set(b.positions()[row].tolist())
        assert covered <= set(range(n))


@pytest.mark.parametrize("axes", [(2, 3), (1, 2), (3, 1), (2, 4)])
def test_boxes_are_put_back_where_they_were(axes):
    shape = [1, 3, 3, 3, 3][: max(4, max(axes) + 1)]
    shape[axes[0]], shape[axes[1]] = 7, 9
    clean = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    rows, cols = Span(torch.tensor([0, 3, 3, 5]), 2), Span(torch.tensor([6, 0, 4, 2]), 3)
    values = torch.randn(windows(clean, rows, cols, axes).shape, generator=torch.Generator().manual_seed(1))
    whole = Box(clean, values, rows, cols, axes).whole()
    expected = clean.expand_as(whole).clone().movedim(axes, (1, 2))
    for patch, (i, j) in enumerate(zip(rows.first.tolist(), cols.first.tolist(), strict=True)):
        expected[patch, i : i + 2, j : j + 3] = values.movedim(axes, (1, 2))[patch]
    assert torch.equal(whole.movedim(axes, (1, 2)), expected)
    assert whole.stride()[1:] == clean.stride()[1:]


def test_a_box_is_read_at_another_span_with_clean_values_around_it():
    clean = torch.arange(20.0).view(1, 1, 4, 5)
    box = Box(clean, -torch.ones(2, 1, 2, 2), Span(torch.tensor([0, 2]), 2), Span(torch.tensor([0, 3]), 2), (2, 3))
    found = box.within(Span(torch.tensor([1, 1]), 2), Span(torch.tensor([1, 1]), 3))
    expected = box.whole()[:, :, 1:3, 1:4]
    assert torch.equal(found, expected)
    assert torch.equal(box.within(box.rows, box.cols), box.values)
