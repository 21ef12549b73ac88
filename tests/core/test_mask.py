"""Masks: blending, cells, sums and ranks against plain loops."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glasshouse.core import BadInput, generator
from glasshouse.core.mask import blend, cell_sums, cells, ranks


def test_blending_keeps_the_image_at_one_and_gives_the_baseline_at_zero():
    images, baseline = torch.randn(2, 3, 4, 5) * 1e4, torch.randn(3, 1, 1)
    keep = (torch.rand(2, 4, 5) > 0.5).float()
    result = blend(images, keep, baseline)
    expected = torch.where(keep[:, None].bool(), images, baseline.expand_as(images))
    torch.testing.assert_close(result, expected, rtol=0, atol=0)
    torch.testing.assert_close(blend(images, keep.bool(), baseline), expected, rtol=0, atol=0)
    half = blend(images, torch.full((2, 4, 5), 0.25), baseline)
    torch.testing.assert_close(half, 0.25 * images + 0.75 * baseline, rtol=1e-5, atol=1e-2)


@given(st.integers(1, 20), st.integers(1, 20), st.data())
def test_cells_are_rectangles_of_nearly_equal_size_in_reading_order(h, w, data):
    grid = data.draw(st.tuples(st.integers(1, h), st.integers(1, w)))
    labels = cells((h, w), grid)
    assert labels.shape == (h, w)
    assert labels.unique().tolist() == list(range(grid[0] * grid[1]))
    for label in range(grid[0] * grid[1]):
        inside = labels == label
        rows, cols = inside.any(1).nonzero(), inside.any(0).nonzero()
        assert inside.sum() == len(rows) * len(cols)
        assert h // grid[0] <= len(rows) <= -(-h // grid[0])
        assert w // grid[1] <= len(cols) <= -(-w // grid[1])
    assert (labels.diff(dim=0) >= 0).all()
    assert (labels.diff(dim=1) >= 0).all()


@pytest.mark.parametrize("grid", [(0, 1), (1, 0), (5, 1), (1, 7)])
def test_more_cells_than_pixels_are_an_error(grid):
    with pytest.raises(BadInput, match="cannot cut 4×6 pixels"):
        cells((4, 6), grid)


def test_cell_sums_add_up_each_cell():
    values, labels = torch.randn(2, 6, 7), cells((6, 7), (2, 3))
    sums = cell_sums(values, labels)
    for n in range(2):
        for label in range(6):
            torch.testing.assert_close(sums[n, label], values[n][labels == label].sum())
    torch.testing.assert_close(sums.sum(1), values.sum((1, 2)))


def test_ranks_are_places_in_descending_order():
    values = torch.tensor([[3.0, 1.0, 2.0], [0.0, -1.0, 5.0]])
    assert ranks(values, generator(0)).tolist() == [[0, 2, 1], [1, 2, 0]]


def test_ties_are_broken_at_random_and_the_same_for_one_seed():
    values = torch.zeros(1, 6)
    seen = {tuple(ranks(values, generator(seed))[0].tolist()) for seed in range(20)}
    assert len(seen) > 15
    assert all(sorted(places) == list(range(6)) for places in seen)
    assert torch.equal(ranks(values, generator(4)), ranks(values, generator(4)))


def test_a_generator_passes_through_and_a_seed_starts_afresh():
    own = torch.Generator().manual_seed(3)
    assert generator(own) is own
    assert torch.equal(torch.rand(3, generator=generator(7)), torch.rand(3, generator=generator(7)))
    with pytest.raises(BadInput, match="seed -1"):
        generator(-1)


def test_drawing_leaves_the_global_generator_alone():
    state = torch.random.get_rng_state()
    ranks(torch.zeros(1, 6), generator(0))
    assert torch.equal(torch.random.get_rng_state(), state)
